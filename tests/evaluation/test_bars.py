import dataclasses

import numpy as np
import pytest

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.bars import JudgedData, QualityBar, hold, parse_bar, read_recorded
from ibkd_retrieval.files import write_json


@pytest.fixture(scope="module")
def report(compared):
    return compared[1]


@pytest.fixture(scope="module")
def recorded_file(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "report.json"
    write_json(path, report.to_json())
    return path


@pytest.fixture(scope="module")
def judged(report):
    (data,) = report.data_sets
    return [JudgedData(data.name, data.fingerprint, frozenset(data.per_query.ids))]


def test_a_bar_is_a_metric_that_is_measured_and_a_share():
    assert parse_bar("ndcg@10=0.97", ["mrr@10", "ndcg@10"]) == ("ndcg@10", 0.97)
    assert parse_bar("nDCG_cut_10=1.02", ["ndcg@10"]) == QualityBar("ndcg@10", 1.02)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ndcg@10", "is no bar"),
        ("ndcg@10=97%", "is no bar"),
        ("ndcg@10=97", "is no bar"),
        ("ndcg@10=-1", "is no bar"),
        ("ndcg@10=nan", "is no bar"),
        ("speed=0.5", "Metric 'speed' is not known"),
        ("map@100=0.9", "map@100 is not measured .ndcg@10 are.: add `metrics=map@100`"),
    ],
)
def test_what_is_no_bar_is_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_bar(text, ["ndcg@10"])


def test_each_further_system_is_held_against_the_first(report):
    kept = report.averages["student"]["mrr"].retention
    bars = hold(report, [QualityBar("mrr", kept), QualityBar("mrr", kept + 1e-9)])
    assert [(bar.system, bar.passed) for bar in bars if bar.system == "student"] == [
        ("student", True),
        ("student", False),
    ]
    assert {bar.system for bar in bars} == {"teacher ivf-pq", "student"}
    assert bars[1].retention == kept
    assert bars[1].why.startswith(f"student keeps {kept:.4f} (95% interval ")
    assert "of the mrr of teacher, at least the" in bars[1].why
    assert "less than the" in bars[3].why


def test_a_recorded_system_is_the_same_bar_as_one_measured_beside(report, recorded_file, judged):
    asked = [QualityBar("ndcg@10", 0.5)]
    recorded = read_recorded(recorded_file, None, judged, asked, 1000)
    beside, before = hold(report, asked), hold(report, asked, recorded)
    assert [bar.system for bar in before] == ["teacher", *(bar.system for bar in beside)]
    assert [bar.retention for bar in before] == pytest.approx([1, *(bar.retention for bar in beside)])
    assert before[0].report == str(recorded_file)
    assert f"of teacher in {recorded_file}" in before[0].why


def test_any_recorded_system_may_be_held_against_by_a_later_one_of_its_name_too(report, recorded_file, judged):
    asked = [QualityBar("mrr", 0.5)]
    bars = hold(report, asked, read_recorded(recorded_file, "student", judged, asked, 1000))
    assert [bar.system for bar in bars] == ["teacher", "teacher ivf-pq", "student"]
    assert bars[2].retention == pytest.approx(1)
    values = report.data_sets[0].per_query.values
    expected = np.mean(values["teacher"]["mrr"]) / np.mean(values["student"]["mrr"])
    assert bars[0].retention == pytest.approx(expected)


def test_queries_are_paired_by_id_and_not_by_place(report, tmp_path, judged):
    (data,) = report.data_sets
    turned = dataclasses.replace(
        data,
        per_query=dataclasses.replace(
            data.per_query,
            ids=data.per_query.ids[::-1],
            values={
                name: {metric: column[::-1] for metric, column in found.items()}
                for name, found in data.per_query.values.items()
            },
        ),
    )
    write_json(tmp_path / "report.json", dataclasses.replace(report, data_sets=(turned,)).to_json())
    asked = [QualityBar("mrr", 0.5)]
    recorded = read_recorded(tmp_path / "report.json", None, judged, asked, 1000)
    found = {bar.system: bar for bar in hold(report, asked, recorded)}
    low, high = report.averages["student"]["mrr"].retention_interval
    assert f"{low:.4f} to {high:.4f}" in found["student"].why


def test_a_baseline_of_nothing_cannot_be_kept_a_share_of(report):
    nothing = dataclasses.replace(
        report,
        averages={
            name: {metric: dataclasses.replace(each, retention=None) for metric, each in found.items()}
            for name, found in report.averages.items()
        },
    )
    bar = hold(nothing, [QualityBar("ndcg@10", 0.5)])[0]
    assert (bar.passed, bar.retention) == (False, None)
    assert "scores 0" in bar.why


def test_a_report_of_other_things_is_refused(recorded_file, judged):
    (data,) = judged
    for data_sets, system, metric, sentence in (
        ([data], "nobody", "mrr", "has no system 'nobody': it has teacher, teacher ivf-pq, student"),
        ([data], None, "map@10", "has no map@10: it has ndcg@10, recall@20, mrr"),
        ([data._replace(fingerprint="x")], None, "mrr", "no scores on the documents of pages, but on those of pages"),
        ([data._replace(query_ids=frozenset("q"))], None, "mrr", "other judged queries of pages"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_recorded(recorded_file, system, data_sets, [QualityBar(metric, 0.9)], 1000)


def test_a_metric_over_other_results_or_from_another_grade_on_is_refused(recorded_file, report, judged, tmp_path):
    (data,) = judged
    stricter = [data._replace(relevance_level=2)]
    with pytest.raises(UserError, match=r"has mrr over the first 1,000 results and not over 100: give `k=1000`"):
        read_recorded(recorded_file, None, judged, [QualityBar("mrr", 0.9)], 100)
    with pytest.raises(UserError, match=r"has recall@20 of pages with grades from 1 on as relevant.* from 2 on"):
        read_recorded(recorded_file, None, stricter, [QualityBar("recall@20", 0.9)], 1000)
    read_recorded(recorded_file, None, judged, [QualityBar("recall@20", 0.9)], 100)
    read_recorded(recorded_file, None, stricter, [QualityBar("ndcg@10", 0.9)], 1000)
    # Reports of before do not say.
    old = report.to_json()
    del old["k"], old["data_sets"][0]["relevance_level"]
    write_json(tmp_path / "report.json", old)
    read_recorded(tmp_path / "report.json", None, stricter, [QualityBar("mrr", 0.9)], 100)
