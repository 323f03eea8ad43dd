import re

import numpy as np
import pytest

from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.evaluate_index import tune_weights
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.runs.fusion import weighted_sum


def made_up(queries: int = 20, runs: int = 2):
    generator = np.random.default_rng(4)
    judgements = [Judgement(f"q{q}", f"d{d}", 1) for q in range(queries) for d in generator.choice(40, 3, False)]
    relevant = {(judgement.query_id, judgement.doc_id) for judgement in judgements}
    made = []
    for noise in np.linspace(0.5, 3, runs):
        ids = [[f"d{d}" for d in generator.choice(40, 25, False)] for _ in range(queries)]
        scores = [[((f"q{q}", d) in relevant) + noise * generator.normal() for d in own] for q, own in enumerate(ids)]
        made.append(Run.from_lists([f"q{q}" for q in range(queries)], ids, scores))
    return made, judgements


def test_every_point_is_what_evaluating_its_fusion_gives_and_the_best_wins():
    runs, judgements = made_up()
    tuned = tune_weights(runs, judgements, "ndcg@10", steps=4)
    assert [point.weights for point in tuned.points] == [(0, 1), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (1, 0)]
    for point in tuned.points:
        assert point.score == evaluate_run(weighted_sum(runs, point.weights), judgements, ["ndcg@10"]).scores["ndcg@10"]
    assert tuned.score == max(point.score for point in tuned.points)
    assert tuned.weights in [point.weights for point in tuned.points if point.score == tuned.score]
    assert tuned.metric == "ndcg@10"


def weights_in(text: str) -> tuple[float, ...]:
    """The numbers of a setting as ranx writes it, whether NumPy shows them with their type or without."""
    return tuple(round(float(number), 1) for number in re.findall(r"(?<![\w.])\d+\.\d+", text))


@pytest.mark.slow
def test_scores_are_those_of_ranx_optimize_fusion():
    from ranx import Qrels, optimize_fusion
    from ranx import Run as RanxRun

    runs, judgements = made_up()
    qrels: dict[str, dict[str, int]] = {}
    for query_id, doc_id, grade in judgements:
        qrels.setdefault(query_id, {})[doc_id] = grade
    theirs = [
        RanxRun({query: dict(zip(ids.tolist(), scores.tolist(), strict=True)) for query, ids, scores in run})
        for run in runs
    ]
    best, report = optimize_fusion(
        Qrels(qrels), theirs, metric="ndcg@10", return_optimization_report=True, show_progress=False
    )
    tuned = tune_weights(runs, judgements, "ndcg@10")
    found = {point.weights: point.score for point in tuned.points}
    expected = {weights_in(text): score for text, score in zip(report.configs, report.results, strict=True)}
    assert len(expected) >= 9  # ranx drops points whose weights do not add up to exactly 1.0 as floats.
    # At equal weights the best documents of both runs tie, and ranx breaks ties in no fixed order.
    del expected[0.5, 0.5]
    for weights, score in expected.items():
        assert found[weights] == pytest.approx(score, abs=1e-9)
    chosen = tuple(round(float(weight), 1) for weight in best["weights"])
    assert found[chosen] == pytest.approx(max(found[weights] for weights in expected), abs=1e-9)
    assert tuned.score == max(found.values())


def test_three_runs_are_tried_on_the_whole_simplex_and_ties_go_to_equal_shares():
    runs, judgements = made_up(runs=3)
    tuned = tune_weights(runs, judgements, "ndcg@10", steps=3)
    assert len(tuned.points) == 10
    assert all(sum(point.weights) == pytest.approx(1) for point in tuned.points)
    same = tune_weights([runs[0]] * 3, judgements, "ndcg@10", steps=3)
    assert same.weights == pytest.approx((1 / 3,) * 3)


def test_wrong_settings_are_refused():
    runs, judgements = made_up()
    with pytest.raises(UserError, match="at least 1, not 0"):
        tune_weights(runs, judgements, "ndcg@10", steps=0)
    with pytest.raises(UserError, match="two runs or more: got 1"):
        tune_weights(runs[:1], judgements, "ndcg@10")
    with pytest.raises(UserError, match="Metric 'nonsense' is not known"):
        tune_weights(runs, judgements, "nonsense")
