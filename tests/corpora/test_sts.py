from pathlib import Path

import pytest

from ibkd_retrieval.corpora.sts import SentencePair, read_pairs
from ibkd_retrieval.errors import UserError

PAIRS = (SentencePair("a dog", "a cat", 1.5), SentencePair("two men", "2 men", 4.75))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("glue.tsv", "genre\tscore\tsentence1\tsentence2\nx\t1.5\ta dog\ta cat\nx\t4.75\ttwo men\t2 men\n"),
        (
            "sick.txt",
            "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
            "1\ta dog\ta cat\t1.5\tNEUTRAL\n2\ttwo men\t2 men\t4.75\tNEUTRAL\n",
        ),
        (
            "sts-dev.csv",
            "main\tf\t2012\t1\t1.5\ta dog\ta cat\nmain\tf\t2012\t2\t4.75\ttwo men\t2 men\tsource one\tsource two\n",
        ),
    ],
)
def test_each_published_form_gives_the_same_pairs(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text, "utf-8")
    assert read_pairs(tmp_path / name).pairs == PAIRS


def test_a_senteval_folder_is_one_set_without_the_pairs_nobody_scored(tmp_path: Path):
    (tmp_path / "STS.input.one.txt").write_text("a dog\ta cat\nleft\tout\n", "utf-8")
    (tmp_path / "STS.gs.one.txt").write_text("1.5\n\n", "utf-8")
    (tmp_path / "STS.input.two.txt").write_text("two men\t2 men\n", "utf-8")
    (tmp_path / "STS.gs.two.txt").write_text("4.75\n", "utf-8")
    assert read_pairs(tmp_path).pairs == PAIRS


def test_a_line_separator_of_unicode_within_a_sentence_ends_no_line(tmp_path: Path):
    (tmp_path / "STS.input.one.txt").write_bytes("a\u2028dog\ta\x85cat\r\ntwo men\t2 men\n".encode())
    (tmp_path / "STS.gs.one.txt").write_text("1.5\n4.75\n", "utf-8")
    assert read_pairs(tmp_path).pairs == (
        SentencePair("a\u2028dog", "a\x85cat", 1.5),
        SentencePair("two men", "2 men", 4.75),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score\tsentence1\tsentence2\nhigh\ta\tb\n", r"line 2: the score is 'high'; expected a number"),
        ("score\tsentence1\tsentence2\nnan\ta\tb\n", r"line 2: the score is 'nan'; expected a number"),
        ("score\tsentence1\tsentence2\n1\ta\n", r"line 2: expected at least 3 columns split by tabs, found 2"),
        ("score\tsentence1\tsentence2\n1\ta\t \n", r"line 2: a sentence is empty"),
        ("a\tb\n", r"line 1: no column of scores and two of sentences"),
        ("score\tsentence1\tsentence2\n1\ta\tb\n", r"holds 1 scored pairs"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "pairs.tsv").write_text(text, "utf-8")
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / "pairs.tsv")


def test_a_senteval_folder_that_does_not_fit_together_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no STS\.input"):
        read_pairs(tmp_path)
    (tmp_path / "STS.input.one.txt").write_text("a dog\ta cat\n", "utf-8")
    with pytest.raises(UserError, match=r"STS\.gs\.one\.txt is missing"):
        read_pairs(tmp_path)
    (tmp_path / "STS.gs.one.txt").write_text("1\n2\n", "utf-8")
    with pytest.raises(UserError, match="has 1 lines and"):
        read_pairs(tmp_path)
