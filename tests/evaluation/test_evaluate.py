"""The public `evaluate`: what it takes, and what it gives back."""

import numpy as np
import pytest

import ibkd_retrieval as ibkd
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import overlap, rank_biased_overlap
from ibkd_retrieval.evaluation.evaluate import as_csv, as_latex
from ibkd_retrieval.evaluation.formatting import csv_table, html_table, latex_escaped, one_line

RANKED = {f"q{n}": {f"d{(n + place) % 9}": 1 - place / 10 for place in range(6)} for n in range(12)}
OTHER = {f"q{n}": {f"d{(n * 2 + place) % 9}": 1 - place / 10 for place in range(6)} for n in range(12)}
GRADES = {f"q{n}": {f"d{n % 9}": 2, f"d{(n + 1) % 9}": 1, "x": 0} for n in range(12)}


def as_run(ranked, tag="ours"):
    return ibkd.Run.from_lists(
        list(ranked), [list(each) for each in ranked.values()], [list(each.values()) for each in ranked.values()], tag
    )


def test_a_run_may_be_a_dict_a_run_or_a_file_and_judgements_a_dict_a_file_or_a_query_set(tmp_path):
    ibkd.write_run(as_run(RANKED), tmp_path / "ours.trec")
    lines = [f"{query} 0 {doc} {grade}" for query, graded in GRADES.items() for doc, grade in graded.items()]
    (tmp_path / "qrels").write_text("\n".join(lines) + "\n")
    asked = ibkd.open_queries({query: query for query in GRADES}, qrels=GRADES)
    expected = ibkd.evaluate(RANKED, GRADES, ["ndcg@5", "mrr@10"])
    for run in (as_run(RANKED), tmp_path / "ours.trec", str(tmp_path / "ours.trec")):
        for judgements in (GRADES, str(tmp_path / "qrels"), tmp_path / "qrels", asked):
            assert dict(ibkd.evaluate(run, judgements, ["ndcg@5", "mrr@10"])) == dict(expected)


def test_scores_are_a_mapping_with_intervals_values_and_tests():
    scores = ibkd.evaluate({"ours": RANKED, "theirs": OTHER}, GRADES, "mrr@10", baseline=as_run(OTHER, "old"))
    assert list(scores) == ["mrr@10"]
    assert scores["mrr@10"] == np.mean(list(scores.per_query("mrr@10").values())) == 1
    assert scores.of("theirs")["mrr@10"] == scores.of("old")["mrr@10"] < 1
    low, high = scores.interval("mrr@10", "theirs")
    assert low < scores.of("theirs")["mrr@10"] < high
    assert set(scores.p_values) == {("ours", "old", "mrr@10"), ("theirs", "old", "mrr@10")}
    assert scores.p_values["ours", "old", "mrr@10"] < 0.05
    assert scores.p_values["theirs", "old", "mrr@10"] == 1
    with pytest.raises(KeyError):
        _ = scores["ndcg@10"]
    with pytest.raises(UserError, match="There is no run 'x': the runs are ours, theirs, old"):
        scores.of("x")


def test_scores_show_themselves_as_text_as_html_and_as_a_data_frame():
    scores = ibkd.evaluate({"a<b": RANKED}, GRADES, ["mrr@10", "ndcg@10"], baseline=OTHER)
    shown = repr(scores).splitlines()
    assert shown[0].split() == ["run", "mrr@10", "95%", "ndcg@10", "95%"]
    assert shown[2].startswith("a<b")
    assert "1.0000*" in shown[2]
    assert shown[-1].startswith("12 judged queries of the judgements")
    page = scores._repr_html_()
    assert "a&lt;b" in page
    assert "a<b" not in page
    frame = scores.to_pandas()
    assert frame.loc[(frame.run == "a<b") & (frame.metric == "mrr@10"), "score"].item() == scores["mrr@10"]
    assert frame.loc[(frame.run == "a<b") & (frame.metric == "mrr@10"), "wins"].item() > 0


def test_two_runs_of_one_tag_are_told_apart_and_a_run_is_no_baseline_of_itself():
    scores = ibkd.evaluate([as_run(RANKED), as_run(OTHER)], GRADES, baseline=as_run(OTHER | {"q0": {"x": 1}}))
    assert [run.name for run in scores.runs] == ["ours (1)", "ours (2)"]
    assert len(scores.contrasts) == 2
    with pytest.raises(UserError, match="is its own baseline"):
        ibkd.evaluate(as_run(RANKED), GRADES, baseline=as_run(RANKED))
    assert len(ibkd.evaluate(as_run(RANKED), GRADES, baseline=as_run(OTHER)).contrasts) == 1


def test_the_relevance_level_is_that_of_the_query_set_unless_another_is_given():
    graded = ibkd.QuerySet("graded", (), ibkd.open_qrels({"q1": {"d1": 1, "d2": 2}}), relevance_level=2)
    run = {"q1": {"d1": 1.0, "d2": 0.5}}
    assert ibkd.evaluate(run, graded, ["mrr@10"])["mrr@10"] == 0.5
    assert ibkd.evaluate(run, graded, ["mrr@10"], relevance_level=1)["mrr@10"] == 1


def test_without_judgements_runs_are_compared_with_a_baseline():
    scores = ibkd.evaluate({"theirs": OTHER}, None, baseline={"ours": RANKED})
    pairs = [(list(OTHER[query]), list(RANKED[query])) for query in RANKED]
    assert scores["overlap@10"] == pytest.approx(np.mean([overlap(*pair) for pair in pairs]))
    assert scores["rbo"] == pytest.approx(np.mean([rank_biased_overlap(*pair) for pair in pairs]))
    low, high = scores.interval("overlap@10")
    assert low <= scores["overlap@10"] <= high
    shown = scores.to_json()
    assert shown["agreement_with"] == "ours"
    assert not {"judgements", "judged@10"} & set(shown)
    assert repr(scores).endswith("12 queries, without judgements: agreement with ours")
    missing = {query: docs for query, docs in OTHER.items() if query != "q0"}
    assert ibkd.evaluate(missing, None, baseline=OTHER).per_query("rbo")["q0"] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((RANKED, None), "Judgements are needed to score a run: give `qrels`, or one `baseline`"),
        ((RANKED, {"other": {"d": 1}}), "have no query in common"),
        ((7, GRADES), "`run` is int"),
        (({"q": {"d": float("nan")}}, GRADES), "scores must be finite"),
        ((RANKED, GRADES, ["speed"]), "Metric 'speed' is not known"),
        (([], GRADES), "There is no run to score"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        ibkd.evaluate(*arguments)


HOSTILE = '</td><script>alert(1)</script>\x1b[31m\n% \\input{x} & a,"b"'


def test_hostile_names_stay_cells():
    scores = ibkd.evaluate({HOSTILE: RANKED}, GRADES)
    assert len(as_csv(scores).splitlines()) - 1 == HOSTILE.count("\n") + 1
    assert "<script>" not in scores._repr_html_()
    (row,) = [line for line in as_latex(scores).splitlines() if "script" in line]
    assert r"\textbackslash{}input\{x\} \& a" in row
    assert r"\% " in row
    assert "\x1b" not in row + repr(scores)
    assert len(repr(scores).splitlines()) == 3
    assert one_line(HOSTILE).isprintable()
    assert "\n" not in latex_escaped(HOSTILE)
    assert "<script>" not in html_table([HOSTILE], [[HOSTILE]], HOSTILE)
    assert csv_table(["a"], [[None]]) == 'a\n""\n'
