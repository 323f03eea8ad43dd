import itertools
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.indexing_fakes import (
    HashingEncoder,
    Listener,
    TableEncoder,
    clustered,
    corpus_of,
    numbered_corpus,
    table_corpus,
)
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.exporting import export_index
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.importing import ForeignVectors, VectorBlock
from ibkd_retrieval.indexing.importing.folder import import_vectors
from ibkd_retrieval.indexing.importing.formats import open_vectors
from ibkd_retrieval.indexing.index import open_index


def found(folder: Path, queries: np.ndarray, k: int = 10) -> tuple[list[list[str]], np.ndarray]:
    index = open_index(folder, verify=True)
    scores, rows = index.search(queries, k)
    return [index.doc_ids(row) for row in rows], scores


def array_files(folder: Path, vectors: np.ndarray, ids: list[str] | None = None) -> Path:
    folder.mkdir()
    np.save(folder / "vectors.npy", vectors)
    ids = [f"d{i}" for i in range(len(vectors))] if ids is None else ids
    (folder / "ids.txt").write_text("".join(f"{doc_id}\n" for doc_id in ids))
    return folder


class Evil:
    """What an attacker's pickle asks for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("to", ["numpy", "parquet", "pyserini"])
@pytest.mark.parametrize("family", ["flat", "ivf-pq"])
def test_what_is_exported_and_imported_answers_the_same(tmp_path: Path, to: str, family: str):
    table = clustered(1300, 16)
    build_index(table_corpus(1300), TableEncoder(table), tmp_path / "i", family=family, shard_size=500)
    export_index(tmp_path / "i", tmp_path / "out", to, exact=True)
    import_vectors(
        open_vectors(tmp_path / "out"),
        tmp_path / "back",
        encoder=HashingEncoder(16),
        family=family,
        shard_size=300,
    )
    ids, scores = found(tmp_path / "i", table[:50])
    again, scores_again = found(tmp_path / "back", table[:50])
    assert again == ids
    np.testing.assert_array_equal(scores, scores_again)


def test_parquet_brings_titles_and_texts_back(tmp_path: Path):
    build_index(numbered_corpus(20), HashingEncoder(), tmp_path / "i")
    export_index(tmp_path / "i", tmp_path / "out", "parquet")
    import_vectors(open_vectors(tmp_path / "out"), tmp_path / "back", shard_size=7)
    index = open_index(tmp_path / "back")
    assert [index.document(row) for row in range(20)] == list(numbered_corpus(20).documents())


def test_texts_come_from_the_corpus_by_id_in_any_order(tmp_path: Path):
    corpus = numbered_corpus(30)
    picked = [27, 3, 14, 0, 29]
    encoder = HashingEncoder()
    texts = list(corpus.documents())
    vectors = encoder.encode([texts[row].content for row in picked])
    source = open_vectors(array_files(tmp_path / "v", vectors, [f"d{row}" for row in picked]))
    listener = Listener()
    manifest = import_vectors(source, tmp_path / "i", encoder=encoder, corpus=corpus, shard_size=2, progress=listener)
    index = open_index(tmp_path / "i")
    assert [index.document(row) for row in range(5)] == [texts[row] for row in picked]
    assert manifest.corpus.name == corpus.name
    assert manifest.encoder.weight_hash == encoder.weight_hash
    assert listener.said == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "v"]


def test_texts_that_a_killed_import_left_are_cleared_and_those_of_another_stay(tmp_path: Path):
    for folder in (".i.texts-killed", ".other.texts-running"):
        (tmp_path / folder).mkdir()
    source = open_vectors(array_files(tmp_path / "v", clustered(3, 8), ["0", "1", "2"]))
    import_vectors(source, tmp_path / "i", corpus=corpus_of([Document(str(i), "text") for i in range(3)]))
    assert sorted(path.name for path in tmp_path.glob(".*.texts-*")) == [".other.texts-running"]


def test_a_corpus_without_one_of_the_documents_is_refused_before_anything_is_written(tmp_path: Path):
    source = open_vectors(array_files(tmp_path / "v", clustered(31, 8)))
    with pytest.raises(UserError, match="'d30', which made-up does not hold"):
        import_vectors(source, tmp_path / "i", corpus=numbered_corpus(30))
    assert not (tmp_path / "i").exists()


def test_vectors_of_other_texts_than_the_model_gives_are_pointed_out(tmp_path: Path):
    corpus, encoder, listener = numbered_corpus(9), HashingEncoder(), Listener()
    vectors = encoder.encode([document.content for document in corpus.documents()])[::-1]
    source = open_vectors(array_files(tmp_path / "v", vectors))
    import_vectors(source, tmp_path / "i", encoder=encoder, corpus=corpus, progress=listener)
    assert "check that ids, texts and model belong" in listener.said[0]


def test_half_precision_is_read_as_it_is(tmp_path: Path):
    table = clustered(40, 8).astype(np.float16)
    import_vectors(open_vectors(array_files(tmp_path / "v", table)), tmp_path / "i", encoder=HashingEncoder(8))
    stored = np.concatenate(list(open_index(tmp_path / "i").vectors()))
    np.testing.assert_array_equal(stored, table.astype(np.float32))


@pytest.mark.parametrize("form", ["txt", "tsv", "parquet", "gz"])
def test_ids_come_from_lines_or_a_column(tmp_path: Path, form: str):
    np.save(tmp_path / "v.npy", clustered(3, 8))
    names = ["b", "a", "7"]
    path = tmp_path / f"ids.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"text": ["x", "y", "z"], "docid": names}), path)
    elif form == "tsv":
        path.write_text("".join(f"{name}\ta text\n" for name in names))
    elif form == "gz":
        import gzip

        path.write_bytes(gzip.compress("".join(f"{name}\n" for name in names).encode()))
    else:
        path.write_text("\n".join(names))
    import_vectors(open_vectors(tmp_path / "v.npy", ids=path), tmp_path / "i")
    assert open_index(tmp_path / "i").doc_ids(range(3)) == names


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64()])
def test_parquet_lists_of_every_kind_are_read(tmp_path: Path, fixed: bool, number: pa.DataType):
    table = clustered(10, 4).astype(number.to_pandas_dtype())
    kind = pa.list_(number, 4) if fixed else pa.list_(number)
    (tmp_path / "v").mkdir()
    for part in range(2):
        rows = slice(5 * part, 5 * part + 5)
        columns = {"id": pa.array(range(10)[rows]), "embedding": pa.array(list(table[rows]), kind)}
        pq.write_table(pa.table(columns), tmp_path / "v" / f"{part}.parquet")
    import_vectors(open_vectors(tmp_path / "v"), tmp_path / "i")
    index = open_index(tmp_path / "i")
    assert index.doc_ids(range(10)) == [str(row) for row in range(10)]
    np.testing.assert_array_equal(np.concatenate(list(index.vectors())), table.astype(np.float32))


@pytest.mark.parametrize(
    ("vectors", "sentence"),
    [
        ([[1.0, 0.0], [1.0]], "row 2: the vector is missing or has another length"),
        ([[1.0, 0.0], None], "row 2: the vector is missing or has another length"),
        ([[1.0, 0.0], [1.0, None]], "Vector 2 .* is not finite"),
        ([[], []], "row 1: the vector is missing"),
        ([["a"], ["b"]], "no column of lists of floating-point numbers"),
    ],
)
def test_parquet_without_a_vector_for_every_document_is_refused(tmp_path: Path, vectors: list, sentence: str):
    column = pa.array(vectors, pa.list_(pa.float32())) if vectors == [[], []] else pa.array(vectors)
    pq.write_table(pa.table({"id": ["a", "b"], "vector": column}), tmp_path / "v.parquet")
    with pytest.raises(UserError, match=sentence):
        import_vectors(open_vectors(tmp_path / "v.parquet"), tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_encoded_corpora_of_tevatron_are_read_in_the_order_of_their_numbers(tmp_path: Path):
    table = clustered(12, 8)
    (tmp_path / "v").mkdir()
    for part, protocol in enumerate((2, 4, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4)):
        value = (table[part : part + 1], [f"d{part}"])
        (tmp_path / "v" / f"corpus.{part}.pkl").write_bytes(pickle.dumps(value, protocol))
    import_vectors(open_vectors(tmp_path / "v", allow_pickle=True), tmp_path / "i", shard_size=5)
    index = open_index(tmp_path / "i")
    assert index.doc_ids(range(12)) == [f"d{row}" for row in range(12)]
    np.testing.assert_array_equal(np.concatenate(list(index.vectors())), table)


def test_nothing_is_unpickled_unless_the_user_says_so_and_then_only_arrays(tmp_path: Path):
    path = tmp_path / "corpus.pkl"
    path.write_bytes(pickle.dumps((Evil(tmp_path / "taken"), ["d0"])))
    with pytest.raises(UserError, match=r"can run any program on this machine.*`allow_pickle`"):
        open_vectors(path)
    with pytest.raises(UserError, match=r"posix.mkdir, which is neither an array nor a text"):
        import_vectors(open_vectors(path, allow_pickle=True), tmp_path / "i")
    assert not (tmp_path / "taken").exists()
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ((np.ones((2, 3)), ["a"]), "2 vectors and 1 ids"),
        ((np.ones(3), ["a"]), "floating-point vectors"),
        ((np.ones((1, 3), dtype=object), ["a"]), "floating-point vectors"),
        ((np.ones((1, 3)), [None]), "the id is None"),
        (["a"], "an array and a list of ids"),
    ],
)
def test_pickles_of_something_else_are_refused(tmp_path: Path, value: object, sentence: str):
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match=sentence):
        import_vectors(open_vectors(tmp_path / "c.pkl", allow_pickle=True), tmp_path / "i")


def test_a_cut_pickle_is_refused(tmp_path: Path):
    data = pickle.dumps((clustered(5, 8), list("abcde")))
    (tmp_path / "c.pkl").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="encode it again"):
        import_vectors(open_vectors(tmp_path / "c.pkl", allow_pickle=True), tmp_path / "i")


def spoilt(row: int, value: float) -> np.ndarray:
    vectors = clustered(20, 8)
    vectors[row] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "ids", "sentence"),
    [
        (spoilt(7, np.nan), None, "Vector 8 .* is not finite"),
        (spoilt(7, np.inf), None, "Vector 8 .* is not finite"),
        (spoilt(7, 2.0), None, "Vector 8 .* has length 5.6569, where .* `normalise`"),
        (clustered(20, 8), ["a", "b"], "20 vectors and .* lists 2 ids"),
        (clustered(3, 8), ["a", "b", "a"], "'a' appears twice in .* as documents 1 and 3"),
        (clustered(2, 8), ["a", "b  c"], "white space"),
        (clustered(20, 9), None, "9 dimensions and hashing makes 8"),
        (np.ones(8, dtype=np.float32), None, "of shape"),
        (np.ones((3, 8), dtype=np.int8), None, "floating-point vectors"),
        (np.ones((0, 8), dtype=np.float32), [], "floating-point vectors"),
    ],
)
def test_unfit_vectors_are_refused_and_the_index_that_was_there_stays(
    tmp_path: Path, vectors: np.ndarray, ids: list[str] | None, sentence: str
):
    build_index(numbered_corpus(5), HashingEncoder(8), tmp_path / "i")
    with pytest.raises(UserError, match=sentence):
        import_vectors(
            open_vectors(array_files(tmp_path / "v", vectors, ids)),
            tmp_path / "i",
            encoder=HashingEncoder(8),
            overwrite=True,
        )
    assert verify_index(tmp_path / "i").document_count == 5


def test_scaling_makes_the_inner_product_the_cosine(tmp_path: Path):
    table = clustered(50, 8) * np.linspace(0.1, 30, 50, dtype=np.float32)[:, None]
    listener = Listener()
    source = open_vectors(array_files(tmp_path / "v", table))
    import_vectors(source, tmp_path / "as-is", progress=listener)
    import_vectors(source, tmp_path / "scaled", encoder=HashingEncoder(8), normalise=True, progress=listener)
    assert len(listener.said) == 1
    assert "lengths from 0.1 to 30" in listener.said[0]
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    for folder, expected in (("as-is", unit @ table.T), ("scaled", unit @ unit.T)):
        ids, scores = found(tmp_path / folder, unit, 50)
        np.testing.assert_allclose(scores, -np.sort(-expected, axis=1), rtol=1e-5, atol=1e-5)
        assert [row[0] for row in ids] == [f"d{row}" for row in expected.argmax(axis=1)]


def test_a_vector_without_direction_cannot_be_scaled(tmp_path: Path):
    source = open_vectors(array_files(tmp_path / "v", spoilt(7, 0.0)))
    with pytest.raises(UserError, match=r"Vector 8 .* all zeros"):
        import_vectors(source, tmp_path / "i", normalise=True)


def test_a_model_whose_vectors_have_lengths_takes_such_vectors(tmp_path: Path):
    table = 3 * clustered(20, 8)
    import_vectors(open_vectors(array_files(tmp_path / "v", table)), tmp_path / "i", encoder=LongVectors(8))
    assert open_index(tmp_path / "i").manifest.document_count == 20


class LongVectors(HashingEncoder):
    """One that is compared by inner product, not cosine."""

    def vector(self, text: str) -> np.ndarray:
        return 3 * super().vector(text)


def test_an_interrupted_import_goes_on_and_ends_as_one_that_was_not(tmp_path: Path):
    table = clustered(1100, 16)
    source = open_vectors(array_files(tmp_path / "v", table))
    import_vectors(source, tmp_path / "whole", family="ivf-pq", shard_size=200)
    import_vectors(source, tmp_path / "cut", family="ivf-pq", shard_size=200)
    (tmp_path / "cut" / "index.json").unlink()
    (tmp_path / "cut" / "shards" / "00003.json").unlink()
    (tmp_path / "cut" / "vectors" / "00004.npy").write_bytes(b"half")
    kept = (tmp_path / "cut" / "vectors" / "00001.npy").stat().st_mtime_ns
    with pytest.raises(UserError, match="`resume`"):
        import_vectors(source, tmp_path / "cut")
    import_vectors(source, tmp_path / "cut", family="ivf-pq", resume=True)
    assert (tmp_path / "cut" / "vectors" / "00001.npy").stat().st_mtime_ns == kept
    verify_index(tmp_path / "cut")
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file() and path.name != "index.json":
            assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes(), path


def test_a_resumed_import_takes_the_vectors_that_are_there_now(tmp_path: Path):
    source = array_files(tmp_path / "v", clustered(100, 8))
    import_vectors(open_vectors(source), tmp_path / "i", shard_size=30)
    changed = clustered(100, 8, seed=1)
    shutil.rmtree(source)
    import_vectors(open_vectors(array_files(source, changed)), tmp_path / "i", resume=True)
    np.testing.assert_array_equal(np.concatenate(list(open_index(tmp_path / "i", verify=True).vectors())), changed)
    shutil.rmtree(source)
    with pytest.raises(UserError, match="more vectors than"):
        import_vectors(open_vectors(array_files(source, changed[:50])), tmp_path / "i", resume=True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none", "There is no"),
        ("folder", "no vectors of a known form"),
        ("v.npy", "`ids`"),
        ("notes.txt", "known form"),
    ],
)
def test_a_path_without_vectors_gets_the_forms_there_are(tmp_path: Path, name: str, sentence: str):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("dear")
    np.save(tmp_path / "v.npy", clustered(2, 8))
    with pytest.raises(UserError, match=sentence):
        open_vectors(tmp_path / name)


def test_files_that_are_not_what_their_names_say_are_refused(tmp_path: Path):
    ids = tmp_path / "ids.txt"
    ids.write_text("a\n")
    for name in ("v.npy", "v.parquet", "index"):
        (tmp_path / name).write_bytes(b"not that")
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    for path, sentence in (("v.npy", "NumPy array"), ("objects.npy", "NumPy array"), ("v.parquet", "as parquet")):
        with pytest.raises(UserError, match=sentence):
            open_vectors(tmp_path / path, ids=ids if path.endswith("npy") else None)
    (tmp_path / "docid").write_text("a\n")
    with pytest.raises(UserError, match="cannot be read by faiss"):
        open_vectors(tmp_path)


def test_a_compressed_index_is_not_taken_for_whole_vectors(tmp_path: Path):
    faiss = load_faiss()
    index = faiss.index_factory(8, "SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(clustered(50, 8))
    index.add(clustered(50, 8))
    faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "docid").write_text("".join(f"{i}\n" for i in range(50)))
    with pytest.raises(UserError, match="IndexScalarQuantizer, which does not hold whole vectors"):
        open_vectors(tmp_path)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 12))
@settings(max_examples=50)
def test_blocks_of_any_size_hold_the_same_vectors_in_the_same_order(sizes: list[int], wanted: int):
    starts = np.cumsum([0, *sizes])
    table = np.arange(2 * starts[-1], dtype=np.float32).reshape(-1, 2)
    parts = [
        VectorBlock([Document(str(row), "") for row in range(a, b)], table[a:b]) for a, b in itertools.pairwise(starts)
    ]
    blocks = list(ForeignVectors(Path("v"), None, lambda: parts).blocks_of(wanted))
    assert [len(block.documents) for block in blocks[:-1]] == [wanted] * (len(blocks) - 1)
    assert 1 <= len(blocks[-1].documents) <= wanted
    np.testing.assert_array_equal(np.concatenate([block.vectors for block in blocks]), table)
    assert [d.doc_id for block in blocks for d in block.documents] == [str(row) for row in range(len(table))]


def test_blocks_of_two_dimensions_are_refused():
    parts = [VectorBlock([Document("a", "")], np.ones((1, width), dtype=np.float32)) for width in (2, 3)]
    with pytest.raises(UserError, match="vectors of 2 and of 3 dimensions"):
        list(ForeignVectors(Path("v"), None, lambda: parts).blocks_of(4))


def test_an_import_onto_an_index_that_was_changed_is_refused_and_leaves_it(tmp_path: Path):
    np.save(tmp_path / "v.npy", np.eye(8, dtype=np.float32))
    (tmp_path / "ids.txt").write_text("".join(f"d{i}\n" for i in range(8)))
    source = open_vectors(tmp_path / "v.npy", ids=tmp_path / "ids.txt")
    import_vectors(source, tmp_path / "i")
    delete_documents(tmp_path / "i", ["d3"])
    np.save(tmp_path / "v.npy", np.eye(8, dtype=np.float32)[::-1])
    with pytest.raises(UserError, match="was changed since it was made"):
        import_vectors(source, tmp_path / "i", resume=True)
    assert verify_index(tmp_path / "i").document_count == 7


@pytest.mark.parametrize("form", ["numpy", "pyserini"])
def test_vectors_are_never_all_in_memory(tmp_path: Path, form: str):
    count, dim = 60_000, 256  # 61 MB as float32
    folder = tmp_path / "v"
    folder.mkdir()
    vectors = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
    ids = "".join(f"d{i}\n" for i in range(count))
    if form == "numpy":
        np.save(folder / "vectors.npy", vectors)
        (folder / "ids.txt").write_text(ids)
    else:
        index = load_faiss().IndexFlatIP(dim)
        index.add(vectors)
        load_faiss().write_index(index, str(folder / "index"))
        (folder / "docid").write_text(ids)
    script = (
        "import sys, threading, time\n"
        "from ibkd_retrieval.indexing.faiss_binding import load_faiss\n"
        "from ibkd_retrieval.indexing.importing.formats import open_vectors\n"
        "import numpy as np\n"
        "load_faiss()\n"
        "def own():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(l for l in lines if l.startswith('RssAnon')).split()[1])\n"
        "source = open_vectors(sys.argv[1])\n"
        "before, most, seen = own(), 0, 0\n"
        "for block in source.blocks_of(8192):\n"
        "    seen += len(block.vectors)\n"
        "    most = max(most, own())\n"
        "assert seen == 60_000\n"
        "print(most - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        check=True,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 45_000


def test_an_import_with_few_open_files_works(tmp_path: Path):
    source = open_vectors(array_files(tmp_path / "v", clustered(90, 8)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Tests before this one leave files open in the process that runs them.
    already_open = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (already_open + 50, hard))
    try:
        import_vectors(source, tmp_path / "i", shard_size=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(open_index(tmp_path / "i")) == 90


def test_a_corpus_that_repeats_an_id_is_refused(tmp_path: Path):
    twice = corpus_of([Document("d0", "a"), Document("d0", "b")])
    with pytest.raises(UserError, match="appears twice in made-up"):
        import_vectors(open_vectors(array_files(tmp_path / "v", clustered(1, 8))), tmp_path / "i", corpus=twice)


@pytest.mark.parametrize("kind", ["Flat", "HNSW8,Flat", "IVF3,Flat", "IDMap,Flat", "IDMap2,Flat", "IDMap2,HNSW8,Flat"])
@pytest.mark.parametrize("metric", [0, 1])
def test_a_plain_file_of_faiss_is_imported_with_its_ids(tmp_path: Path, kind: str, metric: int):
    faiss = pytest.importorskip("faiss")
    table = clustered(200, 8)
    index = faiss.index_factory(8, kind, metric)
    index.train(table)
    numbers = np.arange(200)[::-1].copy()
    if kind.startswith("ID"):
        index.add_with_ids(table, numbers)
    else:
        index.add(table)
        numbers = np.arange(200)
    faiss.write_index(index, str(tmp_path / "v.faiss"))
    (tmp_path / "ids.jsonl").write_text("".join(f'{{"_id": "d{number}", "text": "x"}}\n' for number in range(200)))
    import_vectors(open_vectors(tmp_path / "v.faiss", ids=tmp_path / "ids.jsonl"), tmp_path / "i")
    opened = open_index(tmp_path / "i")
    stored = np.concatenate(list(opened.vectors()))
    expected = {f"d{number}": row.tolist() for number, row in zip(numbers, table, strict=True)}
    assert dict(zip(opened.all_ids(), stored.tolist(), strict=True)) == expected
    if kind.startswith("I"):
        # Numbers of its own are ids where no list is given.
        import_vectors(open_vectors(tmp_path / "v.faiss"), tmp_path / "j")
        assert set(open_index(tmp_path / "j").all_ids()) == {str(number) for number in range(200)}


def test_files_of_faiss_that_cannot_be_imported_are_refused_in_a_sentence(tmp_path: Path):
    faiss = pytest.importorskip("faiss")
    path = tmp_path / "v.faiss"

    def written(kind: str, numbers: list[int] | None = None) -> Path:
        index = faiss.index_factory(8, kind)
        table = clustered(40, 8)
        index.train(table)
        index.add_with_ids(table[: len(numbers)], np.array(numbers)) if numbers else index.add(table)
        faiss.write_index(index, str(path))
        return path

    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="holds vectors without ids: name the file that lists them with `ids`"):
        open_vectors(written("Flat"))
    with pytest.raises(UserError, match=r"holds 40 vectors and .* lists 2 ids"):
        open_vectors(written("Flat"), ids=tmp_path / "ids.txt")
    with pytest.raises(UserError, match="is IndexScalarQuantizer, which does not hold whole vectors"):
        open_vectors(written("SQ8"), ids=tmp_path / "ids.txt")
    with pytest.raises(UserError, match=r"numbers a vector 7 and .* lists 2 ids, from 0 on"):
        import_vectors(open_vectors(written("IDMap,Flat", [1, 7]), ids=tmp_path / "ids.txt"), tmp_path / "i")
    path.write_bytes(b"IxFI and no more")
    with pytest.raises(UserError, match="cannot be read by faiss"):
        open_vectors(path, ids=tmp_path / "ids.txt")
    assert not (tmp_path / "i").exists()
