import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_models import sentences
from ibkd_retrieval.distill.data.texts import KeyIndex, text_keys
from ibkd_retrieval.distill.teacher import cache as teacher_cache
from ibkd_retrieval.distill.teacher.cache import StepVectors, TeacherCache
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import UserError

TEXTS = sentences(40, seed=2)


class Counting:
    def __init__(self, encoder, die_after=None):
        self._encoder, self.texts, self._die_after = encoder, 0, die_after

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode(self, texts, kind="document", progress=None):
        if self._die_after is not None and self.texts >= self._die_after:
            raise KeyboardInterrupt
        self.texts += len(texts)
        return self._encoder.encode(texts, kind, progress)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD_SIZE", 8)


def test_cached_vectors_are_the_teachers_to_float16(tmp_path, teacher):
    cache = TeacherCache(tmp_path / "c", teacher)
    order = [*TEXTS[::-1], TEXTS[3]]
    vectors = cache.vectors(cache.rows(order))
    np.testing.assert_allclose(vectors, teacher.encode(order), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert len(cache) == len(TEXTS)


def test_no_text_is_encoded_twice_even_after_reopening(tmp_path, teacher):
    counting = Counting(teacher)
    first = TeacherCache(tmp_path / "c", counting)
    before = first.vectors(first.rows(TEXTS[:20]))
    again = TeacherCache(tmp_path / "c", counting)
    np.testing.assert_array_equal(again.vectors(again.rows(TEXTS)[:20]), before)
    assert counting.texts == len(TEXTS)


def test_queries_are_cached_apart_from_documents_where_prompts_differ(tmp_path, prompted):
    teacher = Encoder.load(str(prompted), device="cpu", dtype="float32")
    cache = TeacherCache(tmp_path / "c", teacher)
    documents, queries = cache.rows(TEXTS[:5]), cache.rows(TEXTS[:5], "query")
    assert not set(documents) & set(queries)
    np.testing.assert_allclose(cache.vectors(queries), teacher.encode(TEXTS[:5], "query"), atol=1e-3)


def test_an_interrupted_cache_goes_on_where_it_stopped(tmp_path, teacher):
    with pytest.raises(KeyboardInterrupt):
        TeacherCache(tmp_path / "c", Counting(teacher, die_after=16)).rows(TEXTS)
    counting = Counting(teacher)
    cache = TeacherCache(tmp_path / "c", counting)
    assert len(cache) == 16
    cache.rows(TEXTS)
    assert counting.texts == len(TEXTS) - 16


def test_a_kill_between_vectors_and_keys_costs_that_shard_alone(tmp_path, teacher):
    cache = TeacherCache(tmp_path / "c", teacher)
    cache.rows(TEXTS)
    sorted((tmp_path / "c").glob("*.keys.npy"))[-1].unlink()
    counting = Counting(teacher)
    again = TeacherCache(tmp_path / "c", counting)
    assert len(again) == len(TEXTS) - 8
    np.testing.assert_allclose(again.vectors(again.rows(TEXTS)), teacher.encode(TEXTS), atol=1e-3)
    assert counting.texts == 8


def test_two_runs_that_append_at_once_never_mix_their_vectors(tmp_path, teacher, monkeypatch):
    first, second = (TeacherCache(tmp_path / "c", teacher) for _ in range(2))
    write, meddled = teacher_cache.atomic_write, []

    def meddle(path):
        if path.name.endswith("keys.npy") and not meddled:
            meddled.append(path)
            second.rows(TEXTS[8:16])
        return write(path)

    monkeypatch.setattr(teacher_cache, "atomic_write", meddle)
    first.rows(TEXTS[:8])
    assert meddled
    for cache in (first, second, TeacherCache(tmp_path / "c", teacher)):
        np.testing.assert_allclose(cache.vectors(cache.rows(TEXTS[:16])), teacher.encode(TEXTS[:16]), atol=1e-3)


def test_another_teacher_setting_or_number_format_is_refused(tmp_path, bert, teacher):
    TeacherCache(tmp_path / "c", teacher)
    with pytest.raises(UserError, match=r"differs in teacher, max_length"):
        TeacherCache(tmp_path / "c", Encoder.load(str(bert), device="cpu", dtype="float32", max_length=9))
    with pytest.raises(UserError, match=r"differs in dtype"):
        TeacherCache(tmp_path / "c", Encoder.load(str(bert), device="cpu", dtype="bfloat16"))


def test_a_kill_in_the_very_first_write_leaves_a_folder_that_a_cache_may_be_started_in(tmp_path, teacher):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".manifest.json.4711.tmp").write_text("{")
    assert len(TeacherCache(tmp_path / "c", teacher)) == 0
    assert (tmp_path / "c" / "manifest.json").is_file()


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path, teacher):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="no teacher cache"):
        TeacherCache(tmp_path, teacher)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("pattern", ["00001*.vectors.npy", "00001.keys.npy", "manifest.json"])
@pytest.mark.parametrize("keep", [0, 90, 130])
def test_a_damaged_file_is_named(tmp_path, teacher, pattern, keep):
    TeacherCache(tmp_path / "c", teacher).rows(TEXTS)
    (path,) = (tmp_path / "c").glob(pattern)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"{path.name} is damaged: delete"):
        TeacherCache(tmp_path / "c", teacher)


def test_a_flipped_bit_is_noticed_before_a_vector_is_used(tmp_path, teacher):
    TeacherCache(tmp_path / "c", teacher).rows(TEXTS)
    path = sorted((tmp_path / "c").glob("00001*.vectors.npy"))[0]
    whole = path.read_bytes()
    for place in np.random.default_rng(0).choice(len(whole), 40, replace=False).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"(is damaged|does not fit its keys file): delete"):
            TeacherCache(tmp_path / "c", teacher).rows(TEXTS)


def test_a_cache_of_an_earlier_version_without_hashes_stays_usable(tmp_path, teacher):
    TeacherCache(tmp_path / "c", teacher).rows(TEXTS)
    for path in (tmp_path / "c").glob("*.vectors.npy"):
        path.write_bytes(path.read_bytes()[:-16])
    counting = Counting(teacher)
    cache = TeacherCache(tmp_path / "c", counting)
    np.testing.assert_allclose(cache.vectors(cache.rows(TEXTS)), teacher.encode(TEXTS), atol=1e-3)
    assert counting.texts == 0


def test_vectors_held_on_the_device_are_those_of_the_cache(tmp_path, teacher):
    cache = TeacherCache(tmp_path / "cache", teacher)
    rows = cache.rows(TEXTS)[::2]
    asked = np.array([rows[5], rows[0], rows[5], rows[-1]])
    held, read = (StepVectors(cache, rows, "cpu", held=held).at(asked).numpy() for held in (True, None))
    np.testing.assert_array_equal(read, cache.vectors(asked))
    np.testing.assert_allclose(held, read, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(held, axis=1), 1, atol=1e-6)


def test_keys_tell_texts_and_prompts_apart():
    keys = text_keys(["a", "b", "a"])
    assert keys.shape == (3, 2)
    assert (keys[0] == keys[2]).all()
    assert (keys[0] != keys[1]).any()
    assert (text_keys(["a"], "q: ") == text_keys(["q: a"])).all()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12),
)
def test_keys_are_found_even_where_their_halves_are_shared(kept, asked):
    index = KeyIndex(np.array(kept, dtype=np.uint64).reshape(-1, 2))
    last = {key: row for row, key in enumerate(kept)}
    assert index.find(np.array(asked, dtype=np.uint64)).tolist() == [last.get(key, -1) for key in asked]


def test_keys_that_two_runs_wrote_twice_do_not_slow_the_search_for_others_down(monkeypatch):
    kept = text_keys(["twice", "twice", *TEXTS])
    index = KeyIndex(kept)
    asked, search = [], np.searchsorted
    monkeypatch.setattr(np, "searchsorted", lambda *a, **b: asked.append(a) or search(*a, **b))
    assert (index.find(text_keys([f"absent {i}" for i in range(1000)])) == -1).all()
    assert len(asked) == 1, "one look-up for all, and none for each"
    assert index.find(kept).tolist() == [1, 1, *range(2, len(kept))]
