"""Metric names in all accepted spellings, and their canonical form."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from ibkd_retrieval.errors import UserError

_ALIASES = {
    "mrr": "mrr rr recip_rank reciprocal_rank recip_rank_cut mrr_cut",
    "ndcg": "ndcg ndcg_cut",
    "ndcg_burges": "ndcg_burges",
    "dcg": "dcg dcg_cut",
    "dcg_burges": "dcg_burges",
    "recall": "recall r set_recall",
    "precision": "precision p set_p",
    "f1": "f1 set_f",
    "map": "map ap map_cut average_precision",
    "hits": "hits num_rel_ret",
    "hit_rate": "hit_rate hitrate hit success",
    "r-precision": "r-precision r_precision rprecision rprec r-prec",
    "bpref": "bpref",
    "rbp": "rbp rank_biased_precision",
}
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_EXAMPLES = {
    "mrr": "mrr@10",
    "ndcg": "ndcg@10",
    "ndcg_burges": "ndcg_burges@10",
    "dcg": "dcg@10",
    "dcg_burges": "dcg_burges@10",
    "recall": "recall@1000",
    "precision": "precision@10",
    "f1": "f1@10",
    "map": "map@100",
    "hits": "hits@10",
    "hit_rate": "hit_rate@10",
    "rbp": "rbp.95",
}
_GRADED = frozenset({"dcg", "dcg_burges", "ndcg", "ndcg_burges"})
_WITHOUT_CUTOFF = frozenset({"r-precision", "bpref"})
_LARGEST = 1 << 31
"""Of cutoffs and grades, far beyond any collection and within what compiled code counts with."""
_PATTERN = re.compile(
    r"(?P<base>[a-z][a-z0-9_-]*?)"
    r"(?:\(rel=(?P<rel>\d+)\))?"
    r"(?:(?:@|_at_|\.|_)(?P<number>\d+(?:\.\d+)?))?"
    r"(?:-l(?P<level>\d+))?"
)


class Metric(NamedTuple):
    """One measure of a run.

    Attributes:
        name: as the user gave it, the key of its results.
        canonical: ranx's name of it, without cutoff: "mrr", "ndcg", "recall", "map", ...
        cutoff: results per query that count, None for all.
        level: lowest grade that counts as relevant, None where the name does not say.
        persistence: of rank-biased precision, between 0 and 1; None for other metrics.
    """

    name: str
    canonical: str
    cutoff: int | None = None
    level: int | None = None
    persistence: float | None = None

    @property
    def is_graded(self) -> bool:
        """Whether it gains by the grades themselves; others know relevant and not relevant only."""
        return self.canonical in _GRADED


def known_metrics() -> tuple[str, ...]:
    """One usable name for each metric, in the spelling the documentation uses."""
    return tuple(_EXAMPLES.get(name, name) for name in _ALIASES)


def parse_metric(name: str) -> Metric:
    """Understand a metric's name in the spellings of ranx, trec_eval, ir_measures and BEIR, in any case.

    `mrr@10`, `RR@10`, `mrr_at_10`; `ndcg@10`, `nDCG@10`, `ndcg_cut_10`, `ndcg_cut.10`; `recall@1000`, `R@1000`,
    `recall_1000`; `map@100`, `AP@100`; `P.10`; `success_5`; without a number, all results count (`recip_rank`,
    `map`). The suffix `-l2`, or `AP(rel=2)@100`, sets the lowest grade that counts as relevant. Rank-biased
    precision takes its persistence, `rbp.95` or `rbp@0.95`.

    Raises:
        UserError: the name is unknown, or its number or level makes no sense for the metric.
    """
    found = _PATTERN.fullmatch(name.strip().lower())
    canonical = _CANONICAL.get(found["base"]) if found else None
    if found is None or canonical is None:
        raise UserError(f"Metric {name!r} is not known{_suggestion(name)}: use one of {', '.join(known_metrics())}.")
    if found["rel"] and found["level"]:
        raise UserError(f"Metric {name!r} gives the relevance level twice: keep -l{found['level']} or (rel=...).")
    level = int(found["level"] or found["rel"] or 1)
    if not 1 <= level <= _LARGEST:
        raise UserError(
            f"Metric {name!r}: the relevance level must be from 1 to {_LARGEST:,}, since grade 0 is not relevant."
        )
    given_level = level if found["level"] or found["rel"] else None
    number = found["number"]
    if canonical == "rbp":
        return Metric(name, canonical, level=given_level, persistence=_persistence(name, number))
    if number is not None and canonical in _WITHOUT_CUTOFF:
        raise UserError(f"Metric {name!r}: {canonical} counts all results: leave out the number.")
    if number is not None and ("." in number or not 1 <= int(number) <= _LARGEST):
        raise UserError(
            f"Metric {name!r}: the cutoff must be a whole number from 1 to {_LARGEST:,}, as in {known_metrics()[0]}."
        )
    return Metric(name, canonical, cutoff=int(number) if number else None, level=given_level)


def _persistence(name: str, number: str | None) -> float:
    # ranx writes rbp.95, which the pattern reads as the number 95; 0.95 keeps its point.
    value = float(number if number and "." in number else f"0.{number or 0}")
    if not 0 < value < 1:
        raise UserError(f"Metric {name!r} needs a persistence between 0 and 1: write rbp.95 for 0.95.")
    return value


def _suggestion(name: str) -> str:
    base = re.split(r"[@.(]|_at_|_\d|-l\d", name.strip().lower())[0]
    close = difflib.get_close_matches(base, _CANONICAL, n=1, cutoff=0.6)
    if not close:
        return ""
    canonical = _CANONICAL[close[0]]
    return f" (did you mean {_EXAMPLES.get(canonical, canonical)}?)"
