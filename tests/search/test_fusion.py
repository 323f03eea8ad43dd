import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.runs import Run, fusion
from ibkd_retrieval.search.runs.fusion import reciprocal_rank_fusion, weighted_sum

DOCUMENTS = [f"d{number}" for number in range(9)] + ["ä", "文", "d1-2"]
SCORES = st.sampled_from([0.0, 1.0, 1.0, -2.5, 3.25, 1e-12, 7.0]) | st.floats(-50, 50, width=32)
LISTS = st.dictionaries(st.sampled_from(DOCUMENTS), SCORES, max_size=8)
QUERIES = st.sampled_from(["q1", "q2", "q10", "x"])


def run_of(results: dict[str, dict[str, float]], tag: str = "t") -> Run:
    return Run.from_lists(
        list(results), [list(r) for r in results.values()], [list(r.values()) for r in results.values()], tag
    )


def as_dicts(run: Run) -> dict[str, dict[str, float]]:
    return {query: dict(zip(ids.tolist(), scores.tolist(), strict=True)) for query, ids, scores in run}


def by_ranx(runs: list[Run], method: str, depth: int | None, ranked: bool, **params) -> dict[str, dict[str, float]]:
    """ranx's fusion of the runs, whose queries have to be the same, each with some result."""
    from ranx import Run as RanxRun
    from ranx import fuse

    queries = list(dict.fromkeys(query for run in runs for query in run.query_ids))
    # ranx has no list that is empty, so every list gets a document of its own, without which the scores of the others
    # are the same: it ranks below all, at the lowest score.
    theirs = []
    for run in runs:
        results = {query: list(scores.items())[:depth] for query, scores in as_dicts(run).items()}
        filled = {}
        for query in queries:
            own = results.get(query, [])
            if ranked:  # ranx orders ties in its own way.
                own = [(doc_id, float(len(own) - place)) for place, (doc_id, _) in enumerate(own)]
            filled[query] = {**dict(own), "filler": min((score for _, score in own), default=0.0) - ranked}
        theirs.append(RanxRun(filled))
    fused = fuse(theirs, norm=None if ranked else "min-max", method=method, params=params)
    return {query: {d: s for d, s in fused.run[query].items() if d != "filler"} for query in queries}


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(QUERIES, LISTS, max_size=4), min_size=2, max_size=3),
    st.none() | st.integers(1, 5),
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 2.0]), min_size=3, max_size=3),
)
def test_fused_scores_are_those_of_ranx(results, depth, weights):
    for result in results:
        result.setdefault("shared", {"d1": 1.0, "d2": 0.5})
    weights = [*weights[: len(results) - 1], 1.0]
    runs = [run_of(result) for result in results]
    for ours, theirs in (
        (reciprocal_rank_fusion(runs, depth), by_ranx(runs, "rrf", depth, True, k=60)),
        (weighted_sum(runs, weights, depth=depth), by_ranx(runs, "wsum", depth, False, weights=weights)),
    ):
        assert set(ours.query_ids) == set(theirs)
        for query, ids, scores in ours:
            assert set(ids) == set(theirs[query])
            # A run holds float32.
            expected = [np.float32(theirs[query][doc_id]) for doc_id in ids]
            np.testing.assert_allclose(scores, expected, rtol=2e-7, atol=1e-9)
            again = run_of({query: dict(zip(ids.tolist(), scores.tolist(), strict=True))})
            assert ids.tolist() == again.doc_ids.tolist()


def test_sums_before_rounding_equal_those_of_ranx_to_nine_decimals(monkeypatch):
    monkeypatch.setattr(fusion, "as_float32", lambda scores: kept.append(scores) or scores.astype(np.float32))
    generator = np.random.default_rng(0)
    runs = [
        run_of(
            {f"q{q}": {f"d{d}": float(generator.normal()) for d in generator.choice(90, 60, False)} for q in range(30)}
        )
        for _ in range(3)
    ]
    for ours, theirs in (
        (lambda: reciprocal_rank_fusion(runs), by_ranx(runs, "rrf", None, True, k=60)),
        (lambda: weighted_sum(runs, [0.2, 0.5, 0.3]), by_ranx(runs, "wsum", None, False, weights=[0.2, 0.5, 0.3])),
    ):
        kept: list[np.ndarray] = []
        ours()
        sums = np.sort(np.concatenate(kept))
        expected = np.sort([score for scores in theirs.values() for score in scores.values()])
        np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-9)


def test_rank_fusion_is_the_formula_of_the_paper():
    left, right = run_of({"q": {"a": 3.0, "b": 2.0}}), run_of({"q": {"b": 9.0, "c": 1.0}})
    fused = reciprocal_rank_fusion([left, right], tag="mine")
    assert (fused.tag, fused.doc_ids.tolist()) == ("mine", ["b", "a", "c"])
    np.testing.assert_allclose(fused.scores, [1 / 62 + 1 / 61, 1 / 61, 1 / 62], rtol=1e-7)
    heavy = reciprocal_rank_fusion([left, right], weights=[5, 1])
    assert heavy.doc_ids.tolist() == ["b", "a", "c"]
    np.testing.assert_allclose(heavy.scores, [5 / 62 + 1 / 61, 5 / 61, 1 / 62], rtol=1e-7)


def test_a_query_that_a_run_lacks_is_fused_from_the_others_in_order_of_appearance():
    fused = reciprocal_rank_fusion([run_of({"q2": {"a": 1.0}, "q1": {}}), run_of({"q3": {"c": 1.0}, "q2": {"b": 1.0}})])
    assert {query: list(scores) for query, scores in as_dicts(fused).items()} == {
        "q2": ["b", "a"],
        "q1": [],
        "q3": ["c"],
    }
    assert fused.query_ids == ("q2", "q1", "q3")


def test_blocks_and_hashes_do_not_show(monkeypatch):
    generator = np.random.default_rng(1)
    runs = [
        run_of(
            {
                f"q{q}": {f"d{d}": float(generator.integers(9)) for d in generator.choice(50, 30, False)}
                for q in range(40)
            }
        )
        for _ in range(3)
    ]
    whole = reciprocal_rank_fusion(runs)
    monkeypatch.setattr(fusion, "_BLOCK_RESULTS", 200)
    in_blocks = reciprocal_rank_fusion(runs)
    monkeypatch.setattr(fusion, "hashes", lambda ids: np.zeros(len(ids), dtype=np.int64))
    colliding = reciprocal_rank_fusion(runs)
    for other in (in_blocks, colliding):
        assert other.doc_ids.tolist() == whole.doc_ids.tolist()
        assert other.scores.tolist() == whole.scores.tolist()
        assert other.offsets.tolist() == whole.offsets.tolist()


def test_ids_hash_differently_in_another_process_and_fuse_the_same():
    script = (
        "from ibkd_retrieval.search.runs.fusion import *; from ibkd_retrieval.search.runs import Run\n"
        "runs = [Run.from_lists(['q'], [[f'd{i * step % 97}' for i in range(60)]], [[-float(i) for i in range(60)]])"
        " for step in (1, 5, 7)]\n"
        "run = weighted_sum(runs, [0.1, 0.7, 0.2]); print(run.doc_ids.tolist(), run.scores.tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop()


def test_no_queries_fuse_into_an_empty_run():
    empty = Run.from_lists([], [], [])
    assert len(reciprocal_rank_fusion([empty, empty])) == 0
    assert weighted_sum([run_of({"q": {}}), run_of({"q": {}})], [1, 1]).offsets.tolist() == [0, 0]


ONE, OTHER = run_of({"q": {"a": 1.0}}), run_of({"p": {"a": 1.0}})
TWO = run_of({"q": {"a": 2.0, "b": 1.0}})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reciprocal_rank_fusion([ONE]), "two runs or more: got 1"),
        (lambda: reciprocal_rank_fusion([ONE, OTHER]), r"\(q, \.\.\.\) and \(p, \.\.\.\) have no query in common"),
        (lambda: reciprocal_rank_fusion([ONE, ONE], depth=0), "depth of fusion must be at least 1, not 0"),
        (lambda: weighted_sum([ONE, ONE], [1, 2, 3]), "one weight for each of 2 runs: got 3"),
        (lambda: weighted_sum([ONE, ONE], [1, -0.5]), "not all 0: got 1, -0.5"),
        (lambda: weighted_sum([ONE, ONE], [0, 0]), "not all 0: got 0, 0"),
        (lambda: weighted_sum([ONE, ONE], [float("nan"), 1]), "not all 0: got nan, 1"),
        (lambda: weighted_sum([TWO, ONE], [1e39, 1]), "leaves the range of float32"),
    ],
)
def test_what_cannot_be_fused_is_refused_in_one_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()
