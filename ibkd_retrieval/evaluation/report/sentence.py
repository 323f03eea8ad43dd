"""What a comparison says in sentences: quality with interval, cost, agreement and losses, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ibkd_retrieval.evaluation.compare.report import ComparisonReport
from ibkd_retrieval.evaluation.formatting import (
    counted,
    exact_share,
    factor,
    metric_title,
    p_value,
    score,
    share,
    shares,
)
from ibkd_retrieval.evaluation.report.glance import Glance, glances, significant

_SAME = 1e-9
"""Scores that differ by less are the same: floating-point numbers, added in another order."""

_ALIKE = 0.05
"""Times and sizes within this share of each other are called the same."""

_WIDE = 0.1
"""A retention whose interval is wider than this and includes 1 tells nothing."""


def summary_sentence(comparison: ComparisonReport) -> str:
    """The sentence on the system that matters most; with a single system, what that scores."""
    return system_sentence(comparison, headline(comparison))


def headline(comparison: ComparisonReport) -> str:
    """The system that matters most: of those with another encoder than the first, or else of all further, the best."""
    first, *others = comparison.systems
    if not others:
        return first.name
    teacher = (first.encoder.weight_hash, first.encoder.dims)
    students = [each for each in others if (each.encoder.weight_hash, each.encoder.dims) != teacher]
    metric = comparison.metrics[0]
    return max(students or others, key=lambda each: comparison.averages[each.name][metric].mean).name


def further_sentences(comparison: ComparisonReport) -> list[str]:
    """A sentence on each other system, in the order given."""
    chosen = headline(comparison)
    others = [each.name for each in comparison.systems if each.name not in (comparison.baseline, chosen)]
    return [system_sentence(comparison, name) for name in others]


def system_sentence(comparison: ComparisonReport, name: str) -> str:
    """What one system keeps, gains and loses against the first one.

    Args:
        comparison: that it is part of.
        name: of the system.
    """
    found = {each.name: each for each in glances(comparison)}
    ours, first = found[name], found[comparison.baseline]
    metric = metric_title(comparison.metrics[0])
    if ours is first and not comparison.is_judged:
        return f"{name} is what the others are compared with{_where(comparison)}."
    if ours is first:
        return f"{name} scores {score(first.mean)} {metric}{_where(comparison)}."
    queries = counted(sum(each.queries for each in comparison.data_sets), "query", "queries")
    if not comparison.is_judged:
        return _agreement_sentence(comparison, ours, first, queries)
    if _too_few(ours, first):
        quality = _unknown_quality(ours, first, metric, queries)
        losses = []
    else:
        quality = _quality(comparison, ours, first, queries)
        losses = _losses(comparison, ours)
    parts = [f"{quality} {_cost(ours)}", *losses, *_doubts(comparison, ours), _overlap(comparison, ours, first)]
    return f"{name} {'; '.join(parts)}."


def _agreement_sentence(comparison: ComparisonReport, ours: Glance, first: Glance, queries: str) -> str:
    rbo = comparison.averages[ours.name][comparison.metrics[1]].mean
    bounds = (
        f"{comparison.confidence:.0%} interval {shares(*ours.retention_interval)}, " if ours.retention_interval else ""
    )
    found = f"{share(ours.mean)} of {first.name}'s first ten documents"
    return (
        f"{ours.name} finds {found} ({bounds}{queries}) {_cost(ours)}; rank-biased overlap is {rbo:.2f}; nobody judged "
        "the documents, so this says how alike the answers are and not which are better."
    )


def _too_few(ours: Glance, first: Glance) -> bool:
    """Whether the interval of the retention is too wide to say which of the two systems is better."""
    if ours.retention is None or abs(ours.mean - first.mean) < _SAME:
        return False
    if any(significant(contrast) for contrast in ours.contrasts.values()):
        return False
    if ours.retention_interval is None:
        return True
    low, high = ours.retention_interval
    return low <= 1 <= high and high - low > _WIDE


def _unknown_quality(ours: Glance, first: Glance, metric: str, queries: str) -> str:
    if ours.retention_interval is None:
        return f"– too few queries to tell: {score(ours.mean)} {metric} against {score(first.mean)} ({queries}),"
    low, high = ours.retention_interval
    return f"– too few queries to tell: between {shares(low, high, 'and')} of {first.name}'s {metric} ({queries}),"


def _overlap(comparison: ComparisonReport, ours: Glance, first: Glance) -> str:
    shared = fmean(each.systems[ours.name].agreement.overlap_at_10 for each in comparison.data_sets)
    return f"it finds {share(shared)} of {first.name}'s first ten documents"


def _where(comparison: ComparisonReport) -> str:
    names = [each.name for each in comparison.data_sets]
    return f" on {names[0]}" if len(names) == 1 else f" on average over {len(names)} data sets"


def _quality(comparison: ComparisonReport, ours: Glance, first: Glance, queries: str) -> str:
    difference, metric = ours.mean - first.mean, metric_title(comparison.metrics[0])
    if abs(difference) < _SAME:
        return f"scores the same {metric} as {first.name} ({score(ours.mean)}, {queries})"
    if ours.retention is None:
        return f"scores {score(ours.mean)} {metric}, where {first.name} scores 0,"
    verb = "keeps" if difference < 0 else "reaches"
    bounds = ours.retention_interval
    sure = f"{comparison.confidence:.0%} interval {shares(*bounds)}, " if bounds is not None else ""
    return f"{verb} {exact_share(ours.retention)} of {first.name}'s {metric} ({sure}{queries})"


def _cost(ours: Glance) -> str:
    memory = "" if ours.memory is None else f" and {_memory(ours.memory)}"
    return f"at {_speed(ours)}{memory}"


def _speed(ours: Glance) -> str:
    low, high = ours.speed_spread
    if 1 - _ALIKE <= ours.speed <= 1 + _ALIKE:
        return "about the same speed"
    if low <= 1 <= high:
        return "a speed that cannot be told apart"
    if ours.speed > 1:
        return f"{factor(ours.speed)} the speed"
    return f"{_fraction(1 / ours.speed)} of the speed"


def _memory(smaller: float) -> str:
    if abs(smaller - 1) < 0.005:
        return "the same index memory"
    if smaller > 1:
        return f"{_fraction(smaller)} of the index memory"
    return f"{factor(1 / smaller)} the index memory"


def _fraction(times: float) -> str:
    """One part of `times`: 1/8, or percents where no such fraction is near."""
    whole = round(times)
    if whole >= 2 and abs(times - whole) <= _ALIKE * times / 2:
        return "half" if whole == 2 else f"1/{whole}"
    return share(1 / times) if times < 10 else f"1/{times:.0f}"


def _losses(comparison: ComparisonReport, ours: Glance) -> list[str]:
    """Where the system loses most: the data set, or with a single one the metric."""
    if len(comparison.data_sets) > 1:
        kept = {
            each.name: each.systems[ours.name].scores[comparison.metrics[0]].retention
            for each in comparison.data_sets
            if ours.contrasts[each.name].difference <= -_SAME
        }
        subject = "no data set"
    elif len(comparison.metrics) > 1:
        result = comparison.data_sets[0].systems[ours.name]
        kept = {
            metric_title(metric): result.scores[metric].retention
            for metric in comparison.metrics
            if result.contrasts[metric].difference <= -_SAME
        }
        subject = "no metric"
    else:
        return []
    known = {name: value for name, value in kept.items() if value is not None}
    if not kept:
        return [f"it loses on {subject}"]
    if not known:
        return []
    # Of those that show the same figure, the first.
    worst = min(known, key=lambda name: round(known[name], 6))
    return [f"it loses most on {worst} ({exact_share(known[worst])} kept)"]


def _doubts(comparison: ComparisonReport, ours: Glance) -> list[str]:
    """Which differences are significant, and which are not."""
    several = len(comparison.data_sets) > 1
    if several:
        tested = dict(ours.contrasts)
        title = f"in {metric_title(comparison.metrics[0])} on "
    else:
        result = comparison.data_sets[0].systems[ours.name]
        tested = {metric_title(metric): result.contrasts[metric] for metric in comparison.metrics}
        title = "in "
    different = {name: contrast for name, contrast in tested.items() if abs(contrast.difference) >= _SAME}
    unsure = {name: contrast for name, contrast in different.items() if not significant(contrast)}
    if not different:
        return []
    everywhere = "every data set" if len(different) == len(tested) > 1 and several else _listed(list(different))
    if not unsure:
        subject = "difference" if several or len(different) == 1 else "differences"
        return [f"the {subject} {title}{everywhere} {'is' if subject == 'difference' else 'are'} significant"]
    if len(unsure) == 1:
        (name, contrast) = next(iter(unsure.items()))
        return [f"the difference {title}{name} is not significant (p = {p_value(contrast.randomisation_p_holm)})"]
    least = f"p ≥ {p_value(min(each.randomisation_p_holm for each in unsure.values()))}"
    if len(unsure) == len(different):
        return [f"no difference {title}{everywhere.replace('every', 'any')} is significant ({least})"]
    return [f"the differences {title}{_listed(list(unsure))} are not significant ({least})"]


ENOUGH = 0.95
"""The share of its teacher that a student should keep. Below it, the next steps are told."""

_LAYERS, _DIM = 3, 384
"""The student of three layers of all-mpnet-base-v2 that kept most: see docs/distil.md."""


def next_steps(record: Mapping[str, Any], retention: float | None) -> tuple[str, ...]:
    """Say what to try where a student keeps too little, in order of what each gained where it was measured.

    The figures are shares of all-mpnet-base-v2's nDCG@10 on four collections. docs/distil.md has them.

    Args:
        record: the contents of the student's ibkd.json.
        retention: the student's figure divided by its teacher's, or None if it is unknown.

    Returns:
        Sentences, none where the student keeps `ENOUGH`.
    """
    if retention is None or retention >= ENOUGH:
        return ()
    config = record.get("config") or {}
    student, settings = config.get("student") or {}, record.get("settings") or {}
    dim, teacher_dim = record["student"]["dim"], record["teacher"]["dim"]
    layers = student.get("layers") or _LAYERS  # A number of layers, or their positions.
    steps = []
    of_teacher = record["teacher"].get("layers")
    if of_teacher is not None and of_teacher <= _LAYERS:
        pass  # Three layers would be the whole teacher, or more than it has.
    elif student.get("model") == "static":
        steps.append(f"`distill(layers={_LAYERS})`: layers of the teacher kept 96 % where a static student kept 84 %")
    elif student.get("model") and record["teacher"].get("transformer_parameters") == 0:
        pass  # There are only vectors of the teacher.
    elif student.get("model"):
        steps.append(f"`distill(layers={_LAYERS})`: layers of the teacher kept 96 % where a small model kept 88 %")
    elif (layers if isinstance(layers, int) else len(layers)) < _LAYERS:
        steps.append(f"`distill(layers={_LAYERS})`: three layers of the teacher kept 96 %")
    if dim < min(_DIM, teacher_dim):
        steps.append(f"`distill(dim={min(_DIM, teacher_dim)})`: 384 dimensions kept 96 % where 128 kept 92 %")
    if settings.get("output_space", "student") == "student" and student.get("model") != "static":
        steps.append(
            '`distill(output_space="teacher")`: a student that searches the teacher\'s index kept 92 % instead of 88 %'
        )
    if config.get("preset") != "thorough":
        steps.append(
            'more text and `distill(preset="thorough")`: twice the text, read twice as far, kept 90 % instead of 88 %'
        )
    steps.append('`open_index(hybrid="rrf")`: words beside vectors gained 0.03 to 0.07 of nDCG@10 without any training')
    return tuple(steps)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
