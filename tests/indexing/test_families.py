"""Every family against exact search."""

import dataclasses
import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from helpers.indexing_fakes import Listener, TableEncoder, clustered, table_corpus
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.faiss_binding import read_for_search, read_structure_file
from ibkd_retrieval.indexing.families import FAMILIES, Family, family_named
from ibkd_retrieval.indexing.families.family import FEWEST_DOCUMENTS
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import StoredIndex, open_index
from ibkd_retrieval.indexing.vectors import ArrayVectors
from ibkd_retrieval.progress import SILENT

COUNT, DIM, ASKED = 3000, 32, 100

FAMILIES_TRIED = {
    **{name: {} for name in FAMILIES if name != "factory"},
    "rabitq-4": {"bits": 4},
    "factory, rotated lists": {"factory": "RR32,IVF40,PQ8x4fs"},
    "factory, graph": {"factory": "HNSW16,SQ8"},
    "factory, codes alone": {"factory": "PQ16x4fs"},
}


def family_of(name: str) -> Family:
    return family_named(name.split(",")[0].removesuffix("-4"), **FAMILIES_TRIED[name])


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    table = clustered(COUNT + ASKED, DIM)
    table[100:140] = table[99]
    table[200:210] = 0
    return table


@pytest.fixture(scope="module", params=FAMILIES_TRIED)
def index(request: pytest.FixtureRequest, table: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> StoredIndex:
    folder = tmp_path_factory.mktemp("families") / "index"
    corpus, encoder = table_corpus(COUNT), TableEncoder(table[:COUNT])
    build_index(corpus, encoder, folder, family=family_of(request.param), shard_size=700)
    return open_index(folder, verify=True)


def found_share(rows: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]))


def exact_rows(queries: np.ndarray, table: np.ndarray, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    scores = queries @ table.T
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def test_a_structure_read_to_be_searched_finds_what_one_that_can_be_changed_finds(
    index: StoredIndex, table: np.ndarray
) -> None:
    path = index.folder / index.manifest.structure
    if not path.exists():
        pytest.skip("A flat index of few vectors has no structure file.")
    searched, changed = read_for_search(path), read_structure_file(path)
    gc.collect()  # The views into the file's bytes outlive the reader.
    one, other = (each.search(table[COUNT:], 20) for each in (searched, changed))
    assert np.array_equal(one[1], other[1])
    assert np.array_equal(one[0], other[0])
    path.with_suffix(".cut").write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RuntimeError):
        read_for_search(path.with_suffix(".cut"))


def test_queries_not_seen_find_what_exact_search_does(index: StoredIndex, table: np.ndarray):
    queries = table[COUNT:]
    scores, rows = index.search(queries, 10)
    assert found_share(rows, exact_rows(queries, table[:COUNT], 10)) >= 0.96
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 10 for row in rows.tolist())


def test_a_thousand_results_are_found_as_well(index: StoredIndex, table: np.ndarray):
    queries = table[COUNT:]
    rows = index.search(queries, 1000)[1]
    assert found_share(rows, exact_rows(queries, table[:COUNT], 1000)) >= 0.95


def test_more_results_than_documents_are_padded(index: StoredIndex, table: np.ndarray):
    scores, rows = index.search(table[COUNT : COUNT + 3], COUNT + 7)
    assert scores.shape == rows.shape == (3, COUNT + 7)
    assert (rows[:, COUNT:] == -1).all()
    assert ((rows == -1) == np.isneginf(scores)).all()
    for row in rows:
        kept = row[row >= 0]
        assert len(set(kept.tolist())) == len(kept) > 0.9 * COUNT


@pytest.mark.parametrize("exact_rows_up_to", [0, 20_000], ids=["by the structure", "exactly"])
def test_only_allowed_rows_are_found(
    index: StoredIndex, table: np.ndarray, exact_rows_up_to: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ibkd_retrieval.indexing.index.EXACT_ALLOWED_ROWS", exact_rows_up_to)
    allowed = np.zeros(COUNT, dtype=bool)
    allowed[3::11] = True
    queries = table[COUNT:]
    rows = index.search(queries, 10, allowed=allowed)[1]
    assert allowed[rows[rows >= 0]].all()
    assert found_share(rows, exact_rows(queries, table[:COUNT], 10, allowed)) >= (0.999 if exact_rows_up_to else 0.93)


def test_a_filter_that_goes_with_a_topic_leaves_no_place_empty(
    index: StoredIndex, table: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ibkd_retrieval.indexing.index.EXACT_ALLOWED_ROWS", 0)
    queries = table[COUNT : COUNT + 20]
    for query in queries:
        allowed = np.zeros(COUNT, dtype=bool)
        allowed[np.argsort(table[:COUNT] @ query)[: COUNT // 4]] = True  # The quarter that is least like it.
        rows = index.search(query[None], 10, allowed=allowed)[1][0]
        assert len(set(rows.tolist())) == 10
        assert allowed[rows].all()


def test_a_recall_aimed_at_is_adapted_to_the_number_of_results(index: StoredIndex, table: np.ndarray):
    aimed = index.aimed_at(0.01)
    queries = table[COUNT:]
    rows = aimed.search(queries, 1000)[1]
    assert found_share(rows, exact_rows(queries, table[:COUNT], 1000)) >= 0.9
    assert index.defaults == index.manifest.search


def test_a_zero_query_and_a_repeated_document_are_answered(index: StoredIndex, table: np.ndarray):
    nothing = np.zeros((1, DIM), dtype=np.float32)
    scores, rows = index.search(nothing, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]
    assert (scores == 0).all()
    allowed = np.zeros(COUNT, dtype=bool)
    allowed[[7, 2000]] = True
    assert index.search(nothing, 3, allowed=allowed)[1].tolist() == [[7, 2000, -1]]
    scores, rows = index.search(table[99:100], 5)
    assert set(rows[0].tolist()) <= set(range(99, 140))
    assert np.ptp(scores) < 1e-5


def test_the_size_foretold_is_that_of_the_structure(index: StoredIndex):
    manifest = index.manifest
    family = family_named(manifest.family, **manifest.family_options)
    if manifest.family == "factory":
        pytest.skip("counts the codes alone")
    foretold = family.bytes_per_vector(COUNT, DIM)
    # Fast-scan lists are padded to blocks of 32, which matters only where lists are as short as here.
    assert 0.6 * foretold <= index.memory_bytes / COUNT <= 2.2 * foretold


def test_settings_that_a_structure_does_not_have_are_refused(index: StoredIndex, table: np.ndarray):
    defaults = index.manifest.search
    for name in ("nprobe", "ef_search"):
        if getattr(defaults, name) is None:
            with pytest.raises(UserError, match=f"leave out.*{name}"):
                index.search(table[:1], 3, SearchParams(**{name: 4}))
        else:
            index.search(table[:1], 3, SearchParams(**{name: 4}))
            with pytest.raises(UserError, match="at least 1"):
                index.search(table[:1], 3, SearchParams(**{name: 0}))


def test_the_cheapest_measured_setting_that_reaches_a_recall_is_given(index: StoredIndex):
    if index.manifest.search.is_exact:
        assert index.defaults_for(1.0) == SearchParams()
        return
    points = index.manifest.operating_points
    best = max(point.recall_at_10 for point in points)
    promised = 2 * best - 1 - 1e-9
    chosen = index.defaults_for(promised)
    (of_chosen,) = [point for point in points if point.search_params == chosen]
    assert of_chosen.recall_at_10 == best
    cheap = index.defaults_for(0.01)
    assert (
        cheap == min((p for p in points if p.recall_at_10 >= 0.505), key=lambda point: point.milliseconds).search_params
    )
    if best < 1:
        with pytest.raises(UserError, match=f"the best measured finds {best:.4g}"):
            index.defaults_for(1.0)
    for wrong in (0.0, 1.2, float("nan")):
        with pytest.raises(UserError, match="above 0 and at most 1"):
            index.defaults_for(wrong)


# Shrinking would train hundreds of quantisers.
@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    name=st.sampled_from([name for name in FAMILIES if name not in ("flat", "factory")]),
    count=st.integers(FEWEST_DOCUMENTS, FEWEST_DOCUMENTS + 200),
    dim=st.integers(2, 24),
    repeated=st.floats(0, 1),
    zeros=st.floats(0, 0.5),
    k=st.integers(1, 1300),
    seed=st.integers(0, 99),
)
def test_any_vectors_searched_exhaustively_give_the_exact_scores(name, count, dim, repeated, zeros, k, seed):
    generator = np.random.default_rng(seed)
    table = clustered(count, dim, seed)
    table[generator.random(count) < repeated] = table[0]
    table[generator.random(count) < zeros] = 0
    queries = clustered(3, dim, seed + 1)
    family = family_named(name)
    with tempfile.TemporaryDirectory() as folder:
        build_index(table_corpus(count), TableEncoder(table), Path(folder) / "i", family=family, shard_size=400)
        index = open_index(Path(folder) / "i")
        params = {"ef_search": count} if name == "hnsw" else {"nprobe": count}
        params |= {} if name in ("hnsw", "ivf-flat") else {"refine": count}
        scores, rows = index.search(queries, k, SearchParams(**params))
    assert scores.shape == rows.shape == (3, k)
    for query in range(3):
        kept = rows[query] >= 0
        assert len(set(rows[query][kept].tolist())) == kept.sum() <= min(k, count)
        np.testing.assert_allclose(scores[query][kept], table[rows[query][kept]] @ queries[query], atol=1e-5)
        assert kept[0]
        # A graph of many equal vectors need not be connected, and 4-bit codes of them need not differ.
        if name not in ("hnsw", "ivf-pq"):
            assert kept.sum() == min(k, count)
            best = np.sort(table @ queries[query])[::-1][:k]
            np.testing.assert_allclose(scores[query][kept], best, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("flat", "factory")])
def test_too_few_documents_fall_back_to_flat_and_say_so(name: str):
    listener = Listener()
    assert family_named(name).suited_to(FEWEST_DOCUMENTS - 1, listener).name == "flat"
    assert f"too few to train an {name} index" in listener.said[0]
    assert family_named(name).suited_to(FEWEST_DOCUMENTS, listener).name == name


@pytest.mark.parametrize("name", ["ivf-pq", "hnsw", "rabitq"])
def test_documents_that_are_all_equal_are_found(tmp_path: Path, name: str):
    table = np.repeat(clustered(1, 16), 1000, axis=0)
    build_index(table_corpus(1000), TableEncoder(table), tmp_path / "i", family=name)
    scores, rows = open_index(tmp_path / "i").search(table[:2], 5)
    assert (rows >= 0).all()
    np.testing.assert_allclose(scores, 1, atol=1e-5)


def test_options_of_every_kind_come_back_from_the_manifest(table: np.ndarray, tmp_path: Path):
    family = family_named("factory", factory="IVF10,SQ8", nprobe=3, recall=0.5)
    build_index(table_corpus(1000), TableEncoder(table), tmp_path / "i", family=family)
    manifest = read_manifest(tmp_path / "i")
    assert manifest.family_options == dataclasses.asdict(family)
    assert manifest.search.nprobe == 3


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("", "needs its faiss factory string"),
        ("IDMap,Flat", "Leave IDMap out"),
        ("IVF16,PQ8x4fs,RFlat", "Leave RFlat out"),
        ("IVF16,PQ8,Refine(SQ8)", "Leave Refine"),
        ("Nonsense", "faiss makes no index 'Nonsense'.*could not parse"),
        ("HNSW1,Flat", "faiss crashes on the index 'HNSW1,Flat' of vectors of 32 dimensions"),
        ("HNSW0", "faiss crashes on"),
        ("IVF0,Flat", r"faiss cannot use the index 'IVF0,Flat' \(.*cur_nprobe > 0"),
        ("IVF16,PQ7", "multiple of the number of subquantizers"),
        ("IVF5000,Flat", r"cannot train 'IVF5000,Flat' on 3,000 vectors \(Number of training points"),
    ],
)
def test_a_bad_factory_string_is_one_sentence(table: np.ndarray, factory: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        family_named("factory", factory=factory).build(ArrayVectors(table[:COUNT]), SILENT)
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hnsw", {"lists": 3}, "no such option as lists: its options are links"),
        ("hnsw", {"links": 1}, "links .* at least 2"),
        ("ivf-flat", {"refine": 4}, "no such option"),
        ("rabitq", {"bits": 10}, "1 to 9 bits"),
        ("sq8", {"recall": 0.0}, "above 0"),
        ("flat", {"memory_bytes": -1}, "at least 0"),
    ],
)
def test_options_out_of_range_are_user_errors(name: str, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        family_named(name, **options)


def test_settings_of_another_structure_are_refused_before_anything_is_trained(table: np.ndarray):
    for factory, setting in (("HNSW16", "nprobe"), ("IVF16,Flat", "ef_search")):
        with pytest.raises(UserError, match=f"leave out {setting}"):
            family_named("factory", factory=factory, **{setting: 4}).build(ArrayVectors(table), SILENT)


@pytest.mark.parametrize("name", ["ivf-flat", "hnsw", "sq8"])
def test_vectors_that_are_not_finite_are_refused(table: np.ndarray, name: str):
    spoilt = table.copy()
    spoilt[17, 3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        family_named(name).build(ArrayVectors(spoilt), SILENT)


def test_the_lists_of_a_large_collection_are_found_through_a_graph(
    table: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ibkd_retrieval.indexing.families.inverted.GRAPH_OVER_LISTS", COUNT)
    build_index(table_corpus(COUNT), TableEncoder(table[:COUNT]), tmp_path / "i", family="ivf-pq")
    index = open_index(tmp_path / "i")
    assert index.manifest.factory == "IVF76_HNSW32,PQ8x4fs"
    queries = table[COUNT:]
    assert found_share(index.search(queries, 10)[1], exact_rows(queries, table[:COUNT], 10)) >= 0.96
