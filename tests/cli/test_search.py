"""`ibkd search`: runs, filters, several indexes, and what it says to a terminal."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from helpers.driving import COMMAND, read_until
from helpers.tiny_models import sentences
from ibkd_retrieval.corpora.spec import open_queries

DOCUMENTS, QUERIES = 200, 20


@pytest.fixture(scope="session")
def dated(tmp_path_factory, teacher, home):
    """An index of documents that have a year, in two halves and whole."""
    from helpers.driving import Shell
    from ibkd_retrieval.corpora.records import Corpus, Document
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.indexing.build import build_index

    folder = tmp_path_factory.mktemp("dated")
    documents = [Document(f"d{i}", text, "", {"year": 1990 + i}) for i, text in enumerate(sentences(20))]
    # In bfloat16 the near ties of a random model fall by the shapes of batches, which halves and whole do not share.
    encoder = Encoder.load(str(teacher), device="cpu", dtype="float32")
    for name, part in (("whole", documents), ("first", documents[:12]), ("second", documents[8:])):
        build_index(Corpus(name, len(part), lambda part=part: part), encoder, folder / name)
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": each.doc_id, "text": each.text}) + "\n" for each in documents[:5])
    )
    return Shell(folder, home)


def lines_of(path):
    return [line.split() for line in path.read_text().splitlines()]


def test_a_run_has_beside_it_what_made_it(shell, chain, beir):
    shell.must("search", "--index", chain.teacher_index, "--queries", beir, "--output", "out/run.trec", "-k", 5)
    metadata = yaml.safe_load((shell.folder / "out" / "run.trec.metadata.yaml").read_text())
    assert metadata["tag"] == chain.teacher_index.name
    assert metadata["method"]["indexing"][0]["documents"] == DOCUMENTS
    assert metadata["method"]["retrieval"][0]["k"] == 5
    assert metadata["data"]["test collection"]["topics"] == f"{beir}:test"
    assert "numpy" in " ".join(metadata["platform"]["software"]["libraries"]["python"])


def test_a_filter_keeps_what_holds_in_questions_and_in_runs(dated):
    found = json.loads(dated.must("search", "river", "--index", "whole", "--filter", "year>=2005", "--json").out)[
        "hits"
    ]
    assert sorted(hit["fields"]["year"] for hit in found) == [2005, 2006, 2007, 2008, 2009]
    command = (
        "search",
        "--index",
        "whole",
        "--queries",
        "queries.jsonl",
        "--output",
        "f.trec",
        "--filter",
        "year<1993",
    )
    assert "3 of 20 documents pass year<1993" in dated.must(*command).err
    assert {line[2] for line in lines_of(dated.folder / "f.trec")} == {"d0", "d1", "d2"}


def test_a_query_is_no_answer_to_itself_where_asked(dated):
    base = ("search", "--index", "whole", "--queries", "queries.jsonl", "-k", 4)
    dated.must(*base, "--output", "own.trec")
    dated.must(*base, "--output", "others.trec", "--exclude-self")
    own, others = lines_of(dated.folder / "own.trec"), lines_of(dated.folder / "others.trec")
    assert sum(line[0] == line[2] for line in own) == 5
    assert [line for line in others if line[0] == line[2]] == []
    assert len(others) == 20


def test_parts_of_a_corpus_are_searched_as_one(dated):
    for name, indexes in (("whole", ["whole"]), ("parts", ["first", "second"])):
        named = [word for index in indexes for word in ("--index", index)]
        dated.must("search", *named, "--queries", "queries.jsonl", "--output", f"{name}.trec")
    whole, parts = (lines_of(dated.folder / f"{name}.trec") for name in ("whole", "parts"))
    assert [line[:4] for line in parts] == [line[:4] for line in whole]


def test_two_indexes_answer_one_question_side_by_side(chain):
    indexes = ("--index", chain.teacher_index, "--index", chain.student_index)
    shown = json.loads(chain.shell.must("search", "river bank", *indexes, "-k", 10, "--json").out)
    first, second = shown["indexes"]
    assert [first["index"], second["index"]] == [str(chain.teacher_index), str(chain.student_index)]
    both = {hit["id"] for hit in first["hits"]} & {hit["id"] for hit in second["hits"]}
    assert second["overlap@10"] == len(both) / 10
    printed = chain.shell.must("search", "river bank", *indexes, "-k", 10).out
    assert printed.splitlines()[-1].startswith("overlap@10 of ")
    assert printed.count(" of 200 documents in ") == 2


def test_re_ranking_changes_the_order_of_the_top_alone(dated, reranker):
    ask = ("search", "river bank", "--index", "whole", "--json", "-k", 20)
    before, after = (
        [hit["id"] for hit in json.loads(dated.must(*ask, *more).out)["hits"]]
        for more in ((), ("--rerank", reranker, "--rerank-depth", 6))
    )
    assert sorted(before[:6]) == sorted(after[:6])
    assert before[6:] == after[6:]


def test_words_and_vectors_rank_alone_and_together(dated):
    pytest.importorskip("bm25s")
    ask = ("search", "river bank water", "--index", "whole", "--json", "-k", 20)
    ways = {"dense": (), "bm25": ("--engine", "bm25"), "rrf": ("--hybrid", "rrf")}
    ranks = {
        name: {hit["id"]: hit["rank"] for hit in json.loads(dated.must(*ask, *way).out)["hits"]}
        for name, way in ways.items()
    }
    score = {
        doc_id: np.float32(sum(1 / (60 + ranks[name][doc_id]) for name in ("dense", "bm25") if doc_id in ranks[name]))
        for doc_id in ranks["dense"]
    }
    assert len(ranks["bm25"]) > 1
    assert list(ranks["rrf"]) == sorted(score, key=lambda doc_id: (score[doc_id], doc_id), reverse=True)
    one = dated.must(*ask, "--hybrid", "sum", "--weight", 1, "--weight", 0)
    assert [hit["id"] for hit in json.loads(one.out)["hits"]] == list(ranks["dense"])


def test_weights_found_on_judged_queries_are_said_used_and_recorded(shell, chain, beir):
    pytest.importorskip("bm25s")
    hybrid = ("--index", chain.teacher_index, "--queries", beir, "--hybrid", "sum")
    answer = shell.must("search", *hybrid, "--tune", beir, "--output", "out/tuned.trec", "-k", 10)
    found = re.search(r"weights ([\d.]+) \S+, ([\d.]+) \S+: ndcg@10 ([\d.]+) on 20 queries", answer.err)
    assert found is not None
    stage = yaml.safe_load((shell.folder / "out" / "tuned.trec.metadata.yaml").read_text())["method"]["retrieval"][2]
    assert stage["weights"] == [float(found[1]), float(found[2])]
    assert stage["weights tuned on"] == str(beir)
    scored = ("eval", *hybrid, "--metric", "ndcg@10", "--json")
    answer = shell.must(*scored, "--tune", beir)
    tuned = json.loads(answer.out)["ndcg@10"]
    # A split of no name means the judged queries themselves.
    assert "weights were tuned on 20 of the 20 judged queries that are scored" in answer.err
    assert json.loads(answer.out)["tuned_on"] == 20
    given = json.loads(shell.must(*scored, "--weight", found[1], "--weight", found[2]).out)
    assert "tuned_on" not in given
    given = given["ndcg@10"]
    alone = [json.loads(shell.must(*scored, "--weight", one, "--weight", 1 - one).out)["ndcg@10"] for one in (0, 1)]
    assert tuned == given == pytest.approx(float(found[3]), abs=5e-5)
    assert tuned >= max(alone)


def test_a_query_is_left_out_before_its_rankings_are_fused_and_tuned(dated):
    pytest.importorskip("bm25s")
    from ibkd_retrieval.evaluation.metrics import evaluate_run
    from ibkd_retrieval.search.runs.fusion import weighted_sum
    from ibkd_retrieval.search.runs.run_files import read_run

    base = ("search", "--index", "whole", "--queries", "queries.jsonl", "--exclude-self")
    ways = {"dense": (), "words": ("--engine", "bm25"), "sum": ("--hybrid", "sum")}
    for name, way in ways.items():
        dated.must(*base, *way, "--output", f"{name}.trec")
    runs = {name: read_run(dated.folder / f"{name}.trec") for name in ways}
    expected = weighted_sum([runs["dense"], runs["words"]], [0.5, 0.5])
    assert runs["sum"].doc_ids.tolist() == expected.doc_ids.tolist()
    judged = dated.folder / "judged"
    (judged / "qrels").mkdir(parents=True)
    (judged / "corpus.jsonl").touch()
    (judged / "queries.jsonl").write_text((dated.folder / "queries.jsonl").read_text())
    (judged / "qrels" / "test.tsv").write_text("".join(f"d{query}\td{query + 5}\t1\n" for query in range(5)))
    said = dated.must(*base, *ways["sum"], "--tune", judged, "--output", "tuned.trec").err
    (score,) = re.findall(r"ndcg@10 ([\d.]+) on 5 queries", said)
    found = evaluate_run(read_run(dated.folder / "tuned.trec"), open_queries(str(judged)).judgements, ["ndcg@10"])
    assert found.scores["ndcg@10"] == pytest.approx(float(score), abs=5e-5)


def test_weights_found_on_other_queries_are_not_said_to_be_of_tuning(shell, chain, beir):
    pytest.importorskip("bm25s")
    other = shutil.copytree(beir, shell.folder / "other")
    # The same ids, as data sets that count their queries have.
    (other / "queries.jsonl").write_text((beir / "queries.jsonl").read_text().replace('"text": "', '"text": "some '))
    hybrid = ("--index", chain.teacher_index, "--queries", beir, "--hybrid", "sum", "--tune", other)
    answer = shell.must("eval", *hybrid, "--json")
    assert json.loads(answer.out)["tuned_on"] == 0
    assert "weights were tuned on" not in answer.err


def test_a_search_may_ask_for_the_recall_that_was_measured(dated, tmp_path_factory, teacher, home):
    from helpers.driving import Shell
    from ibkd_retrieval.corpora.records import Corpus, Document
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.indexing.build import build_index

    documents = [Document(f"d{i}", text) for i, text in enumerate(sentences(1200))]
    folder = tmp_path_factory.mktemp("approximate")
    build_index(
        Corpus("many", len(documents), lambda: documents), Encoder.load(str(teacher)), folder / "ivf", family="ivf-flat"
    )
    shell = Shell(folder, home)
    ask = ("search", documents[7].text, "--index", "ivf", "--json")
    assert json.loads(shell.must(*ask, "--recall", 0.9).out)["hits"][0]["id"] == "d7"
    answer = shell(*ask, "--recall", 0.9, "--nprobe", 3)
    assert (answer.code, "not both" in answer.err) == (2, True)
    answer = shell(*ask, "--recall", 1.5)
    assert (answer.code, "1.5" in answer.err) == (2, True)
    answer = shell(*ask, "--ef-search", 3)
    assert (answer.code, "is not an HNSW graph" in answer.err) == (2, True)


def test_a_student_of_another_space_may_not_ask_for_its_teacher(chain, shell):
    answer = shell("search", "river", "--index", chain.teacher_index, "--query-model", chain.student)
    assert answer.code == 2
    assert "makes vectors of 8 dimensions and the index holds 32" in answer.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--filter", "yaer>3"), "the fields are id, title, year"),
        (("--filter", "year>3000"), "No document passes"),
        (("--filter", "@none.txt"), "none.txt cannot be read"),
        (("--engine", "sparse"), "use dense, bm25"),
        (("--weight", "0.5"), "--hybrid"),
        (("--hybrid", "max"), "rrf"),
        (("--hybrid", "rrf", "--weight", "0.5"), "2"),
        (("--hybrid", "rrf", "--tune", "queries.jsonl"), "--tune finds the weights of --hybrid sum"),
        (("--hybrid", "sum", "--tune", "queries.jsonl"), "without judgements"),
        (("--rerank", "./none"), "./none"),
        (("--rerank-depth", 0, "--rerank", "x"), "at least 1, not 0"),
        (("--rerank-depth", 5), "are for --rerank MODEL"),
        (("--engine", "bm25", "--recall", 0.9), "searches words alone"),
        (("--format", "msmarco"), "give --queries and --output too"),
        (("--exclude-self",), "goes with --queries"),
        (("--cluster", "auto"), "--cluster is for many queries: give --queries"),
        (("--exact-merge",), "--exact-merge says how a cluster searches: give --cluster too"),
        (("--model", "a", "--query-model", "b"), "not both"),
    ],
)
def test_what_cannot_be_ranked_by_is_refused_in_a_sentence(dated, options, said):
    answer = dated("search", "river", "--index", "whole", *options, "--quiet")
    assert answer.code == 2
    assert answer.err.startswith("ibkd: ")
    assert said in answer.err
    assert answer.out == ""


@pytest.mark.parametrize("output", ["/dev/null/run.trec", "whole", "run.zst"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(dated, output):
    answer = dated("search", "--index", "no-such-index", "--queries", "queries.jsonl", "--output", output)
    assert answer.code == 2
    assert output in answer.err
    assert "no-such-index" not in answer.err


def test_indexes_of_different_encoders_make_no_run(shell, chain, beir):
    indexes = ("--index", chain.teacher_index, "--index", chain.student_index)
    answer = shell("search", *indexes, "--queries", beir, "--output", "run.trec")
    assert answer.code == 2
    assert "were made by different encoders" in answer.err
    assert list(shell.folder.iterdir()) == []


@pytest.mark.slow
def test_the_prompt_answers_until_an_empty_line_and_remembers(chain, shell, tmp_path):
    environment = shell.environment() | {"XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm", "COLUMNS": "120"}
    for number in (1, 2):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", COMMAND, "search", "--index", str(chain.student_index), "-k", "1"]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        os.write(ours, f"river bank {number}\n\n".encode())
        said = read_until(process, ours)
        os.close(ours)
        assert process.wait(timeout=60) == 0, said
        assert b"1 of 200 documents in" in said
    history = (tmp_path / "state" / "ibkd" / "search-history").read_text().splitlines()
    assert [line for line in history if line.startswith("river")] == ["river bank 1", "river bank 2"]
