"""The JSON of a comparison, read back and checked."""

from __future__ import annotations

import json
from pathlib import Path

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.report import FORMAT_VERSION, ComparisonReport
from ibkd_retrieval.indexing.json_records import decode


def read_comparison(path: Path | str) -> ComparisonReport:
    """Read the JSON of a comparison.

    Raises:
        UserError: the file is missing, no comparison, damaged, or of an older or newer format.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name the report.json of `ibkd compare`.") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): name the report.json of `ibkd compare`.") from error
    version = value.get("format_version") if isinstance(value, dict) else None
    if type(version) is not int or "systems" not in value:
        raise UserError(f"{path} holds no comparison: name the report.json of `ibkd compare --output FOLDER`.")
    if version < FORMAT_VERSION:
        raise UserError(
            f"{path} has comparison format {version}, which lacks what is read here: make it again with `ibkd compare`."
        )
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has comparison format {version}, this version of ibkd-retrieval reads {FORMAT_VERSION}: upgrade "
            "with `pip install -U ibkd-retrieval`."
        )
    try:
        report = decode(ComparisonReport, value)
        _check(report)
    except ValueError as error:
        raise UserError(f"{path} is a damaged comparison ({error}): make it again with `ibkd compare`.") from error
    return report


def _check(report: ComparisonReport) -> None:
    names = [system.name for system in report.systems]
    if not names or not report.data_sets or not report.metrics:
        raise ValueError("it has no systems, no data sets or no metrics")
    if report.baseline != names[0] or len(set(names)) < len(names):
        raise ValueError("the first system is not the baseline, or two have one name")
    if set(report.averages) != set(names) or any(
        set(found) != set(report.metrics) for found in report.averages.values()
    ):
        raise ValueError("averages are not of the systems and metrics")
    for each in report.data_sets:
        values = each.per_query.values
        if set(each.systems) != set(names) or set(values) != set(names):
            raise ValueError(f"data set {each.name} does not have the systems {', '.join(names)}")
        if any(set(values[name]) != set(report.metrics) for name in names):
            raise ValueError(f"data set {each.name} lacks the values of a metric")
        if any(set(result.scores) != set(report.metrics) for result in each.systems.values()):
            raise ValueError(f"data set {each.name} lacks the scores of a metric")
        if any(len(column) != len(each.per_query.ids) for found in values.values() for column in found.values()):
            raise ValueError(f"data set {each.name} does not have one value for each query")
