"""Data sets that lie in ir_datasets' home are read without a network, and are known to be there."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibkd_retrieval.corpora.catalog.registry import KNOWN_SETS, OnDisk, folder_bytes, kept_folder, on_disk
from ibkd_retrieval.corpora.records import Document, Judgement, Query
from ibkd_retrieval.corpora.spec import open_corpus, open_qrels, open_queries

COLLECTION = "".join(f"{number}\tPassage {number} of the collection.\n" for number in range(30))
QUERIES = "7\twhat is seven\n8\t what is eight\n9\tnobody judged this\n"
QRELS = "7\t0\t17\t1\n8\t0\t18\t1\n8\t0\t28\t1\n"
DEEP_QRELS = "7 0 17 3\n7 Q0 18 0\n8 0 28 1\n"
PASSAGES = [[str(number), f"Passage {number} of the collection."] for number in range(30)]
ASKED = [["7", "what is seven"], ["8", " what is eight"]]

# ir_datasets asks for its home once, when it is imported, so every home needs a process of its own.
READER = """
import json, socket, sys

def refuse(*args, **options):
    raise OSError("there is no network")

socket.getaddrinfo = socket.socket.connect = refuse
from ibkd_retrieval.corpora.spec import open_corpus, open_queries, queries_for
from ibkd_retrieval.errors import UserError

for spec in sys.argv[1:]:
    try:
        corpus = open_corpus(spec)
        documents = [[d.doc_id, d.content] for d in corpus.documents()]
        asked = open_queries(queries_for(corpus.name), need_judgements=True)
        print(json.dumps([documents, asked.queries, asked.judgements, asked.relevance_level]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def read_offline(home, *specs):
    """What each spec gives in a process that has no network: documents, queries, judgements, level; or the refusal."""
    environment = os.environ | {"IR_DATASETS_HOME": str(home)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    reading = subprocess.run(
        [sys.executable, "-c", READER, *specs], env=environment, capture_output=True, text=True, timeout=120
    )
    assert reading.returncode == 0, reading.stderr
    return dict(zip(specs, map(json.loads, reading.stdout.splitlines()), strict=True))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_passages(home):
    folder = home / "msmarco-passage"
    write(folder / "collection.tsv", COLLECTION)
    write(folder / "irds_version.txt", "v2")
    for name, qrels in (("dev/small", QRELS), ("trec-dl-2019", DEEP_QRELS), ("trec-dl-2020", DEEP_QRELS)):
        zipped = name == "trec-dl-2020"
        write(folder / name / f"queries.tsv{'.gz' * zipped}", gzip.compress(QUERIES.encode()) if zipped else QUERIES)
        write(folder / name / "qrels", qrels)


def write_beir_archive(path, folder):
    path.parent.mkdir(parents=True)
    metadata = {"metadata": {"tags": []}} if "cqadupstack" in folder else {}
    lines = {
        "corpus.jsonl": [{"_id": "d1", "title": "T", "text": "x"} | metadata],
        "queries.jsonl": [{"_id": "q1", "text": "one"} | metadata, {"_id": "q2", "text": "two"} | metadata],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, records in lines.items():
            archive.writestr(f"{folder}/{name}", "".join(json.dumps(record) + "\n" for record in records))
        for split, query in (("test", "q1"), ("train", "q2")):
            archive.writestr(f"{folder}/qrels/{split}.tsv", f"query-id\tcorpus-id\tscore\n{query}\td1\t1\n")


def write_nano(folder):
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"_id": ["d1"], "text": ["x"]}), folder / "corpus.parquet")
    pq.write_table(pa.table({"_id": ["q1"], "text": ["one"]}), folder / "queries.parquet")
    pq.write_table(pa.table({"query-id": ["q1"], "corpus-id": ["d1"]}), folder / "qrels.parquet")


def write_lotte(folder):
    write(folder / "collection.tsv", "0\tx\n1\ty\n")
    write(folder / "questions.search.tsv", "0\tone\n")
    write(folder / "qas.search.jsonl", json.dumps({"qid": 0, "query": "one", "answer_pids": [1]}) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of ir_datasets that holds a little of every collection the table names."""
    home = tmp_path_factory.mktemp("irds-home")
    write_passages(home)
    write_beir_archive(home / "beir" / "scifact" / "source.zip", "scifact")
    write_beir_archive(home / "beir" / "cqadupstack" / "source.zip", "cqadupstack/android")
    write_nano(home / "nano-beir" / "scifact")
    write_lotte(home / "lotte" / "lotte_extracted" / "lotte" / "writing" / "test")
    return home


@pytest.fixture(scope="module")
def offline(home):
    deep = ("trec-dl-2019", "trec-dl-2020")
    return read_offline(
        home,
        *("msmarco", "msmarco-passage", "msmarco-dev", *deep),
        *("scifact", "nfcorpus", "cqadupstack/android", "nano-beir/scifact", "nano-beir/nq"),
        *("lotte/writing/search", "lotte/writing/forum"),
    )


def test_the_passage_collection_and_its_query_sets_are_read_from_the_home_of_ir_datasets(offline):
    judged = [["7", "17", 1], ["8", "18", 1], ["8", "28", 1]]
    assert offline["msmarco"] == offline["msmarco-passage"] == [PASSAGES, ASKED, judged, 1]
    graded = [["7", "17", 3], ["7", "18", 0], ["8", "28", 1]]
    assert offline["trec-dl-2019"] == offline["trec-dl-2020"] == [PASSAGES, ASKED, graded, 2]


def test_archives_parquet_and_extracted_files_are_read_from_the_home_of_ir_datasets(offline):
    judged = [[["q1", "one"]], [["q1", "d1", 1]], 1]
    assert offline["scifact"] == offline["cqadupstack/android"] == [[["d1", "T x"]], *judged]
    assert offline["nano-beir/scifact"] == [[["d1", "x"]], *judged]
    assert offline["lotte/writing/search"] == [[["0", "x"], ["1", "y"]], [["0", "one"]], [["0", "1", 1]], 1]


def test_what_is_on_disk_is_what_can_be_read_without_a_network(home, offline):
    for spec, read in offline.items():
        known = KNOWN_SETS.get(spec) or KNOWN_SETS["msmarco"]
        there = on_disk(known, home)
        assert (there.documents and there.queries) == (not isinstance(read, str)), spec
        if isinstance(read, str):
            assert "could not be fetched" in read
            assert str(home) in read
    assert on_disk(KNOWN_SETS["msmarco-dev"], home) == OnDisk(documents=True, queries=False)
    assert on_disk(KNOWN_SETS["lotte/writing/forum"], home) == OnDisk(documents=True, queries=False)
    assert on_disk(KNOWN_SETS["nano-beir/nq"], home) == OnDisk(documents=False, queries=False)


def test_what_ir_datasets_made_of_an_archive_stands_for_it(home, offline, tmp_path):
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    archive = copy / "beir" / "scifact" / "source.zip"
    folder = kept_folder(KNOWN_SETS["scifact"], copy)
    before = folder_bytes(folder)
    size = archive.stat().st_size
    archive.unlink()
    assert folder_bytes(folder) == before - size
    assert on_disk(KNOWN_SETS["scifact"], copy) == OnDisk(documents=True, queries=True)
    assert read_offline(copy, "scifact")["scifact"] == offline["scifact"]


def test_looking_makes_no_folder(tmp_path):
    assert on_disk(KNOWN_SETS["scifact"], tmp_path / "none") == OnDisk(documents=False, queries=False)
    assert folder_bytes(tmp_path / "none") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_files_of_msmarco_are_read_as_they_are_published(tmp_path, ending):
    named = {"collection.tsv": COLLECTION, "queries.dev.small.tsv": QUERIES, "qrels.dev.small.tsv": QRELS}
    for name, content in named.items():
        write(tmp_path / (name + ending), gzip.compress(content.encode()) if ending else content)
    collection, queries, qrels = (str(tmp_path / (name + ending)) for name in named)
    assert list(open_corpus(collection).documents()) == [Document(*passage) for passage in PASSAGES]
    assert open_queries(queries).queries == tuple(Query(*line.split("\t")) for line in QUERIES.splitlines())
    assert open_qrels(qrels) == (Judgement("7", "17", 1), Judgement("8", "18", 1), Judgement("8", "28", 1))
