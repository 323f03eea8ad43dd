"""Make docs/reproduction.md of the recipes and the results there are.

usage: python benchmarks/reproduction_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ibkd_retrieval.files import atomic_write
from reproducing import RECIPES, RESULTS, Expected, Recipe, read_recipes
from reproduction_cell import BEFORE, TEACHER

PAGE = Path(__file__).parent.parent / "docs" / "reproduction.md"
_NONE = "not run yet"
_HEAD = """# Reproduction

Made by `python benchmarks/reproduction_page.py` from `benchmarks/reproduction/*.yaml` and the results beside them;
a test holds that this page is what it makes. Each part is one recipe, run by

```
python benchmarks/reproduction.py benchmarks/reproduction/NAME.yaml --final \\
    --data-dir DIR --models-dir DIR --work-dir DIR
```

Retrieval is nDCG@10 by exact search, every model reading as much of a text as it can; sentence similarity is Spearman's
correlation. Figures are means over seeds ± their standard deviation, with the share of the teacher's figure that is
kept in brackets; *average* is over the retrieval sets.
Tests are paired randomisation tests over queries, whose values are averaged over seeds first, with Holm's correction
over all tests of a table. ✗ marks what lies outside the tolerance of the figure that is expected.
Recipes are chosen on the dev sets; the final ones are measured once. Times and speeds were taken while other cells of
the run shared the processors.
"""


def page(recipes: list[Recipe], results: Path) -> str:
    """The page as text."""
    parts = [_HEAD]
    for recipe in recipes:
        path = results / f"{recipe.name}.json"
        parts.append(_part(recipe, json.loads(path.read_text("utf-8")) if path.is_file() else None))
    return "\n".join(parts)


def write_page() -> None:
    """Write docs/reproduction.md."""
    with atomic_write(PAGE) as file:
        file.write(page(read_recipes(RECIPES), RESULTS).encode("utf-8"))


def _part(recipe: Recipe, result: dict[str, Any] | None) -> str:
    lines = [f"## {recipe.title}", "", recipe.about.strip(), "", *_setting(recipe), ""]
    for kind in ("dev", "final"):
        if not recipe.sets(kind):
            continue
        found = result and result[kind]
        lines += [f"### {kind.capitalize()} sets", ""]
        lines += [*_figures(recipe, found, kind), ""]
        if found and found["tests"]:
            lines += [*_tests(found["tests"]), ""]
    if recipe.expected:
        lines += [*_targets(recipe, result), ""]
    if result and result["costs"]:
        lines += [_costs(result), ""]
    return "\n".join(lines)


def _setting(recipe: Recipe) -> list[str]:
    student = recipe.student.get("model")
    layers = recipe.student.get("layers")
    if student is None:
        student = f"{layers} layers of {recipe.teachers[0]}"
    elif student == "static":
        student = f"a table of token vectors out of {recipe.teachers[0]}"
    text = recipe.text
    most = ((text.max_documents, "documents"), (text.max_queries, "queries"))
    limit = "".join(f", at most {count:,} {what}" for count, what in most if count)
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in recipe.settings.items())
    lines = [
        f"- teacher: {' + '.join(recipe.teachers)}",
        f"- student: {student}",
        f"- text: {', '.join((*text.corpora, *text.pairs, *text.queries))}{limit}",
        f"- watched while training: {recipe.watch or 'neighbours of the teacher among held-out texts'}",
        f"- settings: {settings}",
        f"- seeds: {', '.join(map(str, recipe.seeds))}",
    ]
    if recipe.finetuning:
        tuning = ", ".join(f"{name} {_shown(value)}" for name, value in recipe.finetuning.items())
        lines.insert(4, f"- stage {recipe.stage}, pairs {recipe.pairs}: {tuning}")
    return lines


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else f"{value}"


def _figures(recipe: Recipe, found: dict[str, Any] | None, kind: str) -> list[str]:
    """The table of one kind of sets; rows that have no figures say so."""
    names = recipe.figures(kind)
    rows = {(row["row"], row["dims"]): row for row in (found["rows"] if found else ())}
    lines = [f"| | dims | runs | {' | '.join(names)} |", "|---|---:|---:|" + "---:|" * len(names)]
    expected = {
        (each.row, each.figure, each.dims): each.value
        for each in recipe.expected
        if each.value is not None and _kind(recipe, each) == kind
    }
    single = recipe.teachers if len(recipe.teachers) > 1 else ()
    for name in (TEACHER, *single, BEFORE, *(variant.name for variant in recipe.variants)):
        measured = [row for (row_name, _), row in rows.items() if row_name == name]
        if not measured:
            lines.append(f"| {name} | | | {' | '.join([_NONE] * len(names))} |")
        for place, row in enumerate(measured):
            length = row["dims"] if place else None
            cells = [
                _cell(row["figures"][each], expected.get((name, each, length)), recipe.tolerance) for each in names
            ]
            lines.append(f"| {name}{', cut' if place else ''} | {row['dims']} | {row['seeds']} | {' | '.join(cells)} |")
    return lines


def _cell(figure: dict[str, Any], expected: float | None, tolerance: float) -> str:
    spread = "" if figure["sd"] is None else f" ± {figure['sd']:.4f}"
    kept = f" ({figure['kept']:.1%})" if figure.get("kept") is not None else ""
    outside = expected is not None and abs(figure["mean"] - expected) > tolerance
    return f"{figure['mean']:.4f}{spread}{kept}{f' ✗ expected {expected:.4f}' if outside else ''}"


def _tests(tests: list[dict[str, Any]]) -> list[str]:
    lines = ["| tested | against | set | difference | p (Holm) | win/tie/loss |", "|---|---|---|---:|---:|---:|"]
    for each in tests:
        star = " *" if each["p_holm"] < 0.05 else ""
        score = f"{each['wins']}/{each['ties']}/{each['losses']}"
        lines.append(
            f"| {each['row']} | {each['against']} | {each['set']} | {each['difference']:+.4f} | "
            f"{each['p_holm']:.4f}{star} | {score} |"
        )
    return lines


def _targets(recipe: Recipe, result: dict[str, Any] | None) -> list[str]:
    """What the recipe is to reach, and whether it did."""
    lines = []
    for each in recipe.expected:
        figure = _found(recipe, result, each)
        where = f"{each.row}{f' cut to {each.dims}' if each.dims else ''}, {each.figure}"
        got, shown = (figure["mean"] if figure else None), "{:.4f}"
        if each.value is not None:
            wanted = f"{each.value:.4f} ± {recipe.tolerance:g}"
            reached = got is not None and abs(got - each.value) <= recipe.tolerance
        elif each.at_least is not None:
            wanted, reached = f">= {each.at_least:.4f}", got is not None and got >= each.at_least
        else:
            wanted, shown = f"kept >= {each.kept_at_least:.1%}", "{:.1%}"
            got = figure.get("kept") if figure else None
            reached = got is not None and got >= (each.kept_at_least or 0.0)
        said = _NONE if got is None else f"{shown.format(got)} {'✓' if reached else '✗'}"
        lines.append(f"| {where} | {wanted} | {said} |")
    return ["| expected | | found |", "|---|---:|---:|", *lines]


def _kind(recipe: Recipe, expected: Expected) -> str:
    return "final" if expected.figure in recipe.figures("final") else "dev"


def _found(recipe: Recipe, result: dict[str, Any] | None, wanted: Expected) -> dict[str, Any] | None:
    """The figure of a row, None where it was not measured."""
    found = result and result[_kind(recipe, wanted)]
    for row in found["rows"] if found else ():
        if row["row"] == wanted.row and wanted.dims in (None, row["dims"]):
            figure: dict[str, Any] = row["figures"][wanted.figure]
            return figure
    return None


def _costs(result: dict[str, Any]) -> str:
    costs, machine = result["costs"], result["environment"]
    teacher, student = costs["teacher"], costs["student"]
    where = machine["accelerator"] or f"{machine['cpu']}, {machine['threads']} threads"
    return (
        f"Teacher {teacher['parameters'] / 1e6:.1f} M parameters, {teacher['dims']} dimensions; student "
        f"{student['parameters'] / 1e6:.1f} M, {student['dims']}, {costs['times_as_fast']:.1f} × as fast while "
        f"encoding. Learnt from {costs['texts']:,} texts (fingerprint `{costs['text_fingerprint'][:16]}`); a run "
        f"trained for {costs['training_seconds']:,.0f} s at {costs['training_texts_per_second']:,.0f} texts/s on "
        f"{where}. Taken on {result['date']}."
    )


if __name__ == "__main__":
    write_page()
