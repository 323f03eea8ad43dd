"""From a docstring to a query and a document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.corpora.pydocs_sources import normalised, plain_text, split_docstring

BODY = "Words that follow the summary and are many enough to stand as a document of their own, with no repetition."


def test_the_first_paragraph_is_the_summary_and_the_rest_the_body():
    docstring = f"Sort the list\n    in place.\n\n    {BODY}\n\n      indented\n    "
    assert split_docstring(docstring) == ("Sort the list in place.", f"{BODY}\n\n  indented")


@pytest.mark.parametrize(
    "preamble",
    ["sort(items, key=None) -> list", "a, b = sort(x)", "module.name\n~~~~~~~~~~~", ".. versionadded:: 1.2", "name"],
)
def test_what_stands_above_the_summary_is_dropped(preamble):
    assert split_docstring(f"{preamble}\n\nSort the list in place.\n\n{BODY}") == ("Sort the list in place.", BODY)


def test_a_sentence_with_parentheses_is_no_signature():
    pair = split_docstring(f"Represents the union (also known as the sum)\n\n{BODY}")
    assert pair is not None
    assert pair[0] == "Represents the union (also known as the sum)"


def test_the_line_under_a_heading_and_copyright_notices_are_dropped():
    docstring = f"Sort many lists\n===============\n\n:copyright: 2020 by somebody.\n\n{BODY}"
    assert split_docstring(docstring) == ("Sort many lists", BODY)


@pytest.mark.parametrize(
    "docstring",
    [
        "Sort the list in place.",
        f"Sort it.\n\n{BODY}",
        "Sort the list in place.\n\nToo short a body.",
        f"Alias for the other function.\n\n{BODY}",
        f"See the base class here.\n\n{BODY}",
        f"Deprecated since version three.\n\n{BODY}",
        f"Parameters\n----------\nx : the first one\n\n{BODY}",
        f"Args:\n    x: the first one\n\n{BODY}",
        f">>> sort the list again\n\n{BODY}",
        f"One of the following things:\n\n{BODY}",
        f"Sort the list in place.\n\nSort the list in place. {BODY}",
        f"{'word ' * 41}\n\n{BODY}",
        "",
    ],
)
def test_a_docstring_that_makes_no_good_pair_is_left_out(docstring):
    assert split_docstring(docstring) is None


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("Call :func:`~os.path.join` and ``x``.", "Call os.path.join and x."),
        ("Read `the guide <https://x.y>`_ and [more](https://z)", "Read the guide and more"),
        ("**Fast** x**2 + y**2", "Fast x**2 + y**2"),
        ("two\n   lines", "two lines"),
    ],
)
def test_markup_is_dropped_and_its_words_are_kept(marked, plain):
    assert plain_text(marked) == plain


@given(st.text(max_size=400))
def test_any_text_is_split_or_left_out_and_a_body_never_begins_with_its_summary(text):
    for docstring in (text, f"{text}\n\n{BODY}"):
        pair = split_docstring(docstring)
        if pair is not None:
            assert "\n" not in pair[0]
            assert not normalised(pair[1]).startswith(normalised(pair[0]))
