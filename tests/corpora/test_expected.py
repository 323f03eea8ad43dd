"""How many documents a file is expected to hold, for a progress bar."""

import csv
import gzip
import json
import random

import pytest

import ibkd_retrieval as ibkd
from ibkd_retrieval.corpora import tabular
from ibkd_retrieval.progress import About

COUNT = 3_000


def lines(count=COUNT):
    return [{"_id": f"d{i}", "title": f"page {i}", "text": f"words {i} " * (1 + i % 7)} for i in range(count)]


def jsonl(path):
    path.write_text("".join(json.dumps(each) + "\n\n" for each in lines()))


def table(path):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows([each["_id"], each["text"] + '\n"quoted"\n'] for each in lines())


def array(path):
    path.write_text(json.dumps(lines(), indent=1))


def zipped(path):
    # Of random text, which stays large: a file is read in blocks, whose size the estimate feels.
    texts = [{"_id": f"d{i}", "text": random.Random(i).randbytes(250).hex()} for i in range(COUNT)]
    path.write_bytes(gzip.compress("".join(json.dumps(each) + "\n" for each in texts).encode()))


def parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(lines()), path)


KINDS = {"a.jsonl": jsonl, "a.csv": table, "a.json": array, "a.jsonl.gz": zipped, "a.parquet": parquet}


@pytest.mark.parametrize("name", KINDS)
def test_a_small_file_is_counted(name, tmp_path):
    KINDS[name](tmp_path / name)
    expected = ibkd.open_corpus(tmp_path / name).expected
    assert expected == COUNT
    assert not isinstance(expected, About)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz"])
def test_a_large_file_is_estimated_by_its_beginning(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tabular, "_SAMPLE", 500_000 if name.endswith("gz") else 20_000)
    KINDS[name](tmp_path / name)
    expected = ibkd.open_corpus(tmp_path / name).expected
    assert isinstance(expected, About)
    assert f"{expected:,}".startswith("~")
    assert expected == pytest.approx(COUNT, rel=0.25)


def test_folders_are_counted_and_what_cannot_be_read_is_not_known(tmp_path):
    (tmp_path / "notes").mkdir()
    for i in range(3):
        (tmp_path / "notes" / f"{i}.md").write_text("a text")
    assert ibkd.open_corpus(tmp_path / "notes").expected == 3
    (tmp_path / "bad.jsonl").write_text("{\n")
    assert ibkd.open_corpus(tmp_path / "bad.jsonl").expected is None
    beir = tmp_path / "beir"
    beir.mkdir()
    jsonl(beir / "corpus.jsonl")
    assert ibkd.open_corpus(beir).expected == COUNT
    assert ibkd.open_corpus(["one", "two"]).expected == 2
