"""`ibkd import` and `ibkd export`, as a user drives them."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest

from helpers.driving import files_of


def hits(shell, index, question="river bank", **options):
    answer = shell.must("search", question, "--index", index, "--json", *options.get("more", ()))
    return [(hit["id"], hit["score"], hit["text"]) for hit in json.loads(answer.out)["hits"]]


@pytest.mark.parametrize("to", ["numpy", "parquet", "pyserini"])
def test_an_index_goes_out_and_comes_back_and_answers_a_question_as_before(to, shell, chain, teacher, beir):
    answer = shell.must("export", chain.teacher_index, "--to", to, "--output", "out")
    assert answer.out.startswith("out: ")
    texts = () if to == "parquet" else ("--corpus", beir)
    answer = shell.must("import", "out", "--model", teacher, "--output", "back", *texts)
    assert "200 vectors × 32 dimensions, Flat" in answer.out
    assert "check that" not in answer.err
    assert hits(shell, "back") == hits(shell, chain.teacher_index)
    shell.must("info", "back", "--verify")


def test_an_imported_index_is_evaluated_on_the_queries_of_its_corpus(shell, chain, teacher, beir):
    shell.must("export", "--index", chain.teacher_index, "--to", "numpy", "--output", "out")
    shell.must("import", "out", "--model", teacher, "--corpus", beir, "--output", "back")
    scores = [
        json.loads(shell.must("eval", "--index", index, "--metric", "mrr@10", "--json").out)["mrr@10"]
        for index in ("back", chain.teacher_index)
    ]
    assert scores[0] == scores[1]


def unit_rows(count, dim, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def of_vectors(shell, rows, *options):
    """An index of vectors alone, in the folder `i`."""
    np.save(shell.folder / "v.npy", rows)
    (shell.folder / "ids.txt").write_text("".join(f"d{row}\n" for row in range(len(rows))))
    return shell.must("import", "v.npy", "--ids", "ids.txt", "--output", "i", *options)


def test_vectors_are_scaled_where_that_is_asked(shell):
    rows = unit_rows(6, 8)
    lengths = np.linspace(1, 30, 6, dtype=np.float32)[:, None]
    for options, expected in (((), lengths * rows), (("--normalise", "--overwrite"), rows)):
        of_vectors(shell, lengths * rows, *options)
        shell.must("export", "i", "--to", "numpy", "--output", f"out{len(options)}")
        np.testing.assert_allclose(np.load(shell.folder / f"out{len(options)}" / "vectors.npy"), expected, rtol=1e-5)


def test_the_codes_of_an_index_are_as_fine_as_was_asked(shell):
    of_vectors(shell, unit_rows(1200, 32))
    kinds = {
        "parts": (("--type", "ivf-pq", "--subquantisers", 16), "subquantisers", 16, "PQ16x4fs"),
        "bits": (("--type", "rabitq", "--bits", 3), "bits", 3, "RaBitQfs3"),
    }
    for folder, (options, name, value, codes) in kinds.items():
        told = shell.must("index", "--from", "i", "--lists", 8, "--output", folder, "--json", *options).out
        made = json.loads(told)
        assert (made["family_options"]["lists"], made["family_options"][name]) == (8, value)
        assert codes in made["factory"]


def test_a_compressed_index_goes_out_exact_where_that_is_asked(shell):
    import faiss

    rows = unit_rows(1200, 32)
    of_vectors(shell, rows, "--type", "ivf-pq")
    for output, exact in (("codes", ()), ("whole", ("--exact",))):
        shell.must("export", "i", "--to", "pyserini", "--output", output, *exact)
    codes, whole = (faiss.read_index(str(shell.folder / output / "index")) for output in ("codes", "whole"))
    assert type(codes) is not type(whole)
    np.testing.assert_array_equal(faiss.rev_swig_ptr(whole.get_xb(), rows.size).reshape(rows.shape), rows)


def test_an_import_is_kept_resumed_and_replaced(shell, chain, teacher):
    shell.must("export", chain.teacher_index, "--to", "numpy", "--output", "out")
    command = ("import", "out", "--model", teacher, "--output", "back")
    said = json.loads(shell.must(*command, "--json").out)
    assert (said["document_count"], said["output"]) == (200, "back")
    assert said["build"]["documents_per_second"] == 0
    before = files_of(shell.folder / "back")
    assert "--overwrite" in shell(*command).err
    (shell.folder / "back" / "index.json").unlink()
    shell.must(*command, "--resume")
    after = files_of(shell.folder / "back")
    assert before.keys() == after.keys()
    assert all(before[name] == after[name] for name in before if name != "index.json")
    shell.must(*command, "--overwrite")


def test_pickle_is_refused_with_the_reason_and_the_way_out(shell, teacher):
    vectors = np.eye(4, 32, dtype=np.float32)
    (shell.folder / "corpus.pkl").write_bytes(pickle.dumps((vectors, ["a", "b", "c", "d"])))
    answer = shell("import", "corpus.pkl", "--output", "i")
    assert answer.code == 2
    assert "can run any program" in answer.err
    assert "--allow-pickle" in answer.err
    assert not (shell.folder / "i").exists()
    assert "Unsafe" in shell.must("import", "--help").out
    answer = shell.must("import", "corpus.pkl", "--output", "i", "--allow-pickle")
    assert "searchable by vectors only" in answer.out


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "no-such-model"),
        ("--type", "annoy"),
        ("--corpus", "nowhere.jsonl"),
        ("--pooling", "cls"),  # Without a model there is nothing to pool.
        ("--device", "gpu"),
    ],
)
def test_wrong_options_of_an_import_are_refused_before_it_begins(options, shell):
    np.save(shell.folder / "v.npy", np.eye(4, dtype=np.float32))
    (shell.folder / "ids.txt").write_text("a\nb\nc\nd\n")
    answer = shell("import", "v.npy", "--ids", "ids.txt", "--output", "i", *options)
    assert answer.code == 2
    assert options[0] in answer.err or options[1] in answer.err
    assert sorted(path.name for path in shell.folder.iterdir()) == ["ids.txt", "v.npy"]


def test_an_index_goes_into_a_database_once(shell, chain):
    pytest.importorskip("lancedb")
    line = ("export", chain.teacher_index, "--to", "lancedb", "--url", "lance")
    answer = shell.must(*line)
    assert re.search(r"documents: [\d,]+ documents, overlap@10 with exact search 1\.000", answer.out)
    again = shell(*line)
    assert again.code == 2
    assert "--overwrite" in again.err
    shell.must(*line, "--overwrite")


def test_two_indexes_to_export_are_one_too_many(shell, chain):
    answer = shell("export", chain.teacher_index, "--index", chain.student_index, "--to", "numpy", "--output", "x")
    assert answer.code == 2
    assert "name one" in answer.err


def test_an_export_into_a_folder_of_somebody_else_is_refused(shell, chain):
    (shell.folder / "mine").mkdir()
    (shell.folder / "mine" / "letter.txt").write_text("dear")
    for to in ("numpy", "parquet", "pyserini"):
        assert shell("export", chain.teacher_index, "--to", to, "--output", "mine").code == 2
    assert files_of(shell.folder / "mine") == {"letter.txt": b"dear"}
    shutil.rmtree(shell.folder / "mine")


def test_a_model_is_exported_as_onnx_graphs(shell, teacher):
    pytest.importorskip("onnxruntime")
    answer = shell.must("export", teacher, "--to", "onnx", "--int8", "--output", "graph")
    assert "onnx/model.onnx takes input_ids" in answer.out
    assert re.search(r"The vectors in int8 have a cosine of at least 0\.9\d+ with the model's", answer.err)
    found = {str(path.relative_to(shell.folder / "graph")) for path in (shell.folder / "graph").rglob("*.*")}
    assert {"config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model_quantized.onnx"} <= found
    for wrong, says in (
        (("export", teacher, "--to", "onnx", "--output", "graph"), "is not an empty folder"),
        (("export", "nowhere/model", "--to", "onnx", "--output", "x"), "nowhere/model"),
        (("export", teacher, "--to", "numpy", "--int8", "--output", "x"), "--int8 is for --to onnx"),
    ):
        answer = shell(*wrong)
        assert answer.code == 2
        assert says in answer.err


def test_a_model_that_was_not_named_is_never_shown_and_texts_are_refused_in_a_sentence(shell, beir):
    np.save(shell.folder / "v.npy", np.eye(4, dtype=np.float32))
    (shell.folder / "ids.txt").write_text("a\nb\nc\nd\n")
    said = [shell.must("import", "v.npy", "--ids", "ids.txt", "--output", "indexes/i")]
    said += [shell.must("info"), shell.must("info", "indexes/i"), shell.must("index", "--from", "indexes/i")]
    refused = [
        shell("search", "a", "b"),
        shell("eval", "--index", "indexes/i", "--queries", beir),
        shell("serve", "--index", "indexes/i", "--port", 0),
        shell("index", "--append", "--corpus", beir, "--output", "indexes/i"),
    ]
    for answer in refused:
        assert answer.code == 2
        assert "imported without the model of its vectors" in answer.err
        assert "`ibkd import --model MODEL`" in answer.err
    assert not [each for each in (*said, *refused) if "(not named)" in each.out + each.err]
    assert "vectors only" in said[1].out
    assert "documents/s" not in said[3].out


def test_an_index_without_a_model_is_searched_by_given_vectors_and_by_a_student_of_its_own(shell, chain, stranger):
    index = ("--index", "indexes/ours")
    shell.must("export", chain.teacher_index, "--to", "parquet", "--output", "ours")
    said = shell.must("import", "ours", "--output", "indexes/ours")
    assert "The vectors have length 1" in said.err
    shell.must("export", chain.student_index, "--to", "parquet", "--output", "short")
    refused = shell("search", *index, "--query-vectors", "short", "--output", "run.trec")
    assert "short holds vectors of 8 dimensions and the index indexes/ours of 32" in refused.err
    assert "--query-vectors in its place" in shell("search", *index, "--query-vectors", "ours").err
    shell.must("search", *index, "--query-vectors", "ours", "--output", "run.trec", "--k", 1)
    rows = [line.split() for line in (shell.folder / "run.trec").read_text().splitlines()]
    assert len(rows) == 200
    assert all(query == document for query, _, document, *_ in rows)
    (shell.folder / "qrels.tsv").write_text("d3\t0\td3\t1\n")
    given = ("--query-vectors", "ours", "--qrels", "qrels.tsv", "--metric", "mrr@1", "--json")
    assert json.loads(shell.must("eval", *index, *given).out)["mrr@1"] == 1
    small = ("--student", stranger, "--output-space", "teacher", "--steps", 2, "--batch-size", 16, "--bank-size", 24)
    shell.must("distill", "--teacher", "indexes/ours", *small, "--max-length", 32, "--output", "models/ours")
    found = shell.must("search", "river", "bank", *index, "--query-model", "models/ours", "--json")
    assert len(json.loads(found.out)["hits"]) == 10
