import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import (
    HashingEncoder,
    Listener,
    TableEncoder,
    clustered,
    corpus_of,
    numbered_corpus,
    table_corpus,
)
from helpers.killing import Killed, killed_at_rename
from helpers.programs import environment
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.memory import MemoryPlan
from ibkd_retrieval.indexing.building.plan import fingerprint
from ibkd_retrieval.indexing.contents import open_contents
from ibkd_retrieval.indexing.families import family_named
from ibkd_retrieval.indexing.format import shards
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.format.shards import ShardRecord
from ibkd_retrieval.indexing.index import open_index

SLOW_BUILD = """
from helpers.indexing_fakes import HashingEncoder, numbered_corpus
from ibkd_retrieval.indexing.build import build_index
build_index(numbered_corpus(95), HashingEncoder(sleep=0.15), {folder!r}, shard_size=10)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that hold times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "shards" and path.name != "index.json"
    }


def test_a_build_killed_at_any_point_and_resumed_equals_one_that_was_not(tmp_path: Path):
    build_index(numbered_corpus(95), HashingEncoder(), tmp_path / "whole", shard_size=10)
    folder = tmp_path / "killed"
    script = SLOW_BUILD.format(folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", script], env=environment())
    deadline = time.monotonic() + 60
    while len(list(folder.glob("shards/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(folder.glob("shards/*.json")))
    assert 3 <= done < 10
    (folder / "vectors" / ".00007.npy.4242.tmp").write_bytes(b"half")
    with pytest.raises(UserError, match="resume=True"):
        read_manifest(folder)
    with pytest.raises(UserError, match="`resume` or replace with `overwrite`"):
        build_index(numbered_corpus(95), HashingEncoder(), folder, shard_size=10)

    encoder, listener = HashingEncoder(), Listener()
    build_index(numbered_corpus(95), encoder, folder, resume=True, shard_size=50, progress=listener)
    assert len(encoder.encoded) == 95 - 10 * done
    assert listener.done["Encoding documents"] == 95
    assert any("shards of 10 documents" in said for said in listener.said)
    assert contents(folder) == contents(tmp_path / "whole")
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    verify_index(folder)


def test_a_build_broken_off_before_any_rename_can_be_resumed(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "whole", shard_size=10)
    renames = 0
    while True:
        folder = tmp_path / f"broken{renames}"
        try:
            with killed_at_rename(renames):
                build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
            break
        except Killed:
            build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10, resume=True)
            assert contents(folder) == contents(tmp_path / "whole")
            verify_index(folder)
            renames += 1
    assert renames > 14


def test_the_manifest_describes_what_was_built(tmp_path: Path):
    corpus, encoder = numbered_corpus(25), HashingEncoder(dim=8)
    manifest = build_index(corpus, encoder, tmp_path / "i", shard_size=10)
    assert manifest == read_manifest(tmp_path / "i")
    assert manifest.document_count == 25
    assert [shard.documents for shard in manifest.shards] == [10, 10, 5]
    assert manifest.corpus.name == corpus.name
    assert manifest.corpus.fingerprint == fingerprint(corpus.documents())
    assert (manifest.encoder.weight_hash, manifest.dim, manifest.metric) == ("0a", 8, "inner_product")
    assert manifest.build.peak_memory_bytes > 10_000_000
    assert manifest.versions["numpy"] == np.__version__
    on_disk = {path.relative_to(tmp_path / "i").as_posix() for path in (tmp_path / "i").rglob("*") if path.is_file()}
    assert on_disk - set(manifest.files) == {"index.json", "build.json", *(f"shards/0000{i}.json" for i in range(3))}
    assert manifest.disk_bytes == sum((tmp_path / "i" / name).stat().st_size for name in manifest.files)


def test_every_document_comes_back_at_its_row(tmp_path: Path):
    awkward = [
        Document("a", "line\nfeed \u2028 \x85 and \r return", 'a "title"'),
        Document("b", ""),
        Document("ü☃", "lone \ud800 surrogate", "t"),
        Document("c\u200b", "text", "\n"),
    ]
    build_index(corpus_of(awkward), HashingEncoder(), tmp_path / "i", shard_size=3)
    index = open_index(tmp_path / "i", verify=True)
    assert [index.document(row) for row in range(4)] == awkward
    assert index.doc_ids(np.arange(4)) == [document.doc_id for document in awkward]
    assert index.doc_id(2) == "ü☃"
    for row in (-1, 4):
        with pytest.raises(IndexError):
            index.document(row)
        with pytest.raises(IndexError):
            index.doc_id(row)


def test_the_encoder_reads_title_and_text(tmp_path: Path):
    encoder = HashingEncoder()
    build_index(corpus_of([Document("a", "text", "title"), Document("b", "alone")]), encoder, tmp_path / "i")
    assert encoder.encoded == ["title text", "alone"]


@pytest.mark.parametrize("name", ["vectors/00001.npy", "documents/00001.jsonl", "documents/00001.jsonl.offsets.npy"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
@pytest.mark.parametrize("finished", [True, False])
def test_only_a_damaged_shard_is_encoded_again(tmp_path: Path, name: str, damage: str, finished: bool):
    folder = tmp_path / "i"
    build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
    whole = contents(folder)
    if not finished:
        (folder / "index.json").unlink()
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data[:-1] if damage == "cut" else data)
    if damage == "delete":
        (folder / name).unlink()
    encoder, listener = HashingEncoder(), Listener()
    build_index(numbered_corpus(25), encoder, folder, resume=True, progress=listener)
    assert len(encoder.encoded) == 10
    assert any("Shard 1" in said for said in listener.said)
    assert contents(folder) == whole
    verify_index(folder)


def test_a_shard_whose_record_cannot_be_read_is_encoded_again(tmp_path: Path):
    folder = tmp_path / "i"
    build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
    for content in (b"", b"{}", b"[1]", b'{"documents": "10"}', b"\xff"):
        (folder / "shards" / "00000.json").write_bytes(content)
        encoder = HashingEncoder()
        build_index(numbered_corpus(25), encoder, folder, resume=True)
        assert len(encoder.encoded) == 10
        verify_index(folder)


def test_resuming_a_finished_index_does_nothing_and_says_so(tmp_path: Path):
    manifest = build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "i").rglob("*") if path.is_file()}
    listener = Listener()
    assert (
        build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", resume=True, progress=listener) == manifest
    )
    assert "nothing was left to do" in listener.said[-1]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "i").rglob("*") if path.is_file()}


def test_resuming_with_another_family_encodes_nothing(tmp_path: Path):
    table = clustered(1200, 16)
    build_index(table_corpus(1200), TableEncoder(table), tmp_path / "i", shard_size=500)
    encoder = TableEncoder(table)
    manifest = build_index(table_corpus(1200), encoder, tmp_path / "i", family="ivf-pq", resume=True)
    assert encoder.encoded == []
    assert manifest.family == "ivf-pq"
    assert len(open_index(tmp_path / "i", verify=True)) == 1200


@pytest.mark.parametrize("finished", [True, False])
def test_a_corpus_that_changed_cannot_be_resumed(tmp_path: Path, finished: bool):
    folder = tmp_path / "i"
    original = list(numbered_corpus(25).documents())
    build_index(corpus_of(original), HashingEncoder(), folder, shard_size=10)
    if not finished:
        (folder / "index.json").unlink()
    before = contents(folder)
    changed = [
        [*original[:3], Document("d3", "edited"), *original[4:]],
        [Document("renamed", original[0].text), *original[1:]],
        [original[1], original[0], *original[2:]],
        original[:-1],
        original[:20],
        original[:10],
        [*original, Document("d25", "one more")],
        [original[1], *original[1:]],
    ]
    for documents in changed:
        encoder = HashingEncoder()
        with pytest.raises(UserError, match=r"not the one .* `overwrite`"):
            build_index(corpus_of(documents), encoder, folder, resume=True)
        assert encoder.encoded == []
    assert contents(folder) == before
    assert (folder / "index.json").exists() == finished


def test_another_encoder_cannot_resume_but_the_same_under_another_name_can(tmp_path: Path):
    folder = tmp_path / "i"
    build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
    (folder / "index.json").unlink()
    with pytest.raises(UserError, match="weight_hash differ"):
        build_index(numbered_corpus(25), HashingEncoder(weight_hash="0b"), folder, resume=True)
    prompted = HashingEncoder()
    prompted.prompts = {"query": "query: ", "document": ""}
    with pytest.raises(UserError, match="prompts differ"):
        build_index(numbered_corpus(25), prompted, folder, resume=True)
    moved = HashingEncoder()
    moved.name = "elsewhere/hashing"
    build_index(numbered_corpus(25), moved, folder, resume=True)
    assert moved.encoded == []


def test_a_repeated_id_is_named_with_both_positions_before_its_shard_is_encoded(tmp_path: Path):
    documents = list(numbered_corpus(25).documents())
    documents[23] = Document("d4", "again")
    encoder = HashingEncoder()
    with pytest.raises(UserError, match="'d4' appears twice in made-up, as documents 5 and 24"):
        build_index(corpus_of(documents), encoder, tmp_path / "i", shard_size=10)
    assert len(encoder.encoded) == 20
    documents[23] = Document("d21", "again")
    with pytest.raises(UserError, match=r"'d21' .* documents 22 and 24"):
        build_index(corpus_of(documents), HashingEncoder(), tmp_path / "i", resume=True)


def test_an_empty_corpus_is_refused_before_anything_is_deleted(tmp_path: Path):
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i")
    with pytest.raises(UserError, match="no documents"):
        build_index(corpus_of([]), HashingEncoder(), tmp_path / "i", overwrite=True)
    verify_index(tmp_path / "i")


def test_a_vector_that_is_not_finite_names_its_document(tmp_path: Path):
    for value in (np.nan, np.inf):
        table = clustered(20, 8)
        table[13, 5] = value
        with pytest.raises(UserError, match="'d13'"):
            build_index(table_corpus(20), TableEncoder(table), tmp_path / str(value), shard_size=10)


def test_an_encoder_that_gives_another_dimension_than_it_says_is_refused(tmp_path: Path):
    encoder = TableEncoder(clustered(20, 8))
    encoder.dim = 9
    with pytest.raises(UserError, match="shape"):
        build_index(table_corpus(20), encoder, tmp_path / "i")


def test_a_finished_index_is_replaced_only_with_overwrite(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    with pytest.raises(UserError, match="`overwrite`"):
        build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i")
    with pytest.raises(UserError, match="one of `resume` and `overwrite`"):
        build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i", resume=True, overwrite=True)
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i", overwrite=True)
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "new")
    assert contents(tmp_path / "i") == contents(tmp_path / "new")


def test_overwriting_leaves_what_is_not_of_an_index(tmp_path: Path):
    folder = tmp_path / "i"
    build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
    for name in ("notes.txt", "vectors/mine.npy", "documents/00000.txt", "other/00000.npy"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    build_index(numbered_corpus(5), HashingEncoder(), folder, overwrite=True)
    for name in ("notes.txt", "vectors/mine.npy", "documents/00000.txt", "other/00000.npy"):
        assert (folder / name).read_text() == "mine"
    verify_index(folder)


@pytest.mark.parametrize("name", ["thesis.tex", "vectors/00000.npy", "index.json", ".hidden"])
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_strangers_folder_is_refused_and_untouched(tmp_path: Path, name: str, options: dict):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"theirs": true}')
    with pytest.raises(UserError, match="`output`"):
        build_index(numbered_corpus(5), HashingEncoder(), tmp_path, **options)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_a_file_where_the_folder_should_be_is_a_user_error(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="`output`"):
            build_index(numbered_corpus(5), HashingEncoder(), folder)


def test_a_folder_that_may_not_be_written_is_a_user_error_and_a_full_disk_is_failed_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(number):
        def replace(source, target):
            raise OSError(number, os.strerror(number), str(target))

        return replace

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse(errno.EACCES))
        with pytest.raises(UserError, match="cannot be written"):
            build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse(errno.ENOSPC))
        with pytest.raises(WorkFailed, match=r"No space left on device while writing to .*b: .* `resume`"):
            build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "b")
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "b")


def test_unreadable_shards_of_the_corpus_are_not_blamed_on_the_folder(tmp_path: Path):
    class Refused(HashingEncoder):
        def encode(self, texts, kind="document", progress=None):
            raise PermissionError(errno.EACCES, "Permission denied", "/models/weights")

    with pytest.raises(PermissionError):
        build_index(numbered_corpus(5), Refused(), tmp_path / "i")


def test_a_moved_index_still_opens_and_resumes(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    shutil.move(tmp_path / "i", tmp_path / "j")
    assert len(open_index(tmp_path / "j", verify=True)) == 25
    encoder = HashingEncoder()
    build_index(numbered_corpus(25), encoder, tmp_path / "j", resume=True)
    assert encoder.encoded == []


def test_records_of_shards_are_plain_json(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    record = json.loads((tmp_path / "i" / "shards" / "00002.json").read_text())
    assert record["documents"] == 5
    assert set(ShardRecord.__dataclass_fields__) | {"format"} == set(record)


def test_a_text_that_no_tokenizer_takes_is_named_by_its_document(tmp_path, monkeypatch):
    from ibkd_retrieval.encoders.tokens import text_errors

    class Strict(HashingEncoder):
        def prepare(self, texts, kind="document"):
            with text_errors(texts, 0):
                [text.encode("utf-8") for text in texts]

        def encode_prepared(self, prepared, progress=None):
            raise AssertionError

    documents = [Document(f"d{i}", "half \ud800" if i == 3 else "whole") for i in range(5)]
    with pytest.raises(UserError, match=r"Document 4 of .* \(d3\) holds half of a surrogate pair"):
        build_index(corpus_of(documents), Strict(), tmp_path / "i", shard_size=2)


@pytest.mark.parametrize(
    "family", [family_named("factory", factory="OPQ7,Nonsense"), family_named("ivf-pq", subquantisers=7)]
)
def test_a_family_that_does_not_suit_the_dimension_is_refused_before_anything_is_encoded(tmp_path: Path, family):
    encoder = HashingEncoder()
    with pytest.raises(UserError, match=r"could not parse|do not divide"):
        build_index(numbered_corpus(5), encoder, tmp_path / "i", family=family)
    assert encoder.encoded == []
    assert not (tmp_path / "i").exists()


def test_memory_that_somebody_named_bounds_the_structure_too(tmp_path: Path):
    table = clustered(1500, 16)
    plan = MemoryPlan(limit=90_000, shard_size=500, shard_text=10**6, depth=1, batch_tokens=4096, asked=True)
    encoder = TableEncoder(table)
    with pytest.raises(UserError, match=r"An index of type hnsw of 1,500 vectors takes .* `memory` allows 0"):
        build_index(table_corpus(1500), encoder, tmp_path / "i", family="hnsw", memory=plan)
    assert encoder.encoded == []
    # A flat one needs no structure: its vectors are searched where they lie.
    manifest = build_index(table_corpus(1500), encoder, tmp_path / "i", memory=plan)
    assert manifest.structure not in manifest.files
    unnamed = dataclasses.replace(plan, asked=False)
    assert build_index(table_corpus(1500), encoder, tmp_path / "j", family="hnsw", memory=unnamed).family == "hnsw"


def test_ids_are_not_read_out_of_documents_again_and_an_index_holds_them_once(tmp_path: Path, monkeypatch):
    read: list[str] = []
    parsed = shards.parse_fast
    monkeypatch.setattr(shards, "parse_fast", lambda line: read.append(line) or parsed(line))
    odd = corpus_of([Document(f"d {i}é\x7f-x", f"text {i}") for i in range(25)])
    folder = tmp_path / "i"
    build_index(odd, HashingEncoder(), folder, shard_size=10)
    append_documents(numbered_corpus(15), HashingEncoder(), folder)
    due = [document.doc_id for corpus in (odd, numbered_corpus(15)) for document in corpus.documents()]
    assert list(open_contents(folder).all_ids()) == due
    assert not read
    assert not list(folder.rglob("*.ids"))


@pytest.mark.parametrize("fault", ["absent", "of other documents"])
def test_ids_come_out_of_documents_where_an_earlier_version_or_damage_left_no_list(tmp_path: Path, fault: str):
    class Breaking(HashingEncoder):
        def encode(self, texts, kind="document", progress=None):
            if len(self.encoded) >= 20:
                raise RuntimeError("power")
            return super().encode(texts, kind, progress)

    folder = tmp_path / "i"
    with pytest.raises(RuntimeError, match="power"):
        build_index(numbered_corpus(25), Breaking(), folder, shard_size=10)
    ids = folder / "shards" / "00000.ids"
    assert ids.read_text() == "".join(f"d{i}\n" for i in range(10))
    ids.unlink() if fault == "absent" else ids.write_text("x\n" * 10)
    build_index(numbered_corpus(25), HashingEncoder(), folder, resume=True)
    assert list(open_contents(folder).all_ids()) == [f"d{i}" for i in range(25)]


def test_a_build_is_resumed_in_other_memory_with_the_shards_that_it_was_begun_with(tmp_path: Path):
    class Breaking(HashingEncoder):
        def encode(self, texts, kind="document", progress=None):
            if len(self.encoded) >= 20:
                raise RuntimeError("power")
            return super().encode(texts, kind, progress)

    plans = [MemoryPlan(10**9, size, text, 1, 4096) for size, text in ((10, 240), (4, 90), (50, 10**6))]
    due = build_index(numbered_corpus(45), HashingEncoder(), tmp_path / "due", memory=plans[0])
    assert {shard.documents for shard in due.shards} > {10}  # Text closes the others.
    for plan in plans[1:]:
        folder = tmp_path / str(plan.shard_size)
        with pytest.raises(RuntimeError, match="power"):
            build_index(numbered_corpus(45), Breaking(), folder, memory=plans[0])
        begun = len(list(folder.glob("shards/*.json")))
        encoder = HashingEncoder()
        found = build_index(numbered_corpus(45), encoder, folder, resume=True, memory=plan)
        assert (found.shards, found.files.keys()) == (due.shards, due.files.keys())
        assert 0 < len(encoder.encoded) < 45
        assert begun > 1
