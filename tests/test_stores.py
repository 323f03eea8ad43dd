"""Corpora and indexes in an object store, against an S3-compatible server."""

import gzip
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ibkd_retrieval as ibkd
from helpers.indexing_fakes import HashingEncoder, numbered_corpus
from helpers.object_store import bucket, endpoint, make_bucket, serving  # noqa: F401
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.remote import local_folder, upload_index
from ibkd_retrieval.stores import Store, address_of

LINES = [{"_id": f"d{i}", "title": "", "text": f"text of document {i}"} for i in range(2000)]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    return tmp_path / "i"


def test_addresses_are_known_from_paths_too():
    assert [address_of(Path(f"{scheme}://bucket/a/b")) for scheme in ("s3", "gs")] == [
        "s3://bucket/a/b",
        "gs://bucket/a/b",
    ]
    assert [address_of(name) for name in ("/s3/x", "s3", "s3:", "s3://", "http://host/x", "c:/x")] == [None] * 6


@pytest.mark.parametrize(
    "name", ["docs.jsonl", "docs.jsonl.gz", "docs.jsonl.zst", "docs.json", "docs.tsv", "docs.parquet"]
)
def test_a_corpus_is_read_out_of_a_store_as_out_of_a_file(bucket, tmp_path, name):  # noqa: F811
    lines = "".join(json.dumps(line) + "\n" for line in LINES).encode()
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(LINES), path, row_group_size=300)
    elif name.endswith(".tsv"):
        path.write_text("".join(f"{line['_id']}\t{line['text']}\n" for line in LINES))
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines))
    elif name.endswith(".zst"):
        path.write_bytes(pa.compress(lines, "zstd", asbytes=True))
    else:
        path.write_bytes(json.dumps(LINES).encode() if name.endswith(".json") else lines)
    Store(f"{bucket}/corpora").upload(path, name)
    corpus = open_corpus(f"{bucket}/corpora/{name}")
    assert corpus.name == f"{bucket}/corpora/{name}"
    assert list(corpus.documents()) == list(open_corpus(path).documents())
    assert len(open_queries(Path(f"{bucket}/corpora/{name}")).queries) == 2000
    built = build_index(corpus, HashingEncoder(), tmp_path / "i")
    assert (
        built.corpus.fingerprint == build_index(open_corpus(path), HashingEncoder(), tmp_path / "j").corpus.fingerprint
    )


def test_a_corpus_that_changes_while_it_is_read_is_one_sentence(bucket, monkeypatch):  # noqa: F811
    monkeypatch.setattr("ibkd_retrieval.stores._BUFFER", 1 << 14)
    store, data = Store(bucket), "".join(json.dumps(line) + "\n" for line in LINES).encode()
    store.write("docs.jsonl", data)
    documents = open_corpus(f"{bucket}/docs.jsonl").documents()
    next(documents)
    store.write("docs.jsonl", data + b"\n")
    with pytest.raises(UserError, match=rf"{bucket}/docs.jsonl changed while it was read: start again"):
        list(documents)


def test_a_store_that_goes_away_while_a_corpus_is_read_is_one_sentence(bucket, monkeypatch):  # noqa: F811
    monkeypatch.setattr("ibkd_retrieval.stores._BUFFER", 1 << 14)
    with serving() as (address, server):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        Store(make_bucket("bucket")).write("docs.jsonl", "".join(json.dumps(line) + "\n" for line in LINES).encode())
        documents = open_corpus("s3://bucket/docs.jsonl").documents()
        next(documents)
        server.kill()
        server.wait()
        with pytest.raises(UserError, match=r"No object store answers for s3://bucket/docs\.jsonl"):
            list(documents)


def test_an_endpoint_without_a_scheme_and_credentials_that_are_not_there_are_one_sentence(bucket, index, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:1")
        with pytest.raises(UserError, match="begin it with http://"):
            upload_index(index, f"{bucket}/mine")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(index))
    with pytest.raises(UserError, match=r"no credentials were found.*AWS_PROFILE"):
        upload_index(index, f"{bucket}/mine")


def test_an_index_is_uploaded_opened_changed_and_uploaded_again(bucket, index, tmp_path):  # noqa: F811
    address = f"{bucket}/indexes/mine"
    made = ibkd.export(index, "store", url=address)
    assert (made.url, made.documents) == (address, 25)
    query = HashingEncoder().encode(["text of document 3"])
    found, due = (ibkd.open_index(each).search_batch(query, k=2)["0"] for each in (address, index))
    assert found == due
    copy = local_folder(address)
    assert verify_index(copy) == verify_index(index)
    assert {path.name for path in copy.rglob("*")} == {path.name for path in index.rglob("*")}
    written = (copy / "docids").stat().st_mtime_ns
    assert local_folder(Path(address)) == copy
    assert (copy / "docids").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="no index is changed"):
        ibkd.delete(address, ["d3"])
    ibkd.export(index, "store", url=address)  # The same once more.
    append_documents(numbered_corpus_from(25, 30), HashingEncoder(), index)
    with pytest.raises(UserError, match=r"holds another index: replace it with `overwrite`"):
        ibkd.export(index, "store", url=address)
    assert len(ibkd.open_index(address)) == 25
    ibkd.export(index, "store", url=address, overwrite=True)
    assert len(ibkd.open_index(address)) == 30
    assert len({name.partition("/")[0] for name in Store(address).sizes("")}) == 2  # The manifest, and one folder.


def numbered_corpus_from(first: int, end: int):
    return open_corpus([(f"d{i}", f"text of document {i}") for i in range(first, end)])


@pytest.mark.parametrize("replacing", [False, True])
def test_of_two_uploads_at_once_one_is_refused_and_the_other_is_whole(bucket, tmp_path, monkeypatch, replacing):  # noqa: F811
    folders = [tmp_path / str(count) for count in (25, 45, 5)]
    for folder in folders:
        build_index(numbered_corpus(int(folder.name)), HashingEncoder(), folder, shard_size=5)
    address, read, both, refused = f"{bucket}/mine", Store.read_to_change, threading.Barrier(2), []
    if replacing:
        upload_index(folders[2], address)

    def read_at_once(self, name):
        found = read(self, name)
        both.wait(20)  # Both have seen the same state before one of them changes it.
        return found

    def upload(folder):
        try:
            upload_index(folder, address, overwrite=replacing)
        except UserError as error:
            refused.append((folder, str(error)))

    monkeypatch.setattr(Store, "read_to_change", read_at_once)
    uploads = [threading.Thread(target=upload, args=(each,)) for each in folders[:2]]
    for thread in uploads:
        thread.start()
    for thread in uploads:
        thread.join()
    monkeypatch.setattr(Store, "read_to_change", read)
    ((loser, sentence),) = refused
    assert sentence.startswith(
        f"Another upload to {address} ended first, and its index is there: upload this one again"
    )
    (winner,) = {*folders[:2]} - {loser}
    assert verify_index(local_folder(address)) == verify_index(winner)
    upload_index(loser, address, overwrite=True)
    assert verify_index(local_folder(address)) == verify_index(loser)


def test_the_same_index_uploaded_twice_at_once_is_there_for_both(bucket, index, monkeypatch):  # noqa: F811
    address, change = f"{bucket}/mine", Store.change

    def change_late(self, name, data, state):
        monkeypatch.setattr(Store, "change", change)
        upload_index(index, address)
        return change(self, name, data, state)

    monkeypatch.setattr(Store, "change", change_late)
    upload_index(index, address)
    assert verify_index(local_folder(address)) == verify_index(index)


def test_abandoned_uploads_are_removed_and_nothing_else(bucket, index, tmp_path, monkeypatch):  # noqa: F811
    address = f"{bucket}/mine"
    store, abandoned = Store(address), f"{'ab' * 12}"
    for name in (f"{abandoned}/docids", "notes/of/mine", "c" * 24):
        store.write(name, b"x")
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "j")
    upload_index(index, address)
    assert f"{abandoned}/docids" in store.sizes("")  # It may go on.
    monkeypatch.setattr("ibkd_retrieval.indexing.remote._ABANDONED", timedelta(seconds=1))
    time.sleep(2.1)  # A store's clock has whole seconds.
    upload_index(tmp_path / "j", address, overwrite=True)
    assert {name.partition("/")[0] for name in store.sizes("")} == {
        "index.json",
        "notes",
        hashlib.sha256((tmp_path / "j" / "index.json").read_bytes()).hexdigest()[:24],
    } | {"c" * 24}
    verify_index(local_folder(address))


def test_an_upload_that_was_broken_off_is_no_index_and_goes_on(bucket, index, monkeypatch):  # noqa: F811
    address, uploaded, upload = f"{bucket}/mine", [], Store.upload

    def breaking(self, path, name):
        if len(uploaded) == 5:
            raise OSError("power")
        uploaded.append(name)
        return upload(self, path, name)

    monkeypatch.setattr(Store, "upload", breaking)
    with pytest.raises(OSError, match="power"):
        upload_index(index, address)
    with pytest.raises(UserError, match=re.escape(f"{address} holds half of an index, whose upload was broken off")):
        local_folder(address)
    before = len([name for name in Store(address).sizes("") if not name.endswith("/index.json")])
    uploaded.clear()
    monkeypatch.setattr(Store, "upload", lambda self, path, name: uploaded.append(name) or upload(self, path, name))
    made = upload_index(index, address)
    assert len(uploaded) == made.files - before
    verify_index(local_folder(address))


def test_a_copy_of_an_earlier_state_is_removed_when_no_process_uses_it(bucket, index):  # noqa: F811
    address = f"{bucket}/mine"
    opening = "import sys; from ibkd_retrieval.indexing.remote import local_folder; print(local_folder(sys.argv[1]))"
    upload_index(index, f"{address}-too")
    other = local_folder(f"{address}-too")
    upload_index(index, address)
    first = subprocess.run([sys.executable, "-c", opening, address], check=True, capture_output=True, text=True).stdout
    assert Path(first.strip()).is_dir()
    used = None
    for start in (25, 30):
        append_documents(numbered_corpus_from(start, start + 5), HashingEncoder(), index)
        upload_index(index, address, overwrite=True)
        newest = local_folder(address)
        assert {*newest.parent.iterdir()} == {other, newest, used or newest}  # This process uses all three.
        used = newest
    assert verify_index(newest) == verify_index(index)


def test_what_is_damaged_in_the_store_or_here_is_found(bucket, index):  # noqa: F811
    address = f"{bucket}/mine"
    upload_index(index, address)
    store = Store(address)
    place = next(name for name in store.sizes("") if name.endswith("docids")).partition("/")[0]
    data = store.read(f"{place}/docids")
    store.write(f"{place}/docids", data[::-1])
    upload_index(index, address)  # The size is right.
    with pytest.raises(WorkFailed, match=r"docids arrived damaged: .*upload it again with `overwrite`"):
        local_folder(address)
    upload_index(index, address, overwrite=True)
    verify_index(local_folder(address))
    store.delete(f"{place}/docids")
    (local_folder(address) / "index.json").unlink()
    with pytest.raises(UserError, match="docids is missing, so the index is not whole"):
        local_folder(address)
    upload_index(index, address)
    copy = local_folder(address)
    (copy / "index.json").unlink()
    (copy / "docids").write_bytes(data[::-1])
    verify_index(local_folder(address))
    vectors = index / "vectors" / "00000.npy"
    vectors.write_bytes(vectors.read_bytes()[::-1])
    with pytest.raises(UserError, match=r"damaged in .*00000.npy"):
        upload_index(index, f"{bucket}/other")
    assert not [name for name in Store(f"{bucket}/other").sizes("") if name.endswith("00000.npy")]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("{bucket}/none.jsonl", "There is no {bucket}/none.jsonl: check the address"),
        ("{bucket}-not-there/docs.jsonl", "There is no bucket"),
        ("{bucket}/docs.xyz", "unknown kind of file"),
    ],
)
def test_what_is_not_there_is_one_sentence(bucket, address, sentence):  # noqa: F811
    with pytest.raises(UserError, match=re.escape(sentence.format(bucket=bucket))):
        list(open_corpus(address.format(bucket=bucket)).documents())
    with pytest.raises(UserError, match=r"There is no bucket|holds no index"):
        ibkd.open_index(address.format(bucket=bucket))


def test_a_store_that_does_not_answer_and_a_bucket_for_an_upload_that_is_not_there(bucket, index, monkeypatch):  # noqa: F811
    with pytest.raises(UserError, match="There is no bucket"):
        upload_index(index, f"{bucket}-not-there/mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"No object store answers .*AWS_ENDPOINT_URL"):
        upload_index(index, f"{bucket}/mine")


def test_nothing_is_written_in_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="s3://bucket/i is in an object store, where nothing is written in place"):
        build_index(numbered_corpus(5), HashingEncoder(), Path("s3://bucket/i"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", [None, "/tmp/x", "http://host/x"])
def test_an_upload_needs_an_address(index, url):
    with pytest.raises(UserError, match="s3://BUCKET/NAME"):
        ibkd.export(index, "store", url=url)


def test_stored_vectors_are_equal_bit_for_bit(bucket, index):  # noqa: F811
    upload_index(index, f"{bucket}/mine")
    copy = local_folder(f"{bucket}/mine")
    for path in sorted(index.glob("vectors/*")):
        assert np.array_equal(np.load(path), np.load(copy / "vectors" / path.name))
