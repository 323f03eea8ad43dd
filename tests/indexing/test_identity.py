import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.plan import Fingerprint, IdGuard, fingerprint

IDS = st.lists(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=6), max_size=12)


def admit_all(guard: IdGuard, batches: list[list[str]]) -> None:
    for i, batch in enumerate(batches):
        guard.admit(batch, lambda i=i: (doc_id for earlier in batches[:i] for doc_id in earlier))


@given(IDS, st.integers(1, 4))
def test_ids_are_refused_exactly_when_one_repeats_however_hashes_collide(batches, buckets):
    guard = IdGuard("corpus", hash_id=lambda doc_id: sum(map(ord, doc_id)) % buckets)
    flat = [doc_id for batch in batches for doc_id in batch]
    if len(set(flat)) == len(flat):
        admit_all(guard, batches)
        return
    with pytest.raises(UserError) as caught:
        admit_all(guard, batches)
    doc_id = str(caught.value).split("'")[1]
    first, second = map(int, re.search(r"documents (\d+) and (\d+):", str(caught.value)).groups())
    assert first < second
    assert flat[first - 1] == flat[second - 1] == doc_id


def test_stored_ids_are_read_only_when_a_hash_was_seen_before():
    def unexpected():
        raise AssertionError("read")

    guard = IdGuard("corpus")
    for start in range(0, 5000, 100):
        guard.admit([f"d{i}" for i in range(start, start + 100)], unexpected)
    assert sum(len(part) for part in guard._sorted) == 5000
    assert len(guard._sorted) <= 13


@pytest.mark.parametrize("bad", ["", " ", "a  b", "a b ", "a\tb", "a\n", "\u2028", "a\u00a0b", "\ud800"])
def test_ids_that_no_line_can_hold_are_refused_with_their_position(bad: str):
    guard = IdGuard("corpus")
    guard.admit(["x"], lambda: iter([]))
    with pytest.raises(UserError, match="Document 3 of corpus"):
        guard.admit(["y", bad], lambda: iter(["x"]))


def test_a_fingerprint_is_the_one_that_older_indexes_record():
    documents = [Document("a", "text"), Document("b", "snow \u2603", "a title", {"year": 1999, "by": "A\u00e9"})]
    documents += [Document(f"d{i}", "half of a pair: \ud800" if i == 7 else "text") for i in range(200)]
    pieces = []
    for document in documents:
        fields = json.dumps(dict(document.fields), sort_keys=True)
        for text in (document.doc_id, document.content, *([fields] if document.fields else ())):
            data = text.encode("utf-8", "surrogatepass")
            pieces += [len(data).to_bytes(8, "little"), data]
    assert fingerprint(documents) == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_a_fingerprint_depends_on_every_id_and_content_and_on_their_order_only():
    a, b = Document("a", "text"), Document("b", "other", "title")
    assert fingerprint([a, b]) != fingerprint([b, a])
    assert fingerprint([Document("a", "bc")]) != fingerprint([Document("ab", "c")])
    assert fingerprint([a]) != fingerprint([a, b])
    parts = Fingerprint()
    parts.add([a])
    parts.add([b])
    assert parts.hexdigest() == fingerprint([a, b])
