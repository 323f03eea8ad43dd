"""The embedded corpus, on small packages made here."""

import os
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkd_retrieval.corpora import pydocs
from ibkd_retrieval.corpora.pydocs import open_pydocs, public_definitions, read_pydocs_queries, select_entries, split_of
from ibkd_retrieval.corpora.pydocs_sources import Definition, ModuleScan, SourceFile, find_sources, scan_source
from ibkd_retrieval.errors import UserError

TRAIN, TEST = (
    "alpha",
    next(name for name in ("beta", "gamma", "delta", "eps", "zeta", "eta") if split_of(name) == "test"),
)


def documented(summary: str, topic: str) -> str:
    body = f"A long enough text about {topic}, with some fifteen words or more, so that it is kept here."
    return f'"""{summary}\n\n{body}\n"""'


def function(name: str, summary: str, topic: str) -> str:
    return f"def {name}(x):\n" + textwrap.indent(documented(summary, topic), "    ") + "\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pydocs._entries_read.clear()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "site-packages"
    files = {
        f"{TRAIN}/__init__.py": documented("All about alpha", "it")
        + "\nfrom ._private import rise\nfrom .api import *\n",
        f"{TRAIN}/_private.py": function("rise", "Make the number rise.", "rising")
        + function("hide", "Hide it well now.", "h"),
        f"{TRAIN}/api.py": "from .deep.core import Thing\n__all__ = ['Thing']\n",
        f"{TRAIN}/deep/__init__.py": "",
        f"{TRAIN}/deep/core.py": "raise RuntimeError('imported')\nclass Thing:\n"
        + textwrap.indent(function("turn", "Turn the thing around.", "turning"), "    ")
        + textwrap.indent(function("_secret", "Keep the thing secret.", "secrets"), "    "),
        f"{TRAIN}/tests/__init__.py": function("test", "Test the whole package.", "tests"),
        f"{TRAIN}/_vendor/__init__.py": function("copied", "Copy of something else.", "copies"),
        f"{TRAIN}/broken.py": "def (:\n" + documented("A broken file here", "nothing"),
        f"{TRAIN}/latin.py": b'"""Caf\xe9 au lait here.\n\nNot UTF-8."""',
        f"{TEST}.py": function("fall", "Make the number fall.", "falling")
        + function("same", "Say the same thing.", "b"),
        "other.py": function("same", "Say the same thing.", "another") + function("twin", "Something else again.", "b"),
        "_hidden.py": function("f", "Hidden from all users.", "hiding"),
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_public_things_are_found_under_the_names_users_know(root):
    ids = [document.doc_id for document in open_pydocs("pydocs", roots=[root]).documents()]
    assert ids == sorted([TRAIN, f"{TRAIN}.rise", f"{TRAIN}.Thing.turn", f"{TEST}.fall", f"{TEST}.same", "other.same"])
    assert TRAIN not in sys.modules


def test_documents_have_no_title_and_queries_are_judged_by_their_own_document(root):
    corpus = open_pydocs("pydocs:test", roots=[root])
    queries = read_pydocs_queries("pydocs", roots=[root])
    texts = {document.doc_id: document for document in corpus.documents()}
    assert corpus.count == len(texts)
    assert {document.title for document in texts.values()} == {""}
    assert [(q.query_id, q.text) for q in queries.queries] == [(f"q:{TEST}.fall", "Make the number fall.")]
    assert [(j.query_id, j.doc_id) for j in queries.judgements] == [(f"q:{TEST}.fall", f"{TEST}.fall")]
    assert "Make the number fall" not in texts[f"{TEST}.fall"].text


def test_train_and_test_part_the_corpus_by_package(root):
    def ids(spec):
        return {document.doc_id for document in open_pydocs(spec, roots=[root]).documents()}

    assert ids("pydocs:train") | ids("pydocs:test") == ids("pydocs")
    assert not {i.partition(".")[0] for i in ids("pydocs:train")} & {i.partition(".")[0] for i in ids("pydocs:test")}
    assert {q.text for q in read_pydocs_queries("pydocs:train", roots=[root]).queries} >= {"Make the number rise."}


def test_the_cache_answers_as_parsing_does_and_notices_a_change(root, monkeypatch):
    first = list(open_pydocs("pydocs", roots=[root]).documents())
    pydocs._entries_read.clear()
    parsed = []
    monkeypatch.setattr(pydocs, "scan_source", lambda source: parsed.append(source.module) or scan_source(source))
    assert list(open_pydocs("pydocs", roots=[root]).documents()) == first
    assert parsed == []
    pydocs._entries_read.clear()
    (root / "other.py").write_text(function("new", "A brand new function.", "news"))
    ids = {document.doc_id for document in open_pydocs("pydocs", roots=[root]).documents()}
    assert parsed == ["other"]
    assert {"other.new", "other.same"} & ids == {"other.new"}


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\xff\xfe", b"[1, 2]\n[3]\n"])
def test_a_damaged_cache_is_written_anew(root, damage):
    first = list(open_pydocs("pydocs", roots=[root]).documents())
    (cache,) = pydocs.cache_folder().glob("pydocs-*.jsonl")
    whole = cache.read_bytes()
    for content in (damage, whole.splitlines(keepends=True)[0] + damage, whole[:-30]):
        cache.write_bytes(content)
        pydocs._entries_read.clear()
        assert list(open_pydocs("pydocs", roots=[root]).documents()) == first
        assert cache.read_bytes() == whole


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs /dev/null")
def test_a_cache_that_cannot_be_written_is_announced_and_does_no_harm(root, monkeypatch):
    from ibkd_retrieval.progress import SILENT

    said = []

    class Listener:
        task = staticmethod(SILENT.task)
        say = staticmethod(said.append)

    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert open_pydocs("pydocs", Listener(), [root]).count == 6
    assert len(said) == 1
    assert "read again next time" in said[0]


def test_without_any_documentation_another_corpus_is_asked_for(tmp_path):
    with pytest.raises(UserError, match="`corpus`"):
        open_pydocs("pydocs", roots=[tmp_path])
    with pytest.raises(UserError, match="no split 'dev'"):
        open_pydocs("pydocs:dev", roots=[tmp_path])


def test_a_package_under_two_roots_counts_once(root, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    (second / "other.py").write_text("")
    assert [s.path.parent for s in find_sources([second, root]) if s.module == "other"] == [second]


def test_circular_star_imports_end():
    scans = [
        ModuleScan("p", True, (), (("p.a", "*", "*"), ("p._b", "*", "*")), None),
        ModuleScan("p.a", False, (), (("p", "*", "*"), ("p.a", "*", "*")), None),
        ModuleScan("p._b", False, (Definition("f.g", "s", "b"),), (("p", "f", "f"),), None),
    ]
    assert [name for name, _ in public_definitions(scans)] == ["p.f.g"]


DEFINITIONS = st.builds(
    Definition, st.sampled_from(["", "f", "C.m"]), st.sampled_from(["A b", "a  B!", "c"]), st.text("xyz ", max_size=3)
)


@given(st.lists(st.tuples(st.sampled_from(["p.a", "p.b", "q", "r.s"]), DEFINITIONS), max_size=12), st.randoms())
def test_chosen_documents_have_distinct_ids_texts_and_summaries_in_any_order(definitions, random):
    entries = select_entries(definitions)
    assert [e.doc_id for e in entries] == sorted({e.doc_id for e in entries})
    assert len({" ".join(e.text.split()) for e in entries}) == len(entries)
    summaries = [e.summary.lower().replace("!", "").split() for e in entries if e.summary]
    assert all(summaries.count(summary) == 1 for summary in summaries)
    random.shuffle(definitions)
    assert select_entries(definitions) == entries


@settings(max_examples=60)
@given(st.binary(max_size=80))
def test_any_source_file_is_scanned_or_skipped(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("source") / "m.py"
    path.write_bytes(b'"""' + content)
    assert scan_source(SourceFile("m", path, False)).module == "m"
