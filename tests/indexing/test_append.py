import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import HashingEncoder, Listener, TableEncoder, clustered, corpus_of, numbered_corpus
from helpers.killing import Killed, killed_at_rename
from helpers.programs import environment
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import open_index

SLOW_APPEND = """
from helpers.indexing_fakes import HashingEncoder, corpus_of
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.indexing.append import append_documents
more = corpus_of([Document(f"e{{i}}", f"extra {{i}}") for i in range(60)], "more")
append_documents(more, HashingEncoder(sleep=0.15), {folder!r})
"""


def more(count: int, start: int = 0) -> object:
    return corpus_of([Document(f"e{i}", f"extra {i}") for i in range(start, start + count)], "more")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    return tmp_path / "i"


def nearest(folder: Path, text: str, k: int = 3) -> list[str]:
    index = open_index(folder)
    _, rows = index.search(HashingEncoder().vector(text)[None], k)
    return index.doc_ids(rows[0][rows[0] >= 0])


def test_only_new_documents_are_encoded_and_all_are_found(folder: Path):
    before, encoder = read_manifest(folder), HashingEncoder()
    manifest = append_documents(more(12), encoder, folder)
    assert sorted(encoder.encoded) == sorted(f"extra {i}" for i in range(12))
    assert (manifest.document_count, manifest.rows, manifest.format_version) == (37, 37, 2)
    assert [shard.documents for shard in manifest.shards] == [10, 10, 5, 10, 2]
    assert manifest.corpus.name == before.corpus.name
    assert manifest.corpus.fingerprint != before.corpus.fingerprint
    assert [(change.kind, change.documents, change.corpus) for change in manifest.changes] == [("append", 12, "more")]
    assert nearest(folder, "extra 11")[0] == "e11"
    assert nearest(folder, "text of document 4")[0] == "d4"
    verify_index(folder)
    listed = {"index.json", "build.json", *(f"shards/0000{i}.json" for i in range(5)), *manifest.files}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == listed


def test_appending_twice_equals_indexing_all_at_once(tmp_path: Path):
    documents = list(numbered_corpus(60).documents())
    folder = tmp_path / "grown"
    build_index(corpus_of(documents[:20]), HashingEncoder(), folder, shard_size=10)
    append_documents(corpus_of(documents[20:40]), HashingEncoder(), folder)
    append_documents(corpus_of(documents[40:]), HashingEncoder(), folder)
    build_index(corpus_of(documents), HashingEncoder(), tmp_path / "whole", shard_size=10)
    grown, whole = open_index(folder, verify=True), open_index(tmp_path / "whole")
    for ours, theirs in zip(grown.vectors(), whole.vectors(), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert list(grown.all_ids()) == list(whole.all_ids())
    queries = np.stack([HashingEncoder().vector(f"query {i}") for i in range(9)])
    assert np.array_equal(grown.search(queries, 60)[1], whole.search(queries, 60)[1])
    assert [grown.document(row) for row in range(60)] == documents


def test_a_trained_structure_takes_new_vectors_without_training(tmp_path: Path):
    table = clustered(2000, 16)
    encoder = TableEncoder(table)
    rows = [Document(f"d{i}", str(i)) for i in range(2000)]
    folder = tmp_path / "i"
    before = build_index(corpus_of(rows[:1500]), encoder, folder, family="ivf-pq", shard_size=500)
    after = append_documents(corpus_of(rows[1500:]), encoder, folder)
    assert (after.factory, after.search) == (before.factory, before.search)
    index = open_index(folder)
    found = index.search(table[1500:], 1)[1][:, 0]
    assert np.mean(found == np.arange(1500, 2000)) > 0.95


def test_a_killed_append_leaves_the_old_index_and_goes_on(folder: Path, tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "whole", shard_size=10)
    undisturbed = append_documents(more(60), HashingEncoder(), tmp_path / "whole")
    before = (folder / "index.json").read_bytes()
    script = SLOW_APPEND.format(folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", script], env=environment())
    deadline = time.monotonic() + 60
    while len(list(folder.glob("shards/*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "index.json").read_bytes() == before
    verify_index(folder)
    assert nearest(folder, "text of document 4")[0] == "d4"
    with pytest.raises(UserError, match=r"unfinished: go on with `append\(resume=True\)`"):
        append_documents(more(60), HashingEncoder(), folder)
    with pytest.raises(UserError, match="not one of made-up"):
        append_documents(numbered_corpus(5), HashingEncoder(), folder, resume=True)

    encoder = HashingEncoder()
    done = len(list(folder.glob("shards/*.json"))) - 3
    after = append_documents(more(60), encoder, folder, resume=True)
    assert len(encoder.encoded) == 60 - 10 * done
    assert after.files == undisturbed.files
    assert after.corpus.fingerprint == undisturbed.corpus.fingerprint
    assert not list(folder.glob("append.json"))


def test_an_append_broken_off_before_any_rename_leaves_a_sound_index(tmp_path: Path):
    renames = 0
    while True:
        folder = tmp_path / f"i{renames}"
        build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
        try:
            with killed_at_rename(renames):
                append_documents(more(15), HashingEncoder(), folder)
            break
        except Killed:
            assert read_manifest(folder).document_count == 25
            verify_index(folder)
            append_documents(more(15), HashingEncoder(), folder, resume=True)
            assert nearest(folder, "extra 14")[0] == "e14"
            verify_index(folder)
            renames += 1
    assert renames > 10


def test_an_append_refused_before_anything_was_encoded_leaves_nothing_behind(folder: Path):
    with pytest.raises(UserError, match="already in the index"):
        append_documents(numbered_corpus(3), HashingEncoder(), folder)
    assert not (folder / "append.json").exists()
    assert append_documents(more(3), HashingEncoder(), folder).document_count == 28


class Refusing(HashingEncoder):
    """Breaks an append of more than fifteen texts off, when a shard of it is done."""

    def encode(self, texts, kind="document", progress=None):
        if "extra 15" in texts:
            raise UserError("no further")
        return super().encode(texts, kind, progress)


def test_an_unfinished_append_can_be_dropped(folder: Path):
    with pytest.raises(UserError, match="no further"):
        append_documents(more(20), Refusing(), folder)
    assert len(list(folder.glob("shards/*.json"))) == 4
    manifest = append_documents(numbered_documents("f", 5), HashingEncoder(), folder, restart=True)
    assert manifest.document_count == 30
    assert nearest(folder, "f 3")[0] == "f3"


def numbered_documents(prefix: str, count: int) -> object:
    return corpus_of([Document(f"{prefix}{i}", f"{prefix} {i}") for i in range(count)], prefix)


def test_an_id_that_is_there_is_refused_and_one_that_was_deleted_is_not(folder: Path):
    again = corpus_of([Document("new", "x"), Document("d7", "seven anew")], "again")
    with pytest.raises(UserError, match="'d7' of again is already in the index"):
        append_documents(again, HashingEncoder(), folder)
    delete_documents(folder, ["d7"])
    append_documents(again, HashingEncoder(), folder, restart=True)
    assert nearest(folder, "seven anew")[0] == "d7"
    assert nearest(folder, "title 7 text of document 7")[0] != "d7"
    seven = corpus_of([Document("d7", "seven once more")], "again")
    with pytest.raises(UserError, match="'d7' of again is already"):
        append_documents(seven, HashingEncoder(), folder)


def test_another_encoder_and_an_empty_corpus_are_refused(folder: Path):
    with pytest.raises(UserError, match="weight_hash differ"):
        append_documents(more(3), HashingEncoder(weight_hash="0b"), folder)
    with pytest.raises(UserError, match="dim differ"):
        append_documents(more(3), HashingEncoder(dim=8), folder)
    with pytest.raises(UserError, match="nothing to append"):
        append_documents(more(0), HashingEncoder(), folder)
    with pytest.raises(UserError, match="no index folder"):
        append_documents(more(3), HashingEncoder(), folder / "none")
    verify_index(folder)


def test_a_changed_index_is_not_taken_for_its_corpus(folder: Path):
    append_documents(more(3), HashingEncoder(), folder)
    with pytest.raises(UserError, match=r"was changed since it was made \(append\)"):
        build_index(numbered_corpus(25), HashingEncoder(), folder, resume=True)
    verify_index(folder)


def test_growing_past_what_was_trained_is_said(tmp_path: Path):
    table = clustered(2500, 16)
    rows = [Document(f"d{i}", str(i)) for i in range(2500)]
    build_index(corpus_of(rows[:1000]), TableEncoder(table), tmp_path / "i", family="ivf-pq")
    listener = Listener()
    append_documents(corpus_of(rows[1000:]), TableEncoder(table), tmp_path / "i", progress=listener)
    assert any("train them anew" in said for said in listener.said)


def test_growing_in_small_steps_past_what_was_trained_is_said(tmp_path: Path):
    table = clustered(2400, 16)
    rows = [Document(f"d{i}", str(i)) for i in range(2400)]
    build_index(corpus_of(rows[:1000]), TableEncoder(table), tmp_path / "i", family="ivf-pq")
    said = []
    for start in range(1000, 2400, 200):
        listener = Listener()
        append_documents(corpus_of(rows[start : start + 200]), TableEncoder(table), tmp_path / "i", progress=listener)
        said.append(any("train them anew" in each for each in listener.said))
    assert said == [False] * 5 + [True] * 2
    combine_indexes([tmp_path / "i"], tmp_path / "j", family="ivf-pq")
    assert read_manifest(tmp_path / "j").trained_rows == 2400


def test_a_build_is_repaired_beside_an_append_that_was_broken_off(folder: Path):
    with pytest.raises(UserError, match="no further"):
        append_documents(more(20), Refusing(), folder)
    (folder / "vectors" / "00001.npy").unlink()
    build_index(numbered_corpus(25), HashingEncoder(), folder, resume=True)
    verify_index(folder)
    other = corpus_of([Document("x", "another")], more(20).name)
    with pytest.raises(UserError, match=r"drop that append with `append\(overwrite=True\)`"):
        append_documents(other, HashingEncoder(), folder, resume=True)
    assert append_documents(more(20), HashingEncoder(), folder, resume=True).document_count == 45
    verify_index(folder)


def test_a_damaged_structure_of_a_changed_index_is_made_anew_from_its_vectors(folder: Path, tmp_path: Path):
    append_documents(more(3), HashingEncoder(), folder)
    (structure,) = folder.glob("index*.faiss")
    structure.write_bytes(structure.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"`combine\(from_='.*', type='flat', output=OTHER\)`"):
        open_index(folder)
    with pytest.raises(UserError, match=r"`combine\("):
        append_documents(numbered_documents("f", 3), HashingEncoder(), folder)
    assert combine_indexes([folder], tmp_path / "sound").document_count == 28
    verify_index(tmp_path / "sound")
