"""Distil, index, search, evaluate, compare: each command finds what the one before it left."""

import json

import numpy as np
import pytest

DOCUMENTS, QUERIES = 200, 20
QUICK = ("--rounds", 1, "--no-peak-memory")


def test_distilling_leaves_a_model_that_sentence_transformers_loads(chain):
    from sentence_transformers import SentenceTransformer

    assert (chain.student / "ibkd.json").is_file()
    assert not (chain.student / "checkpoints").exists()
    assert SentenceTransformer(str(chain.student), device="cpu").encode(["river bank"]).shape == (1, 8)
    assert chain.said["distill"].out.startswith("models/teacher-l2-d8-ibkd: dev overlap@10")


def test_indexing_without_a_model_takes_the_newest_student(chain):
    manifest = json.loads((chain.student_index / "index.json").read_text())
    assert manifest["encoder"]["name"] == str(chain.student)
    assert "model models/teacher-l2-d8-ibkd" in chain.said["index"].err
    assert chain.said["index"].out.startswith(f"indexes/{chain.student_index.name}: 200 documents × 8 dimensions")


def test_training_says_what_its_figures_are_and_when_the_dev_figure_was_taken(chain):
    said = chain.said["distill"].err
    assert said.count("keep (the keep term:") == said.count("hsic (the forgetting term:") == 1
    assert "(before training)" in said or "(after step " in said
    assert "took " in said


def test_a_remark_is_one_line_in_a_log(chain):
    assert f"type flat → indexes/{chain.student_index.name}\n" in chain.said["index"].err


def test_searching_without_an_index_takes_the_newest(chain):
    answer = chain.shell.must("search", "river bank water", "--json")
    assert "pages-teacher-l2-d8-ibkd-flat (the newest in indexes/" in answer.err
    found = json.loads(answer.out)
    assert found["query"] == "river bank water"
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, 11))
    assert all(hit["title"].startswith("page ") and hit["text"] for hit in found["hits"])


def test_the_answer_shows_ids_titles_and_text(chain):
    answer = chain.shell.must("search", "river bank", "--index", chain.teacher_index, "-k", 3, "--quiet")
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines[0:6:2]] == ["1", "2", "3"]
    assert all("page" in line for line in lines[0:6:2])
    assert lines[6].startswith("3 of 200 documents in ")
    assert answer.err == ""


def test_every_line_of_piped_input_is_a_question(chain):
    answer = chain.shell.must("search", "--json", "-k", 1, stdin="river bank\n\n  cup dish \n")
    assert [json.loads(line)["query"] for line in answer.out.splitlines()] == ["river bank", "cup dish"]


@pytest.fixture(scope="session")
def runs(chain, beir, tmp_path_factory):
    """A run of each index, written by search."""
    folder = tmp_path_factory.mktemp("runs")
    for name, index in (("teacher", chain.teacher_index), ("student", chain.student_index)):
        run = folder / f"{name}.trec"
        chain.shell.must("search", "--index", index, "--queries", beir, "--output", run)
    return folder


def test_a_batch_search_writes_a_run_of_every_query(runs, chain, beir, tmp_path):
    lines = [line.split() for line in (runs / "student.trec").read_text().splitlines()]
    assert len(lines) == QUERIES * DOCUMENTS
    assert {(line[1], line[5]) for line in lines} == {("Q0", chain.student_index.name)}
    few = ("search", "--queries", beir, "--output", tmp_path / "run.tsv.gz", "--format", "msmarco", "--k", 5)
    assert chain.shell.must(*few).out.endswith("run.tsv.gz: 20 queries, 100 results\n")


def test_evaluating_needs_no_more_than_a_metric(chain, beir):
    answer = chain.shell.must("eval", "--metric", "mrr@10")
    assert answer.out.splitlines()[0].split() == ["metric", "score", "95%", "interval"]
    assert answer.out.splitlines()[1].startswith("mrr@10")
    assert f"queries {beir}:test (those of the index's corpus" in answer.err


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_a_run_scores_what_its_index_scores(which, chain, runs, beir):
    names = ("mrr@10", "nDCG@10", "R@100", "map")
    metrics = [word for name in names for word in ("--metric", name)]
    index = chain.teacher_index if which == "teacher" else chain.student_index
    searched = json.loads(chain.shell.must("eval", "--index", index, "--json", *metrics).out)
    scored = [
        json.loads(chain.shell.must("eval", "--run", runs / f"{which}.trec", "--json", *metrics, *judged).out)
        for judged in (("--qrels", beir), ("--queries", beir), ("--qrels", beir / "qrels" / "test.tsv"))
    ]
    for each in scored:
        assert {name: each[name] for name in names} == {name: searched[name] for name in names}
        assert each["queries"] == searched["queries"] == QUERIES
        assert each["missing_queries"] == each["unjudged_queries"] == 0
    assert 0 < searched["mrr@10"] < 1


def test_the_score_is_the_brute_force_one(chain, beir):
    from ibkd_retrieval.encoders.encoder import Encoder

    encoder = Encoder.load(str(chain.student), device="cpu", dtype="float32")
    documents = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line)["text"] for line in (beir / "queries.jsonl").read_text().splitlines()]
    texts = [f"{document['title']} {document['text']}" for document in documents]
    scores = encoder.encode(queries, "query") @ encoder.encode(texts).T
    order = np.argsort(-scores, axis=1)
    first = [min(order[i].tolist().index(7 * i), order[i].tolist().index(7 * i + 1)) + 1 for i in range(QUERIES)]
    expected = np.mean([1 / rank if rank <= 10 else 0 for rank in first])
    answer = chain.shell.must("eval", "--metric", "mrr@10", "--json", "--dtype", "float32")
    assert json.loads(answer.out)["mrr@10"] == pytest.approx(expected)


@pytest.fixture(scope="session")
def compared(chain, tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "out"
    indexes = ("--index", chain.teacher_index, "--index", chain.student_index)
    return report, chain.shell.must("compare", *indexes, "--output", report, *QUICK), indexes


def test_a_comparison_in_a_pipe_shows_every_word(compared):
    _, answer, _ = compared
    assert "…" not in answer.out
    for word in ("quality", "cost", "Recall@100", "ms/query", "documents/s", "teacher flat"):
        assert word in answer.out


def test_a_comparison_leaves_its_report_in_both_forms(compared):
    report, _, _ = compared
    written = json.loads((report / "report.json").read_text())
    assert written["data_sets"][0]["query_source"].endswith("pages:test")
    assert "recall@100" in (report / "report.md").read_text()


def test_a_comparison_as_json_has_the_metrics_as_given(compared, chain):
    _, _, indexes = compared
    shown = json.loads(chain.shell.must("compare", *indexes, "--metric", "nDCG@10", "--json", *QUICK).out)
    assert '"nDCG@10"' in json.dumps(shown)
    assert '"ndcg@10"' not in json.dumps(shown)


def test_info_lists_and_describes_what_is_here(chain):
    head, *lines = (line.split() for line in chain.shell.must("info").out.splitlines())
    assert head == ["folder", "documents", "dim", "type", "model", "size", "made"]
    listed = {
        "models/teacher-l2-d8-ibkd": ["8"],
        f"indexes/{chain.student_index.name}": ["200", "8", "flat"],
        f"indexes/{chain.teacher_index.name}": ["200", "32", "flat"],
    }
    assert {folder: more[: len(listed[folder])] for folder, *more in lines} == listed
    shown = json.loads(chain.shell.must("info", "--json").out)
    assert set(shown["folders"]) == set(listed) == {each["folder"] for each in shown["found"]}
    assert {each["documents"] for each in shown["found"]} == {200, None}
    assert all(each["bytes"] > 0 and each["created"] and each["model"] for each in shown["found"])
    assert "document_count: 200" in chain.shell.must("info", chain.student_index).out
    assert json.loads(chain.shell.must("info", chain.student_index, "--json").out)["encoder"]["dim"] == 8
    assert json.loads(chain.shell.must("info", chain.student, "--json").out)
    assert "every file is as recorded" in chain.shell.must("info", chain.student_index, "--verify").out


def test_verifying_a_student_looks_at_its_weights(chain, tmp_path):
    import shutil

    said = chain.shell.must("info", chain.student, "--verify").out
    assert said.endswith("weights, modules and tokens are as recorded\n")
    moved = shutil.copytree(chain.student, tmp_path / "moved")
    assert chain.shell("info", moved, "--verify").code == 0
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-40] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    answer = chain.shell("info", moved, "--verify")
    assert answer.code == 2
    assert f"{moved / 'model.safetensors'} is damaged or" in answer.err
    assert answer.out == ""
    # Students of 0.1.0 have no checksums of files.
    record = json.loads((moved / "ibkd.json").read_text())
    del record["files"]
    (moved / "ibkd.json").write_text(json.dumps(record))
    answer = chain.shell("info", moved, "--verify")
    assert answer.code == 2
    assert f"The model in {moved} is not the one that was distilled" in answer.err
    (moved / "model.safetensors").write_bytes(weights + b"x")
    assert "Cannot load the model" in chain.shell("info", moved, "--verify").err
    (moved / "ibkd.json").write_text("{}")
    assert "records no weight hash" in chain.shell("info", moved, "--verify").err


def test_an_export_holds_the_index_and_its_ids(chain, tmp_path):
    output = tmp_path / "pyserini"
    chain.shell.must("export", "--to", "pyserini", "--output", output)
    assert {path.name for path in output.iterdir()} == {"index", "docid"}
    assert (output / "docid").read_text().split() == [f"d{i}" for i in range(DOCUMENTS)]


def test_a_compressed_index_takes_the_vectors_of_a_flat_one(shell, chain, plenty):
    shell.must("index", "--corpus", plenty, "--model", chain.student, "--output", "flat", "--shard-size", 500)
    told = shell.must("index", "--from", "flat", "--type", "ivf-pq", "--lists", 8, "--output", "small", "--json")
    shown = json.loads(told.out)
    assert (shown["family"], shown["document_count"], shown["output"]) == ("ivf-pq", 1200, "small")
    assert shown["family_options"]["lists"] == 8
    # Nothing was encoded again: the vectors are the very files.
    vectors = sorted((shell.folder / "flat" / "vectors").iterdir())
    assert len(vectors) >= 3
    for path in vectors:
        assert (shell.folder / "small" / "vectors" / path.name).samefile(path)
    shell.must("info", "small", "--verify")
    exact, refined = (
        json.loads(shell.must("search", "river bank", "--json", "--index", *index).out)["hits"]
        for index in (["flat"], ["small", "--nprobe", 8, "--refine", 200])
    )
    assert [hit["id"] for hit in refined] == [hit["id"] for hit in exact]
    assert [hit["score"] for hit in refined] == pytest.approx([hit["score"] for hit in exact])


def test_a_compressed_index_of_few_documents_is_flat_and_says_so(shell, chain, beir):
    answer = shell.must("index", "--corpus", beir, "--model", chain.student, "--type", "ivf-pq", "--json")
    assert "200 documents are too few to train an ivf-pq index" in answer.err
    assert json.loads(answer.out)["family"] == "flat"


def test_the_newest_index_is_one_of_the_folders_own_and_its_line_says_what_it_is(shell, chain):
    import shutil

    own = shell.folder / "indexes" / "mine"
    for place, created in (
        (own, "2026-01-02T03:04:05Z"),
        *((own.parent / each, "2026-05-06T07:08:09Z") for each in ("quickstart-student-flat", "suite/one")),
    ):
        shutil.copytree(chain.student_index, place)
        manifest = json.loads((place / "index.json").read_text()) | {"created": created}
        (place / "index.json").write_text(json.dumps(manifest))
    asked = ("search", "river", "--model", chain.student)
    line = "index indexes/mine (the newest in indexes/: 200 documents, made 2026-01-02 03:04 UTC; name another with"
    assert f"{line} --index)" in shell.must(*asked).err
    shutil.rmtree(own)
    assert "index indexes/suite/one (the newest" in shell.must(*asked).err
