"""Judgements in files."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkd_retrieval.corpora.qrels import read_qrels
from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.errors import UserError

IDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6)
GRADES = st.dictionaries(st.tuples(IDS, IDS), st.integers(-2, 5), min_size=1, max_size=8)
HEADER = "query-id\tcorpus-id\tscore\n"


@settings(max_examples=60)
@given(GRADES)
def test_the_trec_and_the_beir_forms_of_the_same_judgements_read_the_same(tmp_path_factory, grades):
    folder = tmp_path_factory.mktemp("qrels")
    (folder / "trec.txt").write_text("".join(f"{q} 0  {d}\t{grade}\n\n" for (q, d), grade in grades.items()))
    (folder / "beir.tsv").write_text(HEADER + "".join(f"{q}\t{d}\t{grade}\n" for (q, d), grade in grades.items()))
    (folder / "bare.tsv").write_text("".join(f"{q}\t{d}\t{grade}\n" for (q, d), grade in grades.items()))
    expected = tuple(Judgement(q, d, grade) for (q, d), grade in grades.items())
    for name in ("trec.txt", "beir.tsv", "bare.tsv"):
        assert read_qrels(folder / name) == expected


def test_compressed_qrels_are_read(tmp_path):
    (tmp_path / "q.gz").write_bytes(gzip.compress(b"1 0 a 1\n"))
    assert read_qrels(tmp_path / "q.gz") == (Judgement("1", "a", 1),)


def test_a_judgement_repeated_with_the_same_grade_counts_once(tmp_path):
    (tmp_path / "q").write_text("1 0 a 1\n1 Q0 a 1\n")
    assert read_qrels(tmp_path / "q") == (Judgement("1", "a", 1),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 0 a 1\n\n1 0 a 2\n", "line 3: document a is judged 2 for query 1, but 1 on an earlier line"),
        ("1 0 a 1\n1 0 b x\n", "line 2: the relevance is 'x'; expected a whole number"),
        ("1 0 a 1.0\n", "line 1: the relevance is '1.0'"),
        ("1 0 a 1\n1 a 1\n", "line 2: expected 4 columns"),
        ("1 a\n", "line 1: expected 4 columns"),
        ("1\ta\t1\n1\t0\tb\t1\n", "line 2: expected 3 columns"),
        ("query\tdocument\tgrade\n", "line 1: the relevance is 'grade'"),
        (HEADER + "1\t0\ta\t1\n", "line 2: expected 3 columns"),
        (HEADER, "no judgements in"),
        ("", "no judgements in"),
    ],
)
def test_a_malformed_judgement_is_refused_by_file_and_line(tmp_path, content, message):
    (tmp_path / "q").write_text(content)
    with pytest.raises(UserError, match=message):
        read_qrels(tmp_path / "q")


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "q"
    path.write_bytes(content)
    message = str(path)
    try:
        assert read_qrels(path)
    except UserError as error:
        message = str(error)
    assert str(path) in message
