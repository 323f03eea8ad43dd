"""The page's structure, read with a parser: what a browser and a screen reader hold on to."""

import dataclasses
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from helpers.sample_reports import missed_bar, sample_comparison
from ibkd_retrieval.evaluation.report.write import comparison_as_html

pytest.importorskip("matplotlib")

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)> \"'><b>"
OTHER_SCRIPTS = "كيف يعمل البحث؟ 检索系统是怎么工作的？ מהו חיפוש"
LONG = "a-model-name-without-any-break-" * 8
VOID = {"meta", "link", "br", "img", "input", "hr"}
REFERENCES = ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background")


class Page(HTMLParser):
    """Elements with their attributes and text; fails where tags do not match."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self._open, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "attributes": dict(attributes), "text": "", "inside": [e["tag"] for e in self._open]}
        assert len(dict(attributes)) == len(attributes), f"an attribute twice in {tag}"
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        if not self._open or self._open[-1]["tag"] != "style":
            self.text += data
        for element in self._open:
            element["text"] += data

    def all(self, *tags):
        return [each for each in self.elements if each["tag"] in tags]


def hostile():
    comparison = sample_comparison(
        systems=3, queries=5, names=["teacher", f"evil {ATTACK}", OTHER_SCRIPTS], query_text=ATTACK + OTHER_SCRIPTS
    )
    return dataclasses.replace(comparison, command=f"ibkd compare --index '{ATTACK}'", bars=(missed_bar(ATTACK),))


CASES = {
    "usual": lambda: sample_comparison(systems=5, queries=40, bars=[missed_bar()]),
    "many systems and data sets": lambda: sample_comparison(systems=12, data_sets=2, queries=6),
    "one system": lambda: sample_comparison(systems=1, queries=6),
    "one query": lambda: sample_comparison(systems=2, queries=1),
    "no difference": lambda: sample_comparison(systems=3, queries=8, values=lambda number, first, _: first),
    "a teacher that finds nothing": lambda: sample_comparison(
        systems=3, queries=8, values=lambda number, first, _: first * (number == 2)
    ),
    "nothing timed": lambda: sample_comparison(systems=2, queries=8, timed=False),
    "long names": lambda: sample_comparison(systems=2, queries=6, names=[LONG + "1", LONG + "2"], query_text=LONG * 9),
    "hostile": hostile,
}


@pytest.fixture(scope="module", params=CASES)
def page(request):
    html = comparison_as_html(CASES[request.param]())
    found = Page(html)
    found.html = html
    return found


def test_the_page_refers_to_nothing_outside_itself(page):
    ids = {each["attributes"]["id"] for each in page.elements if "id" in each["attributes"]}
    for element in page.elements:
        for name, value in element["attributes"].items():
            if name in REFERENCES:
                assert value.startswith("#"), value
                assert value[1:] in ids
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.startswith("#"), value
                assert target[1:] in ids
    assert not page.all("script", "link", "iframe", "object", "embed", "base", "form", "img")
    (style,) = page.all("style")
    assert "url(" not in style["text"]
    assert "@import" not in style["text"]
    policy = [e for e in page.all("meta") if e["attributes"].get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["attributes"]["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_it_says_its_language_and_title_and_has_one_main_part(page):
    assert page.html.startswith("<!doctype html>")
    assert page.all("html")[0]["attributes"]["lang"] == "en"
    assert page.all("title")[0]["text"].strip()
    assert len(page.all("main")) == len(page.all("h1")) == 1


def test_headings_leave_out_no_level(page):
    levels = [int(each["tag"][1]) for each in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def test_ids_are_unique_and_what_is_pointed_at_is_there(page):
    ids = [each["attributes"]["id"] for each in page.elements if "id" in each["attributes"]]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for target in element["attributes"].get("aria-labelledby", "").split():
            assert target in ids


def test_every_figure_is_labelled_and_every_marker_is_decoration(page):
    figures = [each for each in page.all("svg") if each["attributes"]["class"] == "figure"]
    assert len(page.all("figure")) == len(figures) >= 3
    for figure in figures:
        assert figure["attributes"]["role"] == "img"
        assert len(figure["attributes"]["aria-labelledby"].split()) == 2
    for marker in page.all("svg"):
        if marker not in figures:
            assert marker["attributes"]["aria-hidden"] == "true"
    assert all("text" in [e["tag"] for e in page.elements if "svg" in e["inside"]] for _ in figures)


def test_tables_have_captions_and_headings_with_their_scope(page):
    assert len(page.all("table")) == len(page.all("caption")) >= 5
    assert all(caption["text"].strip() for caption in page.all("caption"))
    for heading in page.all("th"):
        assert heading["attributes"]["scope"] in ("col", "row")
    for region in page.elements:
        # What may have to be scrolled can be reached with the keyboard, and says what it is.
        if region["attributes"].get("class") == "scroll":
            assert region["attributes"]["tabindex"] == "0"
            assert region["attributes"]["aria-label"]


def test_what_is_unknown_is_a_dash(page):
    assert not re.search(r"\b(nan|inf|infinity|none|null|undefined)\b", page.text, re.IGNORECASE)
    assert not re.search(r"[ (](nan|inf)", page.html, re.IGNORECASE)


def test_colours_of_figures_are_those_of_the_page(page):
    for element in page.elements:
        if "svg" in element["inside"]:
            assert not re.search(r"#[0-9a-f]{6}", element["attributes"].get("style", "")), element
            assert element["tag"] != "text" or "var(--" in element["attributes"]["style"]


def test_texts_from_outside_are_shown_as_they_are():
    html = comparison_as_html(hostile())
    page = Page(html)
    assert "<script>alert" not in html
    assert "<img" not in html
    shown = " ".join(page.text.split())
    assert " ".join((ATTACK + OTHER_SCRIPTS).split()) in shown
    assert f"evil {ATTACK}" in shown
    queries = [each for each in page.all("bdi") if "h5" in each["inside"]]
    assert queries
    assert all(each["text"] == ATTACK + OTHER_SCRIPTS for each in queries)


def test_the_rankings_say_what_is_relevant_and_where_the_other_has_it():
    comparison = sample_comparison(systems=2, queries=40)
    page = Page(comparison_as_html(comparison))
    items = [each for each in page.all("li") if "article" in each["inside"]]
    relevant = [each for each in items if each["attributes"].get("class") == "relevant"]
    # Of five documents in each ranking two are relevant, one of grade 2.
    assert len(relevant) * 5 == len(items) * 2 > 0
    assert all("relevant" in each["text"] and "not relevant" not in each["text"] for each in relevant)
    first = next(each for each in items if "d1" in each["text"])
    assert "rank 5 in the other" in first["text"]


def test_of_the_examples_the_first_of_each_list_is_unfolded():
    page = Page(comparison_as_html(sample_comparison(systems=3, queries=40)))
    folds = [each for each in page.all("details") if "article" in each["inside"]]
    lists = [each for each in page.all("h4") if each["text"] in ("Lost most", "Won most")]
    assert len(folds) > len(lists) > 0
    assert sum("open" in each["attributes"] for each in folds) == len(lists)


def test_texts_in_the_figures_are_texts():
    page = Page(comparison_as_html(sample_comparison(systems=2, queries=40)))
    inside = [each["text"] for each in page.all("text") if "svg" in each["inside"]]
    assert "nDCG@10" in inside
    assert "time per query, p50 (ms)" in inside
    assert "all-mpnet-base-v2 flat" in inside
