import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.runs import doc_ids
from ibkd_retrieval.search.runs.doc_ids import any_repeated, as_ids, hashes, movable, taken

# ASCII and not, with zeros at the end, and longer than an array's element and than what is moved as bytes.
IDS = st.lists(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
    | st.sampled_from(["a", "a\0", "1234567", "12345678", "123456789", "d" * 20, "d" * 64, "d" * 65, "e" * 255]),
    max_size=20,
)


@given(IDS)
def test_ids_are_strings_whatever_their_length(ids):
    held = as_ids(ids)
    assert held.tolist() == ids
    assert all(type(doc_id) is str for doc_id in held)


@given(IDS)
def test_movable_ids_are_the_same_ids_in_the_same_order_with_equal_hashes(ids):
    moved = movable(as_ids(ids))
    text = [doc_id.decode() if isinstance(doc_id, bytes) else doc_id for doc_id in moved.tolist()]
    assert text == ids
    assert np.argsort(moved, kind="stable").tolist() == sorted(range(len(ids)), key=lambda at: ids[at].encode())
    coded = dict(zip(text, hashes(moved).tolist(), strict=True))
    assert hashes(moved).tolist() == [coded[doc_id] for doc_id in text]
    assert all(0 <= code < 1 << 48 for code in coded.values())


@pytest.mark.parametrize("shape", ["{}", "doc-{:05d}", "collection-of-{:020d}-documents"])
def test_hashes_of_ids_that_are_alike_differ(shape):
    moved = movable(as_ids([shape.format(number) for number in range(50_000)]))
    assert moved.dtype.kind == "S"
    assert len(np.unique(hashes(moved))) == 50_000


@given(IDS, st.booleans())
def test_repeated_ids_are_found_by_set_and_by_hash(ids, by_hash):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doc_ids, "_FEW", 0 if by_hash else 100)
        assert any_repeated(as_ids(ids)) == (len(set(ids)) < len(ids))


def test_an_id_that_is_no_text_is_refused():
    with pytest.raises(UserError, match=r"document id '\\udc80' cannot be written as UTF-8"):
        as_ids(["a", "\udc80"])


@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30), min_size=1, max_size=20),
    st.data(),
)
def test_ids_taken_are_those_at_the_places(values, data):
    places = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=40))
    found = taken(as_ids(values), np.array(places, dtype=np.int64))
    assert found.tolist() == [values[place] for place in places]
    assert found.dtype == as_ids(values).dtype
