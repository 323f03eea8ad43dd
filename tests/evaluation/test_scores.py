import csv
import io
import json
import re

import numpy as np
import pytest

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.evaluate import as_csv, as_latex, write_per_query
from ibkd_retrieval.evaluation.metrics import Evaluation
from ibkd_retrieval.evaluation.scores import ScoredRun, run_names, score_runs
from ibkd_retrieval.evaluation.significance import bootstrap_mean, holm, paired_t_test, randomisation_test, win_tie_loss

RNG = np.random.default_rng(0)
QUERIES = tuple(f"q{number}" for number in range(40))
BASE = RNG.random((40, 2)) * 0.6
BETTER = np.clip(BASE + RNG.normal(0.2, 0.05, (40, 2)), 0, 1)
ALIKE = np.clip(BASE + RNG.normal(0, 0.05, (40, 2)), 0, 1)
METRICS = ("nDCG@10", "mrr@10")


def scored(name, values, queries=QUERIES, metrics=METRICS, answered=None, level=1):
    per_query = dict(zip(metrics, np.asarray(values).T, strict=True))
    means = {metric: float(column.mean()) for metric, column in per_query.items()}
    answered = np.ones(len(queries), dtype=bool) if answered is None else answered
    found = Evaluation(means, per_query, queries, 1, 2, 3, level, 0.75, answered)
    return ScoredRun(name, f"runs/{name}.trec", found)


BOARD = score_runs([scored("better", BETTER), scored("alike", ALIKE)], [scored("base", BASE)], resamples=500, seed=3)


def test_intervals_and_tests_are_those_of_one_run_and_one_pair_at_a_time():
    values = {"better": BETTER, "alike": ALIKE, "base": BASE}
    for (name, metric), interval in BOARD.intervals.items():
        alone = bootstrap_mean(values[name][:, METRICS.index(metric)], samples=500, seed=3)
        assert interval == pytest.approx((alone.low, alone.high))
    assert [(each.run, each.metric) for each in BOARD.contrasts] == [
        (run, metric) for run in ("better", "alike") for metric in METRICS
    ]
    for each in BOARD.contrasts:
        column = METRICS.index(each.metric)
        pair = values[each.run][:, column], BASE[:, column]
        interval = bootstrap_mean(pair[0] - pair[1], samples=500, seed=3)
        assert each.interval == pytest.approx((interval.low, interval.high))
        assert each.difference == pytest.approx(interval.estimate)
        assert each.t_test_p == pytest.approx(paired_t_test(*pair).p_value)
        assert each.randomisation_p == randomisation_test(*pair, seed=3).p_value
        assert each.queries == win_tie_loss(*pair)


def test_the_correction_is_over_every_run_and_metric():
    corrected = holm([each.randomisation_p for each in BOARD.contrasts])
    assert [each.randomisation_p_holm for each in BOARD.contrasts] == corrected
    assert corrected[0] == pytest.approx(4 * BOARD.contrasts[0].randomisation_p)


def test_json_has_the_metrics_as_given_and_every_run():
    shown = json.loads(json.dumps(BOARD.to_json()))
    assert shown["nDCG@10"] == pytest.approx(BETTER[:, 0].mean())
    assert [run["scored"] for run in shown["runs"]] == ["runs/better.trec", "runs/alike.trec"]
    assert shown["baselines"][0]["mrr@10"] == pytest.approx(BASE[:, 1].mean())
    assert (shown["missing_queries"], shown["unjudged_queries"], shown["judged@10"]) == (1, 2, 0.75)
    assert (shown["confidence"], shown["resamples"], shown["seed"]) == (0.95, 500, 3)
    assert {"run", "baseline", "difference", "t_test_p", "randomisation_p_holm", "wins"} <= set(shown["contrasts"][0])


def test_csv_has_a_line_for_every_score_and_the_test_beside_it():
    rows = list(csv.DictReader(io.StringIO(as_csv(BOARD))))
    assert len(rows) == 6
    better = next(row for row in rows if (row["run"], row["metric"]) == ("better", "mrr@10"))
    assert float(better["score"]) == BETTER[:, 1].mean()
    assert float(better["difference"]) == pytest.approx((BETTER - BASE)[:, 1].mean())
    assert next(row for row in rows if row["run"] == "base")["difference"] == ""


def test_latex_marks_the_best_and_what_is_significant_and_escapes_names():
    board = score_runs([scored("a_b", BETTER), scored("alike", ALIKE)], [scored("base", BASE)])
    lines = as_latex(board).splitlines()
    assert [line for line in lines if line.startswith("\\") and "rule" in line] == [
        *("\\toprule", "\\midrule", "\\midrule", "\\bottomrule"),
    ]
    (best,) = [line for line in lines if line.startswith(r"a\_b")]
    assert re.fullmatch(r"a\\_b & \\textbf\{0\.\d{4}\}\$\^\{a\}\$ & \\textbf\{0\.\d{4}\}\$\^\{a\}\$ \\\\", best)
    assert any(re.fullmatch(r"alike & 0\.\d{4} & 0\.\d{4} \\\\", line) for line in lines)
    worse = as_latex(score_runs([scored("base", BASE)], [scored("better", BETTER)]))
    assert re.search(r"^base & 0\.\d{4}\$_\{a\}\$", worse, re.MULTILINE)


@pytest.mark.parametrize("ending", ["tsv", "jsonl"])
def test_every_querys_value_is_written(tmp_path, ending):
    path = tmp_path / f"values.{ending}"
    write_per_query(score_runs([scored("better", BETTER)], resamples=10), path)
    lines = path.read_text().splitlines()
    if ending == "tsv":
        assert lines[0] == "query_id\tmetric\tvalue"
        rows = [line.split("\t") for line in lines[1:]]
    else:
        rows = [list(json.loads(line).values()) for line in lines]
    assert [row[:2] for row in rows] == [[query, metric] for metric in METRICS for query in QUERIES]
    assert [float(row[2]) for row in rows] == BETTER.T.ravel().tolist()


def test_values_of_several_runs_name_their_run_and_another_ending_is_refused(tmp_path):
    write_per_query(BOARD, tmp_path / "values.tsv")
    assert {line.split("\t")[3] for line in (tmp_path / "values.tsv").read_text().splitlines()[1:]} == {
        *("better", "alike", "base"),
    }
    with pytest.raises(UserError, match=r"values\.csv: .* \.tsv or \.jsonl"):
        write_per_query(BOARD, tmp_path / "values.csv")


def test_a_baseline_over_other_queries_is_refused():
    first, second = np.arange(40) < 15, np.arange(40) >= 10
    runs = [scored("run", BETTER, answered=first)]
    with pytest.raises(UserError, match=r"base\.trec answers 30 judged queries and runs/run\.trec 15, .* share 5"):
        score_runs(runs, [scored("base", BASE, answered=second)])
    score_runs(runs, [scored("base", BASE, answered=first)], resamples=10)


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([], "There is no run"),
        ([scored("x", BASE), scored("x", BASE)], "Two runs are called x"),
        ([scored("x", BASE), scored("y", BASE, queries=tuple("ab" * 20))], "different queries"),
        ([scored("x", BASE), scored("y", BASE, level=2)], "relevance levels"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(runs, sentence):
    with pytest.raises(UserError, match=sentence):
        score_runs(runs)


def test_names_are_short_where_that_tells_runs_apart():
    assert run_names(["a/x.trec", "b/y.run.gz"]) == ["x", "y"]
    assert run_names(["a/x.trec", "b/x.trec"]) == ["a/x.trec", "b/x.trec"]
    assert run_names(["x.trec", "x.trec"]) == ["x.trec (1)", "x.trec (2)"]
