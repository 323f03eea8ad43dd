"""Comparing: several corpora, sweeps, bars and earlier reports."""

import json
import shutil
from pathlib import Path

import pytest

from ibkd_retrieval.evaluation.compare.plan import ComparedIndex, plan_systems
from ibkd_retrieval.evaluation.compare.report import read_comparison
from ibkd_retrieval.evaluation.compare.sweep import Sweep
from ibkd_retrieval.evaluation.report.sentence import next_steps

QUICK = ("--rounds", 1, "--no-peak-memory", "--metric", "ndcg@10", "--metric", "mrr@10")


@pytest.fixture(scope="session")
def pair(chain, tmp_path_factory):
    """The report of teacher and student."""
    folder = tmp_path_factory.mktemp("pair")
    chain.shell.must(
        *(
            "compare",
            "--index",
            f"{chain.teacher_index},name=teacher",
            "--index",
            f"{chain.student_index},name=student",
        ),
        *("--output", folder, *QUICK),
    )
    return folder / "report.json"


@pytest.fixture(scope="session")
def elsewhere(chain, teacher, tmp_path_factory):
    """Another corpus, whose documents have ids of the first one's, and its indexes by teacher and student."""
    from helpers.tiny_models import sentences

    folder = tmp_path_factory.mktemp("data") / "notes"
    (folder / "qrels").mkdir(parents=True)
    texts = sentences(40, seed=9)
    lines = [{"_id": f"d{place}", "title": "", "text": text} for place, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = [{"_id": f"q{place}", "text": texts[place]} for place in range(5)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    judged = "".join(f"q{place}\td{place}\t1\n" for place in range(5))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    indexes = {}
    for name, model in (("teacher", teacher), ("student", chain.student)):
        indexes[name] = folder.parent / f"notes-{name}"
        chain.shell.must("index", "--corpus", folder, "--model", model, "--output", indexes[name])
    return folder, indexes


def test_the_report_says_what_was_compared_and_how(pair, chain):
    report = read_comparison(pair)
    assert [system.name for system in report.systems] == ["teacher", "student"]
    assert report.command.startswith("ibkd compare --index ")
    (data,) = report.data_sets
    assert (data.name, data.documents, data.queries) == ("pages", 200, 20)
    assert data.systems["student"].index == chain.student_index.name
    assert report.systems[1].encoder.dims == 8
    assert report.systems[1].peak_memory is None


def test_indexes_of_two_corpora_are_matched_by_name_and_averaged(chain, elsewhere, pair):
    _, indexes = elsewhere
    answer = chain.shell.must(
        *("compare", "--index", f"{chain.teacher_index},name=teacher", "--index", f"{indexes['student']},name=student"),
        *("--index", f"{chain.student_index},name=student", "--index", f"{indexes['teacher']},name=teacher"),
        *("--json", *QUICK),
    )
    report = json.loads(answer.out)
    assert [data["name"] for data in report["data_sets"]] == ["pages", "notes"]
    assert [system["name"] for system in report["systems"]] == ["teacher", "student"]
    means = [data["systems"]["student"]["scores"]["mrr@10"]["mean"] for data in report["data_sets"]]
    assert report["averages"]["student"]["mrr@10"]["mean"] == pytest.approx(sum(means) / 2)
    assert means[0] == read_comparison(pair).averages["student"]["mrr@10"].mean


def test_queries_in_any_order_go_to_the_corpus_they_are_about(chain, elsewhere, beir):
    folder, indexes = elsewhere
    command = ("compare", "--json", *QUICK)
    for model, index in (("teacher", chain.teacher_index), ("student", chain.student_index)):
        command += ("--index", f"{index},name={model}", "--index", f"{indexes[model]},name={model}")
    report = json.loads(chain.shell.must(*command, "--queries", folder, "--queries", beir).out)
    sources = [(data["name"], data["query_source"]) for data in report["data_sets"]]
    assert sources == [("pages", f"{beir}:test"), ("notes", f"{folder}:test")]
    lacking = chain.shell(*command, "--queries", folder)
    assert lacking.code == 2
    assert "None of the --queries judges documents of" in lacking.err


def test_without_names_systems_are_called_by_model_and_type(chain, elsewhere):
    _, indexes = elsewhere
    answer = chain.shell(
        *("compare", "--index", chain.teacher_index, "--index", chain.student_index, "--index", indexes["teacher"]),
        *QUICK,
    )
    assert answer.code == 2
    assert "teacher-l2-d8-ibkd flat has an index of" in answer.err
    assert "none of" in answer.err


def test_a_sweep_makes_indexes_of_the_vectors_there_are_and_keeps_them(chain, tmp_path):
    command = ("compare", "--index", chain.teacher_index, "--sweep", "dims=32,8", "--sweep", "type=flat", "--json")
    report = json.loads(chain.shell.must(*command, *QUICK).out)
    assert [system["name"] for system in report["systems"]] == ["teacher flat", "teacher 8d flat"]
    assert [system["encoder"]["dims"] for system in report["systems"]] == [32, 8]
    made = chain.shell.folder / "indexes" / "pages-teacher-d8-flat"
    assert report["data_sets"][0]["systems"]["teacher 8d flat"]["index"] == made.name
    searched = json.loads(chain.shell.must("eval", "--index", made, "--metric", "ndcg@10", "--json").out)
    assert searched["ndcg@10"] == report["averages"]["teacher 8d flat"]["ndcg@10"]["mean"]
    built = (made / "index.json").stat().st_mtime_ns
    chain.shell.must(*command, *QUICK)
    assert (made / "index.json").stat().st_mtime_ns == built
    shutil.rmtree(made)


def test_what_a_sweep_makes_is_made_once_and_of_each_corpus_in_a_folder_of_its_own(
    chain, elsewhere, tmp_path, monkeypatch
):
    _, indexes = elsewhere
    monkeypatch.chdir(tmp_path)
    twin = shutil.copytree(chain.teacher_index, tmp_path / "twin")
    (corpus,) = plan_systems([ComparedIndex(chain.teacher_index), ComparedIndex(twin)], Sweep(dims=(32, 8)))
    names = [system.name for system in corpus.systems]
    assert names == [f"teacher flat ({chain.teacher_index.name})", "teacher 8d flat", "teacher flat (twin)"]
    notes = shutil.copytree(indexes["teacher"], tmp_path / chain.teacher_index.name)
    corpora = plan_systems([ComparedIndex(chain.teacher_index), ComparedIndex(notes)], Sweep(dims=(8,)))
    folders = [corpus.systems[1].folder for corpus in corpora]
    plain = Path("indexes", "pages-teacher-d8-flat")
    assert folders == [plain, Path(f"{plain}-{corpora[1].fingerprint[:8]}")]


def test_a_student_under_the_bar_ends_in_1_with_the_reason_and_the_report(chain, pair, tmp_path):
    kept = read_comparison(pair).averages["student"]["ndcg@10"].retention
    named = ("--index", f"{chain.teacher_index},name=teacher", "--index", f"{chain.student_index},name=student")
    answer = chain.shell("compare", *named, "--fail-under", "ndcg@10=9.9", "--output", tmp_path / "out", *QUICK)
    assert answer.code == 1
    assert f"ibkd: student keeps {kept:.4f}" in answer.err
    assert "of the ndcg@10 of teacher, less than the 9.9 asked for." in answer.err
    (bar,) = read_comparison(tmp_path / "out" / "report.json").bars
    assert (bar.passed, bar.system, bar.at_least) == (False, "student", 9.9)


def test_one_index_is_held_against_an_earlier_report(chain, pair):
    kept = read_comparison(pair).averages["student"]["ndcg@10"].retention
    command = ("compare", "--index", f"{chain.student_index},name=student", *QUICK, "--baseline")
    passed = chain.shell.must(*command, pair, "--fail-under", f"ndcg@10={kept * 0.999}", "--json")
    (bar,) = json.loads(passed.out)["bars"]
    assert bar["retention"] == pytest.approx(kept)
    assert bar["report"] == str(pair)
    failed = chain.shell(*command, pair, "--fail-under", f"ndcg@10={kept * 1.001}")
    assert failed.code == 1
    assert f"of the ndcg@10 of teacher in {pair}, less than" in failed.err


def test_wrong_input_is_a_sentence_before_anything_is_measured(chain, pair, elsewhere, tmp_path):
    folder, indexes = elsewhere
    teacher, student = chain.teacher_index, chain.student_index
    two = ("--index", teacher, "--index", student)
    old = tmp_path / "comparison.json"
    old.write_text('{"format_version": 1, "systems": []}')
    unjudged = folder / "queries.jsonl"
    bar = ("--fail-under", "ndcg@10=0.9")
    for said, options in (
        ("at least two indexes", ("--index", teacher)),
        ("at least two indexes", ()),
        ("'nprobe' is no setting", ("--index", f"{teacher},nprobe")),
        ("'nprobe=x' needs a whole number", ("--index", f"{teacher},nprobe=x")),
        ("'speed=3' is no setting", ("--index", f"{teacher},speed=3")),
        ("There is no index folder nowhere", ("--index", "nowhere")),
        ("Two systems on", ("--index", f"{teacher},name=a", "--index", f"{student},name=a")),
        ("is not the same system", ("--index", f"{teacher},name=a", "--index", f"{indexes['student']},name=a")),
        ("different documents", ("--index", teacher, "--index", indexes["student"])),
        ("always exact: leave out nprobe", ("--index", f"{teacher},nprobe=4", "--index", student)),
        ("give --qrels", (*two, "--queries", unjudged, "--metric", "ndcg@10")),
        ("give --qrels", (*two, "--queries", unjudged, *bar)),
        ("give judgements for each", (*two, "--qrels", folder, "--qrels", folder)),
        ("Metric 'speed' is not known", (*two, "--metric", "speed")),
        ("Metric 'speed' is not known", (*two, "--fail-under", "speed=0.9")),
        ("map@3 is not measured", (*two, "--fail-under", "map@3=0.9")),
        ("is no bar", (*two, "--fail-under", "ndcg@10")),
        ("give that too, or neither", (*two, "--baseline", pair)),
        ("format 1, which lacks", (*two, "--baseline", old, *bar)),
        ("cannot be read", (*two, "--baseline", tmp_path / "none.json", *bar)),
        ("has no system 'x'", (*two, "--baseline", f"{pair},system=x", *bar)),
        ("on those of pages", ("--index", indexes["teacher"], "--index", indexes["student"], "--baseline", pair, *bar)),
        ("has no recall@5", (*two, "--metric", "recall@5", "--baseline", pair, "--fail-under", "recall@5=0.9")),
        ("have 32 dimensions; sweep up to that", (*two, "--sweep", "dims=64")),
        ("too few for it", (*two, "--sweep", "type=ivf-pq")),
        ("is no sweep", (*two, "--sweep", "layers=2")),
        ("must be at least 1", (*two, "--rounds", 0)),
        ("cannot be written", (*two, "--output", "/dev/null/report")),
    ):
        answer = chain.shell("compare", *options)
        assert answer.code == 2, (options, answer.err)
        last = answer.err.splitlines()[-1]
        assert last.startswith("ibkd: "), (options, last)
        assert said in last, (options, last)
        assert "Searching" not in answer.err
        assert "Timing" not in answer.err


def test_a_student_may_ask_the_index_of_its_teacher(chain, distilling, tmp_path):
    student = tmp_path / "asking"
    chain.shell.must(*distilling, "--output", student, "--output-space", "teacher")
    asking = f"{chain.teacher_index},query-model={student},name=student"
    command = ("compare", "--index", f"{chain.teacher_index},name=teacher", "--index", asking)
    report = json.loads(chain.shell.must(*command, "--json", *QUICK).out)
    assert [system["encoder"]["name"] for system in report["systems"]][1] == str(student)
    # Documents were encoded by the teacher, whatever encodes the queries.
    assert [system["throughput"] is None for system in report["systems"]] == [False, True]
    assert report["data_sets"][0]["systems"]["student"]["agreement"]["overlap@10"] < 1
    refused = chain.shell(*command, "--sweep", "dims=8", *QUICK)
    assert refused.code == 2
    assert "those of its query model stay whole" in refused.err


def test_judgements_may_come_from_a_file_and_without_any_the_answers_are_compared(chain, beir, elsewhere, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text((beir / "queries.jsonl").read_text())
    command = ("compare", "--index", f"{chain.teacher_index},name=teacher", "--index", chain.student_index)
    quick = ("--rounds", 1, "--no-peak-memory", "--json", "--queries", questions)
    judged = json.loads(chain.shell.must(*command, *quick, "--qrels", beir / "qrels" / "test.tsv").out)
    plain = json.loads(chain.shell.must(*command, *quick[:-1], beir).out)
    assert judged["averages"] == plain["averages"]
    weighed = ("--qrels", beir / "qrels" / "test.tsv", "--qrels-threshold", 0.5)
    flattened = json.loads(chain.shell.must(*command, *quick, *weighed).out)["averages"]["teacher"]
    for metric, same in (("recall@100", True), ("mrr@10", True), ("ndcg@10", False)):
        # The threshold leaves relevant and not relevant, and takes the grades away.
        assert (flattened[metric] == plain["averages"]["teacher"][metric]) == same
    answer = chain.shell.must(*command, *quick)
    assert "has no judgements: the systems are compared by how alike their answers are" in answer.err
    unjudged = json.loads(answer.out)
    assert unjudged["metrics"] == ["overlap@10", "rbo"]
    student = list(unjudged["averages"])[1]
    (data,) = unjudged["data_sets"]
    assert unjudged["averages"][student]["overlap@10"]["mean"] == data["systems"][student]["agreement"]["overlap@10"]


def test_python_compares_as_the_command_does(chain, pair, beir, tmp_path, monkeypatch):
    import ibkd_retrieval as ibkd

    # What was measured to be fast is remembered there, and may be another number format at another home.
    monkeypatch.setenv("XDG_CACHE_HOME", str(chain.shell.home / ".cache"))
    expected = read_comparison(pair)
    found = ibkd.compare(
        {"teacher": chain.teacher_index, "student": ibkd.ComparedIndex(chain.student_index)},
        str(beir),
        ["ndcg@10", "mrr@10"],
        fail_under={"mrr@10": 0.01},
        rounds=1,
        peak_memory=False,
    )
    assert found.averages == expected.averages
    assert found.bars[0].passed
    assert repr(found).startswith("student ")
    # The student's folder says how it was made, and so what is left to try.
    kept = found.averages["student"]["ndcg@10"].retention
    assert bool(found.next_steps) == (kept < 0.95)
    assert found.next_steps == next_steps(ibkd.Student.open(chain.student).record, kept)
    assert "<table>" in found._repr_html_()
    frame = found.to_pandas()
    row = frame[(frame.system == "student") & (frame.metric == "mrr@10")].iloc[0]
    assert row.score == expected.averages["student"]["mrr@10"].mean
    assert [path.name for path in found.save(tmp_path / "report")][:2] == ["report.json", "report.md"]
    assert read_comparison(tmp_path / "report" / "report.json") == found


def test_documents_are_asked_as_questions_and_a_model_judges(chain, pair, reranker):
    command = ("compare", "--index", f"{chain.teacher_index},name=teacher", "--index", chain.student_index)
    asked = (*command, "--queries", "documents", "--judge", reranker, *QUICK[:3])
    answer = chain.shell.must(*asked, "--json")
    found = json.loads(answer.out)
    assert found["metrics"] == ["overlap@10", "rbo"]
    (data,) = found["data_sets"]
    assert data["query_source"].endswith(":documents")
    assert data["queries"] > 10
    assert found["judge"]["kind"] == "cross-encoder"
    assert set(found["judge"]["averages"]) == set(data["systems"])
    assert data["systems"]["teacher"]["opinion"]["contrast"] is None
    table = " ".join(chain.shell.must(*asked).out.split())
    assert f"Opinion of the model {found['judge']['name']} (cross-encoder) on the first ten results. No person" in table
    refused = chain.shell(*command, "--queries", "documents", "--qrels", pair)
    assert refused.code == 2
    assert "--qrels are judgements of queries, and --queries documents has none" in " ".join(refused.err.split())
