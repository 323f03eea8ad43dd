"""The scores of a suite: each data set and the average as BEIR reports it, with CSV and LaTeX output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.formatting import csv_table, html_table, latex_escaped, latex_table, text_table
from ibkd_retrieval.files import write_json
from ibkd_retrieval.json_io import parse

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "ibkd-suite"
FORMAT_VERSION = 1
RESULTS = "suite.json"
_COLUMNS = ("system", "data_set", "group", "metric", "score", "queries", "missing_queries", "judged@10")


class MemberScores(NamedTuple):
    """One data set.

    Attributes:
        name: of the data set.
        group: the set it is a part of, its own name where it stands for itself.
        scores: by metric name as given.
        queries: judged queries.
        missing: judged queries without results, counted as 0.
        judged_share: share of the first ten results that is judged.
        relevance_level: lowest grade that counted as relevant.
        manifest_sha256: of the manifest of the index that was searched.
        asked: the digest of its queries and judgements, or the name of a published data set, which does not change.
    """

    name: str
    group: str
    scores: Mapping[str, float]
    queries: int
    missing: int
    judged_share: float
    relevance_level: int
    manifest_sha256: str
    asked: str


@dataclass(frozen=True, repr=False)
class SuiteResult:
    """One system on a suite.

    Attributes:
        suite: name of the suite as given.
        system: name of the model and its ranking method.
        settings: other settings that affect the scores.
        metrics: metric names as given.
        groups: group of every member by member name, in the suite's order.
        members: the scored members, in the suite's order.
        failures: error messages of the other members, by name.
    """

    suite: str
    system: str
    settings: Mapping[str, Any]
    metrics: tuple[str, ...]
    groups: Mapping[str, str]
    members: tuple[MemberScores, ...]
    failures: Mapping[str, str]

    @property
    def sets(self) -> int:
        """Number of data sets an average is over; the parts of one count as one."""
        return len(set(self.groups.values()))

    def complete_groups(self) -> dict[str, list[MemberScores]]:
        """The members of each group none of whose parts is missing."""
        scored = {member.name: member for member in self.members}
        groups: dict[str, list[str]] = {}
        for name, group in self.groups.items():
            groups.setdefault(group, []).append(name)
        return {
            group: [scored[name] for name in names]
            for group, names in groups.items()
            if all(name in scored for name in names)
        }

    def averages(self) -> dict[str, float]:
        """The average of each metric over complete groups. It is empty if no group is complete.

        As in BEIR, the parts of a group are averaged first, such as the twelve parts of CQADupStack.
        """
        groups = self.complete_groups().values()
        return {
            metric: fmean(fmean(part.scores[metric] for part in parts) for parts in groups)
            for metric in self.metrics
            if groups
        }

    def to_pandas(self) -> pd.DataFrame:
        """A row per data set and metric, and one per average."""
        import pandas as pd

        return pd.DataFrame(list(_rows(self)), columns=list(_COLUMNS))

    def __repr__(self) -> str:
        return f"{text_table(('data set', *self.metrics), _shown(self))}\n{self.system} on {self.suite}"

    def _repr_html_(self) -> str:
        return html_table(("data set", *self.metrics), _shown(self), f"{self.system} on {self.suite}")

    def to_json(self) -> dict[str, Any]:
        """The result as JSON types.

        Schema: {"suite": NAME, "system": NAME, "settings": {..}, "metrics": [METRIC], "members": {NAME:
        `MemberScores` without its name}, "failures": {NAME: sentence}, "average": {METRIC: float}, "averaged_sets":
        int, "sets": int}; the average is over `averaged_sets` of the `sets`.
        """
        return {
            "suite": self.suite,
            "system": self.system,
            "settings": dict(self.settings),
            "metrics": list(self.metrics),
            "members": {member.name: _without_name(member) for member in self.members},
            "failures": dict(self.failures),
            "average": self.averages(),
            "averaged_sets": len(self.complete_groups()),
            "sets": self.sets,
        }


def _without_name(member: MemberScores) -> dict[str, Any]:
    record = member._asdict() | {"scores": dict(member.scores)}
    del record["name"]
    return record


def _compared(record: Mapping[str, Any]) -> tuple[str, str | None]:
    """Index and queries of a member, as `suite.json` has them; early files do not say what was asked."""
    return record["manifest_sha256"], record.get("asked")


class SuiteFile:
    """`suite.json`: the results of every system on a suite, kept after each data set so that none is scored twice."""

    def __init__(self, path: Path) -> None:
        """Read the file where there is one.

        Raises:
            UserError: it is not one of ours, or of a newer format.
        """
        self.path = path
        self._systems: dict[str, Any] = {}
        if not path.exists():
            return
        try:
            value = parse(path.read_bytes())
            if value["format"] != FORMAT or value["format_version"] > FORMAT_VERSION:
                raise ValueError(f'it does not say "format": "{FORMAT}", version {FORMAT_VERSION}')
            self._systems = dict(value["systems"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} holds no results of a suite that can be read ({error}): move it away, or name another "
                "`output`."
            ) from error

    def known(
        self,
        system: str,
        settings: Mapping[str, Any],
        member: str,
        manifest_sha256: str,
        asked: str,
        metrics: Sequence[str],
    ) -> MemberScores | None:
        """The scores of a member by these metrics; None where they are of another index, other queries or settings."""
        found = self._systems.get(system, {})
        record = found.get("members", {}).get(member)
        if record is None or found.get("settings") != dict(settings):
            return None
        if _compared(record) != (manifest_sha256, asked) or not set(metrics) <= set(record["scores"]):
            return None
        # Early files say more of a member than is read.
        kept = {field: record[field] for field in MemberScores._fields if field in record}
        return MemberScores(**kept | {"name": member, "scores": {name: record["scores"][name] for name in metrics}})

    def write(self, result: SuiteResult) -> None:
        """Put a system's result in place of its former one; scores by other metrics stay known for equal data."""
        before = self._systems.get(result.system, {})
        shown = result.to_json()
        if before.get("settings") == shown["settings"]:
            kept = result.groups.keys() - result.failures.keys()
            for name in [name for name in before.get("members", {}) if name in kept]:
                record = before["members"][name]
                member = shown["members"].setdefault(name, record)
                if _compared(member) == _compared(record):
                    member["scores"] = record["scores"] | member["scores"]
        self._systems[result.system] = shown
        write_json(self.path, {"format": FORMAT, "format_version": FORMAT_VERSION, "systems": self._systems})


def suite_as_csv(result: SuiteResult) -> str:
    """One line per data set and metric, and one per average."""
    return csv_table(_COLUMNS, _rows(result))


def _rows(result: SuiteResult) -> Iterator[tuple[Any, ...]]:
    for member in result.members:
        for metric, score in member.scores.items():
            described = (result.system, member.name, member.group, metric, score)
            yield (*described, member.queries, member.missing, member.judged_share)
    for metric, score in result.averages().items():
        yield (result.system, average_name(result), "", metric, score, None, None, None)


def _shown(result: SuiteResult) -> list[list[str]]:
    """A row of text per data set that was scored, and the average where there is one."""
    rows = [[member.name, *(f"{member.scores[metric]:.4f}" for metric in result.metrics)] for member in result.members]
    averages = result.averages()
    return rows + (
        [[average_name(result), *(f"{averages[metric]:.4f}" for metric in result.metrics)]] if averages else []
    )


def suite_as_latex(result: SuiteResult) -> str:
    """A `booktabs` table: a row per data set, the average below."""
    rows = [[latex_escaped(name), *scores] for name, *scores in _shown(result)]
    count = len(result.members)
    return latex_table(result.metrics, [rows[:count], rows[count:]], f"{result.system} on {result.suite}")


def average_name(result: SuiteResult) -> str:
    """What the average is called, so that one over some of the sets is not taken for the suite's."""
    complete = len(result.complete_groups())
    return "average" if complete == result.sets else f"average of {complete} of {result.sets}"
