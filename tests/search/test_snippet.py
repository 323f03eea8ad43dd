from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.search.hits import snippet

FILLER = " ".join(f"filler{number}" for number in range(200))
WORDS = st.sampled_from(
    ["alpha", "beta", "gamma", "of", "Alphas", "x" * 70, "beta(gamma)", "\x1b[31mred\x1b[0m", "\n\t"]
)


def shown(result):
    return [result.text[start:end] for start, end in result.matches]


def test_a_short_document_is_shown_whole_on_one_line():
    result = snippet(Document("d", "Splits a list\n  into chunks."), "split lists")
    assert result.text == "Splits a list into chunks."
    assert shown(result) == ["Splits", "list"]


def test_the_passage_with_most_distinct_terms_wins_over_repetition():
    text = f"chunk chunk chunk chunk {FILLER} split a list into a chunk {FILLER}"
    result = snippet(Document("d", text), "how to split a list into chunks")
    assert shown(result) == ["split", "list", "chunk"]
    assert result.text.startswith("…")
    assert result.text.endswith("…")


def test_common_words_do_not_decide():
    text = f"how to do it with the of {FILLER} sorting {FILLER}"
    assert shown(snippet(Document("d", text), "how to do the sorting")) == ["sorting"]


def test_a_query_of_common_words_only_still_matches_them():
    assert shown(snippet(Document("d", "to be or not to be"), "to be")) == ["to", "be", "to", "be"]


def test_without_a_match_the_document_begins():
    result = snippet(Document("d", FILLER), "nothing", width=60)
    assert result.text.startswith("filler0 filler1 ")
    assert result.text.endswith("…")
    assert result.matches == ()


def test_a_document_without_text_shows_its_title():
    assert snippet(Document("d", "", "The title"), "title").text == "The title"


def test_terminal_escapes_and_direction_marks_are_dropped():
    assert snippet(Document("d", "a \x1b[31mred\x1b[0m\x07 \u202eword"), "red").text == "a red word"


@given(st.lists(WORDS, max_size=60).map(" ".join), st.lists(WORDS, max_size=4).map(" ".join), st.integers(20, 120))
def test_a_snippet_fits_its_width_and_its_matches_are_whole_words_of_the_query(text, query, width):
    result = snippet(Document("d", text), query, width)
    assert len(result.text) <= width
    assert result.text.isprintable()
    inner = result.text.strip("…")
    assert inner in " ".join(text.replace("\x1b[31m", " ").replace("\x1b[0m", " ").split())
    ends = [0] + [position for span in result.matches for position in span]
    assert ends == sorted(ends)
    for word in shown(result):
        assert word.casefold().rstrip("s") in query.casefold()


@given(st.lists(WORDS, min_size=1, max_size=60).map(" ".join), st.integers(20, 120))
def test_where_the_document_has_a_query_term_the_snippet_shows_one(text, width):
    result = snippet(Document("d", text), "gamma", width)
    assert bool(result.matches) == ("gamma" in text)
