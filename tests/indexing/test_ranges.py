"""A file that several processes read is the index that one process makes of it."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ibkd_retrieval as ibkd
from helpers.indexing_fakes import HashingEncoder, Listener, LoadFake
from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building import plan, ranges
from ibkd_retrieval.indexing.building.memory import MemoryPlan
from ibkd_retrieval.indexing.building.plan import Fingerprint, IdGuard, fingerprint
from ibkd_retrieval.indexing.building.stage import cut
from ibkd_retrieval.indexing.building.workers import EncoderProcesses


def line(number: int, text: str = "", **more) -> str:
    return json.dumps({"_id": f"d{number}", "title": "of" * (number % 3), "text": text or f"text {number}", **more})


LINES = [line(i, "lang " * (i % 9), year=1990 + i) for i in range(40)]
SHAPES = {
    "plain.jsonl": "\n".join(LINES) + "\n",
    "no end.jsonl": "\n".join(LINES),
    "crlf.jsonl": "\r\n".join(LINES) + "\r\n",
    "mark.jsonl": "\ufeff" + "\n".join(LINES),
    "blank.ndjson": "\n \n" + "\n\n\u2003\n".join(LINES) + "\n\n\n",
    "letters.jsonl": "\n".join(line(i, "Grüße, 漢字 \u2028 😀 ") for i in range(30)),
    "escaped.json": "\n".join(json.dumps({"id": i, "contents": "Grüße 漢字" * (i % 3), "n": 2**70}) for i in range(30)),
    "long.jsonl": "\n".join(line(i, "x" * (900 if i == 3 else 5)) for i in range(12)),
    "other keys.jsonl": "\n".join([*LINES[:5], '{"docid": "x1", "body": "b"}', '{"docid": "x2", "body": ""}']),
    "one.jsonl": line(1),
    "bare.tsv": "".join(f"{i}\ttext {i}\n" for i in range(40)),
    "titled.tsv": "".join(f"{i}\ttitle\ttext {i}\n" for i in range(40)),
    "header.tsv": "\n\ufeffid\ttext\tyear\n".replace("\ufeff", "")
    + "".join(f'{i}\t"say ""{i}"""\t{i}.5\n' for i in range(40)),
    "marked header.tsv": "\ufeffid\ttext\n" + "".join(f"{i}\tsay {i}\n" for i in range(40)),
}


def pieces(path: Path, most: int, text: int | None, whole: Fingerprint, size: int = 100):
    file = open_corpus(str(path)).lines
    assert file is not None
    before, ranges.RANGE_BYTES = ranges.RANGE_BYTES, size
    try:
        yield from ranges.cut_ranges(file, most, text, whole, 0)
    finally:
        ranges.RANGE_BYTES = before


@pytest.mark.parametrize("size", [23, 300, 1 << 20])
@pytest.mark.parametrize("name", SHAPES)
def test_ranges_give_the_shards_and_the_fingerprint_of_one_reader(tmp_path: Path, name: str, size: int):
    path = tmp_path / name
    path.write_bytes(SHAPES[name].encode())
    for most, text in ((1, None), (7, 60), (1000, 200)):
        whole = Fingerprint()
        found = list(pieces(path, most, text, whole, size))
        due = list(cut(open_corpus(str(path)).documents(), most, text))
        assert [list(piece.documents) for piece in found] == due
        assert [piece.fingerprint for piece in found] == list(map(fingerprint, due))
        assert [len(piece.documents) for piece in found] == list(map(len, due))
        assert whole.hexdigest() == fingerprint(open_corpus(str(path)).documents())


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.integers(1, 300), st.integers(1, 9))
def test_any_texts_are_cut_alike(tmp_path_factory, texts, size, most):
    path = tmp_path_factory.mktemp("texts") / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(texts)))
    whole = Fingerprint()
    found = [list(piece.documents) for piece in pieces(path, most, 40, whole, size)]
    assert found == list(cut(open_corpus(str(path)).documents(), most, 40))


def test_several_readers_give_what_one_gives(tmp_path: Path, small):
    file = open_corpus(corpus_file(tmp_path, [f"d{i}" for i in range(300)])).lines
    alone, together = Fingerprint(), Fingerprint()
    due = list(ranges.cut_ranges(file, 64, 900, alone, 0))
    for piece, other in zip(due, ranges.cut_ranges(file, 64, 900, together, 3), strict=True):
        assert piece[:2] == other[:2]
        assert np.array_equal(piece.hashes, other.hashes)
    assert alone.hexdigest() == together.hexdigest()


@pytest.mark.parametrize(
    "bad",
    ["{no json", "[1]", '{"text": "no id"}', '{"_id": "a  b", "text": ""}', '{"_id": "a", "text": "\\ud800"}', b"\xff"],
)
@pytest.mark.parametrize("size", [70, 1 << 20])
def test_a_bad_line_is_named_as_one_reader_names_it_after_the_shards_before_it(tmp_path: Path, bad, size: int):
    path = tmp_path / "corpus.jsonl"
    lines = [each.encode() for each in LINES]
    lines[23:23] = [b"", bad if isinstance(bad, bytes) else bad.encode()]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError) as due:
        list(open_corpus(str(path)).documents())
    assert "line 25" in str(due.value)
    found = []
    with pytest.raises(UserError) as caught:
        found.extend(pieces(path, 10, None, Fingerprint(), size))
    assert str(caught.value) == str(due.value)
    assert [len(piece.documents) for piece in found] == [10, 10]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv", "a.txt", "one column.tsv", "array.json", "a.parquet"])
def test_files_whose_documents_are_no_lines_of_their_own_have_one_reader(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text('[{"id": 1, "text": "a"}]' if name == "array.json" else "text\nb\n")
    assert open_corpus(str(path)).lines is None


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ranges, "LEAST_BYTES", 0)
    monkeypatch.setattr(ranges, "RANGE_BYTES", 2000)


def corpus_file(folder: Path, ids) -> str:
    path = folder / "corpus.jsonl"
    path.write_text(
        "".join(f"{json.dumps({'_id': each, 'text': f'text {number}'})}\n" for number, each in enumerate(ids))
    )
    return str(path)


def build(corpus: str, folder: Path, processes: int = 0, **more):
    encoders = EncoderProcesses(processes, LoadFake()) if processes else None
    return build_index(open_corpus(corpus), HashingEncoder(), folder, processes=encoders, **more)


def test_processes_that_read_for_themselves_make_the_same_files_and_resume_and_append(tmp_path: Path, small):
    corpus = corpus_file(tmp_path, [f"d{i}" for i in range(300)])
    sizes = MemoryPlan(1 << 30, 64, 900, 1, 100)
    alone = build(corpus, tmp_path / "alone", memory=sizes)
    manifest = build(corpus, tmp_path / "i", 2, memory=sizes)
    assert (manifest.files, manifest.corpus) == (alone.files, alone.corpus)
    (tmp_path / "i" / manifest.shards[2].vectors).unlink()
    resumed = build(corpus, tmp_path / "i", 1, memory=sizes, resume=True)
    assert (resumed.files, resumed.corpus) == (alone.files, alone.corpus)
    more = corpus_file(tmp_path, [f"e{i}" for i in range(100)])
    appended = [
        append_documents(open_corpus(more), HashingEncoder(), tmp_path / name, processes=processes)
        for name, processes in (("alone", None), ("i", EncoderProcesses(1, LoadFake())))
    ]
    assert (appended[0].files, appended[0].corpus) == (appended[1].files, appended[1].corpus)
    again = corpus_file(tmp_path, ["f0", "d7"])
    with pytest.raises(UserError, match="d7"):
        append_documents(
            open_corpus(again), HashingEncoder(), tmp_path / "i", processes=EncoderProcesses(1, LoadFake())
        )


@pytest.mark.parametrize(("first", "second"), [(3, 4), (3, 250), (150, 299)])
def test_a_repeated_id_is_refused_in_the_words_of_one_reader(tmp_path: Path, small, first: int, second: int):
    ids = [f"d{i}" for i in range(300)]
    ids[second] = ids[first]
    corpus, said = corpus_file(tmp_path, ids), []
    for processes in (0, 1):
        with pytest.raises(UserError) as caught:
            build(corpus, tmp_path / str(processes), processes, shard_size=20)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert f"as documents {first + 1} and {second + 1}:" in said[0]


@pytest.mark.parametrize("processes", [0, 1])
def test_different_ids_of_one_hash_are_kept_and_equal_ones_refused(tmp_path: Path, small, monkeypatch, processes: int):
    def coarse(doc_id: str) -> int:
        return sum(doc_id.encode()) % 3

    monkeypatch.setattr(ranges, "_MOST_READERS", 0)  # Another process would hash in its own way.
    monkeypatch.setattr(ranges, "hash_id", coarse)
    monkeypatch.setattr(plan, "hash_id", coarse)
    monkeypatch.setattr(IdGuard.__init__, "__defaults__", (coarse,))
    build(corpus_file(tmp_path, [f"d{i}" for i in range(60)]), tmp_path / "i", processes, shard_size=20)

    def append(ids):
        encoders = EncoderProcesses(processes, LoadFake()) if processes else None
        append_documents(open_corpus(corpus_file(tmp_path, ids)), HashingEncoder(), tmp_path / "i", processes=encoders)

    append(["e1", "e2", "f1"])
    assert len(ibkd.open_index(tmp_path / "i")) == 63
    for ids, sentence in ((["g1", "g2", "g1"], "'g1' appears twice"), (["g1", "d59"], "d59")):
        with pytest.raises(UserError, match=sentence):
            append(ids)


def test_an_id_without_utf8_is_refused_in_the_words_of_one_reader(tmp_path: Path, small):
    corpus, said = corpus_file(tmp_path, [*(f"d{i}" for i in range(90)), "\ud800"]), []
    for processes in (0, 1):
        with pytest.raises(UserError, match=r"Document 91 of .* cannot be written as UTF-8") as caught:
            build(corpus, tmp_path / str(processes), processes, shard_size=20)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_file_that_changes_under_way_is_refused_and_nothing_of_the_change_is_kept(tmp_path: Path, small):
    corpus = corpus_file(tmp_path, [f"d{i}" for i in range(300)])
    shard = next(pieces(Path(corpus), 20, None, Fingerprint())).documents
    assert shard.read()[19].doc_id == "d19"
    os.utime(corpus)  # A new time alone is no change.
    assert shard.read()[19].doc_id == "d19"
    size = os.path.getsize(corpus)
    Path(corpus).write_text(Path(corpus).read_text().replace("d7", "d8", 1))
    assert os.path.getsize(corpus) == size
    with pytest.raises(UserError, match=r"corpus\.jsonl changed while it was read"):
        shard.read()
    # Even where the system says that nothing changed.
    os.utime(corpus, ns=(shard.file.modified, shard.file.modified))
    with pytest.raises(UserError, match=r"corpus\.jsonl changed while it was read"):
        shard.read()


def test_a_reader_that_is_killed_is_one_sentence(tmp_path: Path, small, monkeypatch):
    corpus = corpus_file(tmp_path, [f"d{i}" for i in range(300)])
    started = ranges._started

    def killed(file, starts):
        connection, process = started(file, starts)
        threading.Thread(target=lambda: (time.sleep(0.1), os.kill(process.pid, signal.SIGKILL))).start()
        return connection, process

    monkeypatch.setattr(ranges, "_started", killed)
    with pytest.raises(WorkFailed, match=r"A process that read .*corpus\.jsonl was ended \(-9\)"):
        build(corpus, tmp_path / "i", 1, shard_size=20)


def test_documents_without_text_are_counted_over_all_ranges(tmp_path: Path, small):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"_id": "d{i}", "text": "{" " if i % 7 == 0 else i}"}}\n' for i in range(300)))
    listener = Listener()
    processes = EncoderProcesses(1, LoadFake())
    build_index(open_corpus(str(path), listener), HashingEncoder(), tmp_path / "i", processes=processes)
    assert [said for said in listener.said if "no text" in said] == [f"{path}: 43 of 300 documents have no text"]
