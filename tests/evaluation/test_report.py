import dataclasses
import json

import pytest

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.records import Bar
from ibkd_retrieval.evaluation.compare.report import read_comparison
from ibkd_retrieval.files import write_json


def test_what_is_written_is_read_again(compared, tmp_path):
    _, report = compared
    bar = Bar("ndcg@10", 0.97, "student", None, False, "It scores 0.", "teacher", "old/report.json")
    report = dataclasses.replace(report, bars=(bar,))
    write_json(tmp_path / "report.json", report.to_json())
    assert read_comparison(tmp_path / "report.json") == report


def test_fields_of_later_versions_are_passed_over(compared, tmp_path):
    _, report = compared
    write_json(tmp_path / "report.json", report.to_json() | {"weather": "fine"})
    assert read_comparison(tmp_path / "report.json") == report


def without(record, *path):
    place = record
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]


def changed(record, value, *path):
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda r: without(r, "metrics"), "metrics is missing"),
        (lambda r: without(r, "data_sets", 0, "systems", "student", "latency_ms", "total", "p99"), "p99 is missing"),
        (
            lambda r: changed(r, [1], "data_sets", 0, "systems", "student", "scores", "mrr", "interval"),
            "1 entries, not 2",
        ),
        (lambda r: changed(r, "fast", "systems", 0, "encoder", "dims"), "systems.0..encoder.dims is not of type int"),
        (lambda r: changed(r, "student", "baseline"), "the first system is not the baseline"),
        (lambda r: changed(r, [], "data_sets"), "no systems, no data sets or no metrics"),
        (lambda r: without(r, "averages", "student"), "averages"),
        (lambda r: without(r, "data_sets", 0, "systems", "student"), "does not have the systems"),
        (lambda r: without(r, "data_sets", 0, "per_query", "values", "student", "mrr"), "lacks the values of a metric"),
        (lambda r: without(r, "data_sets", 0, "systems", "student", "scores", "mrr"), "lacks the scores of a metric"),
        (lambda r: r["data_sets"][0]["per_query"]["ids"].pop(), "one value for each query"),
    ],
)
def test_a_damaged_report_is_named_with_what_is_wrong(compared, tmp_path, damage, sentence):
    record = json.loads(json.dumps(compared[1].to_json()))
    damage(record)
    path = tmp_path / "report.json"
    write_json(path, record)
    with pytest.raises(UserError, match=sentence) as raised:
        read_comparison(path)
    assert str(raised.value).startswith(f"{path} is a damaged comparison")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"format_version": 1, "systems": []}', "comparison format 1, which lacks"),
        ('{"format_version": 3, "systems": []}', "comparison format 3, this version of ibkd-retrieval reads 2"),
        ('{"format_version": true, "systems": []}', "holds no comparison"),
        ('{"format": "ibkd-index"}', "holds no comparison"),
        ("[]", "holds no comparison"),
        ('{"format_version": 2,', "is no JSON"),
        ("\udcff", "is no JSON"),
    ],
)
def test_what_is_no_report_of_this_format_is_said_in_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "report.json"
    path.write_text(content, "utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=sentence):
        read_comparison(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_comparison(tmp_path / "report.json")
