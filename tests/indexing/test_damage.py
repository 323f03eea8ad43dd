"""Files of an index that were damaged, forged or replaced: noticed in a sentence, or harmless."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import HashingEncoder, corpus_of, numbered_corpus
from helpers.programs import environment
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.exporting import export_index
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.format.manifest import finished_indexes, read_manifest, write_manifest
from ibkd_retrieval.indexing.format.shards import file_record
from ibkd_retrieval.indexing.importing.formats import open_vectors
from ibkd_retrieval.indexing.index import open_index


def flipped(path: Path, generator: np.random.Generator) -> bytes:
    """The bytes of a file with one bit flipped, in place; returns what they were."""
    before = path.read_bytes()
    data = bytearray(before)
    data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
    path.write_bytes(data)
    return before


@pytest.mark.parametrize("name", ["docids.offsets.npy", "docids", "deleted", "index.faiss", "index.json"])
def test_a_flipped_bit_in_what_decides_the_answers_is_noticed_at_opening_or_harmless(tmp_path: Path, name: str):
    build_index(numbered_corpus(60), HashingEncoder(), tmp_path / "i", shard_size=20)
    manifest = delete_documents(tmp_path / "i", ["d7", "d9"])
    path = tmp_path / "i" / (manifest.tombstones if name == "deleted" else name)
    sound = open_index(tmp_path / "i")
    queries = HashingEncoder().encode(["text 3", "text 50"])
    due = [sound.doc_ids(row) for row in sound.search(queries, 10)[1]]
    generator = np.random.default_rng(0)
    for _ in range(20):
        before = flipped(path, generator)
        try:
            index = open_index(tmp_path / "i")
            assert [index.doc_ids(row) for row in index.search(queries, 10)[1]] == due
            assert name == "index.json"
        except UserError:
            pass
        path.write_bytes(before)


def test_a_flipped_bit_in_the_offsets_of_texts_is_noticed_when_they_are_read(tmp_path: Path):
    build_index(numbered_corpus(60), HashingEncoder(), tmp_path / "i", shard_size=20)
    path = tmp_path / "i" / "documents" / "00001.jsonl.offsets.npy"
    generator = np.random.default_rng(0)
    for _ in range(20):
        before = flipped(path, generator)
        index = open_index(tmp_path / "i")
        assert index.document(3).doc_id == "d3"
        with pytest.raises(UserError, match="00001"):
            index.document(25)
        path.write_bytes(before)


@pytest.mark.parametrize("family", ["flat", "ivf-flat"])
def test_a_flipped_bit_in_texts_or_vectors_is_noticed_before_they_are_shown_or_compared(tmp_path: Path, family: str):
    build_index(numbered_corpus(60), HashingEncoder(), tmp_path / "i", family=family, shard_size=20)
    generator, queries = np.random.default_rng(0), HashingEncoder().encode(["text 3"])
    only = np.arange(60) >= 20
    for name in ("documents/00001.jsonl", "vectors/00001.npy"):
        for _ in range(5):
            before = flipped(tmp_path / "i" / name, generator)
            with pytest.raises(UserError, match="00001"):
                search_and_read(tmp_path / "i", queries, only)
            with pytest.raises(UserError, match="00001"):
                export_index(tmp_path / "i", tmp_path / "out", "parquet")
            (tmp_path / "i" / name).write_bytes(before)
    search_and_read(tmp_path / "i", queries, only)


def search_and_read(folder: Path, queries: np.ndarray, only: np.ndarray) -> None:
    index = open_index(folder)
    assert index.search(queries, 3, allowed=only)[1].min() >= 20
    assert index.document(25).doc_id == "d25"


def test_a_forged_list_of_deleted_rows_is_refused(tmp_path: Path):
    build_index(numbered_corpus(60), HashingEncoder(), tmp_path / "i")
    manifest = delete_documents(tmp_path / "i", ["d7", "d9"])
    name = str(manifest.tombstones)
    np.save(tmp_path / "i" / name, np.array([7, 10**12]))
    manifest.files[name] = file_record(tmp_path / "i", name)
    write_manifest(tmp_path / "i", manifest)
    with pytest.raises(UserError, match="rows that are not there"):
        open_index(tmp_path / "i")


def with_lists_on_disk(folder: Path, lists: Path) -> None:
    """Put an index of inverted lists in `lists` in the place of an index folder's own."""
    faiss = load_faiss()
    index = open_index(folder)
    vectors = np.concatenate(list(index.vectors()))
    quantiser = faiss.IndexFlatIP(vectors.shape[1])
    quantiser.add(vectors[:4])
    made = faiss.IndexIVFFlat(quantiser, vectors.shape[1], 4, faiss.METRIC_INNER_PRODUCT)
    made.add(vectors)
    disk = faiss.OnDiskInvertedLists(4, made.code_size, str(lists))
    for number in range(4):
        size = made.invlists.list_size(number)
        disk.add_entries(number, size, made.invlists.get_ids(number), made.invlists.get_codes(number))
    made.replace_invlists(disk, False)
    faiss.write_index(made, str(folder / "index.faiss"))
    manifest = read_manifest(folder)
    manifest.files["index.faiss"] = file_record(folder, "index.faiss")
    write_manifest(folder, manifest)


def test_inverted_lists_on_disk_that_lead_outside_the_folder_are_not_opened(tmp_path: Path):
    build_index(numbered_corpus(60), HashingEncoder(), tmp_path / "i")
    outside = tmp_path / "outside.ivf"
    with_lists_on_disk(tmp_path / "i", outside)
    outside.write_bytes(b"mine")
    with pytest.raises(UserError, match="outside its folder"):
        open_index(tmp_path / "i")
    with pytest.raises(UserError, match="outside its folder"):
        append_documents(corpus_of([Document("n", "new")], "more"), HashingEncoder(), tmp_path / "i")
    (tmp_path / "p").mkdir()
    (tmp_path / "i" / "index.faiss").rename(tmp_path / "p" / "index")
    (tmp_path / "p" / "docid").write_text("a\n")
    with pytest.raises(UserError, match="outside its folder"):
        open_vectors(tmp_path / "p")
    assert outside.read_bytes() == b"mine"


def test_inverted_lists_on_disk_in_the_folder_are_opened(tmp_path: Path):
    build_index(numbered_corpus(60), HashingEncoder(), tmp_path / "i")
    with_lists_on_disk(tmp_path / "i", tmp_path / "i" / "lists.ivf")
    assert open_index(tmp_path / "i").search(HashingEncoder().encode(["text 3"]), 1)[1].shape == (1, 1)


READER = """
import sys
from pathlib import Path
from ibkd_retrieval.indexing.contents import open_contents
from ibkd_retrieval.indexing.index import open_index
folder, stop, opened = Path(sys.argv[1]), Path(sys.argv[2]), 0
while not stop.exists():
    for opening in (open_index, open_contents):
        index = opening(folder)
        assert len(list(index.present_ids())) == len(index)
        opened += 1
        if opened == 1:
            print("reading", flush=True)
print(opened)
"""


def test_readers_beside_one_that_appends_and_deletes_are_never_told_of_damage(tmp_path: Path):
    folder, stop = tmp_path / "i", tmp_path / "stop"
    build_index(numbered_corpus(40), HashingEncoder(), folder, shard_size=10)
    # Processes and not threads: Python before 3.11.8 fails to parse headers of arrays in two threads at once.
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(folder), str(stop)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        assert all(reader.stdout is not None and reader.stdout.readline() == "reading\n" for reader in readers)
        for number in range(25):
            append_documents(corpus_of([Document(f"n{number}", f"new {number}")], "more"), HashingEncoder(), folder)
            delete_documents(folder, [f"n{number}"])
    finally:
        stop.touch()
        ended = [reader.communicate(timeout=60) for reader in readers]
    assert [wrong for _, wrong in ended] == ["", ""]
    assert all(int(opened) > 5 for opened, _ in ended)


def test_json_that_is_nested_too_deeply_is_a_sentence_and_no_trouble_to_its_neighbours(tmp_path: Path):
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "sound")
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "deep")
    nested = "[" * 100_000 + "]" * 100_000
    for name in ("index.json", "build.json", "shards/00000.json"):
        (tmp_path / "deep" / name).write_text(nested)
    with pytest.raises(UserError, match="nested too deeply"):
        read_manifest(tmp_path / "deep")
    assert finished_indexes(tmp_path)[0][0] == tmp_path / "sound"
    with pytest.raises(UserError):
        build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "deep", overwrite=True)
