"""Make docs/reproduction.md and a page for each recipe, out of the recipes and their results.

usage: python benchmarks/reproduction_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ibkd_retrieval.files import atomic_write
from reproducing import RECIPES, RESULTS, Expected, Recipe, read_recipes
from reproduction_cell import BEFORE, TEACHER

DOCS = Path(__file__).parent.parent / "docs"
_NONE = "not run yet"
_HEAD = """# Reproduction

Every figure of distillation comes from a recipe. A recipe names the teacher, the student, the training text, the
settings, and the sets that are measured. Each recipe has a page with its results.

The table shows each recipe's main row: its name, and the student's average on the final sets divided by the teacher's,
before and after training. The pages have all rows.

"""
_READING = """
## How to read the pages

- Retrieval is nDCG@10 by exact search. Each model reads as much of a text as it can. Sentence similarity is Spearman's
  correlation.
- *average* is over the retrieval sets.
- A figure is the mean over seeds, ± the standard deviation. The share of the teacher's figure is in brackets.
- *student before* is the student before training.
- Tests are paired randomisation tests over queries. Values are averaged over seeds first. Holm's correction is over all
  tests of a table. \\* marks p < 0.05.
- *expected* lists known figures with a tolerance, and targets. ✓ means reached, ✗ not reached.
- Recipes were chosen on the dev sets. The final sets were measured once.
- Times and speeds were taken while other runs of the recipe shared the processors.
- A source of the training text that ends in `:train` gives its queries, without their judgements.

## Run a recipe

```
python benchmarks/reproduction.py benchmarks/reproduction/NAME.yaml --final \\
    --data-dir DIR --models-dir DIR --work-dir DIR
```

[The page of the benchmarks](../benchmarks/README.md#reproduction) says which data and models it expects. Then
`python benchmarks/reproduction_page.py` makes these pages from the recipes and the results. A test checks that they
are what it makes.
"""


def pages(recipes: list[Recipe], results: Path) -> dict[str, str]:
    """The text of each page, by its name below docs/: the index, and a page for each recipe."""
    found = {}
    for recipe in recipes:
        path = results / f"{recipe.name}.json"
        found[recipe.name] = json.loads(path.read_text("utf-8")) if path.is_file() else None
    lines = ["| recipe | teacher | student | trained on | row | before | after |", "|---|---|---|---|---|---:|---:|"]
    lines += [_row(recipe, found[recipe.name]) for recipe in recipes]
    made = {"reproduction.md": f"{_HEAD}{chr(10).join(lines)}\n{_READING}"}
    return made | {f"reproduction/{recipe.name}.md": _page(recipe, found[recipe.name]) for recipe in recipes}


def write_pages() -> None:
    """Write the pages, and remove those of recipes that are gone."""
    made = pages(read_recipes(RECIPES), RESULTS)
    (DOCS / "reproduction").mkdir(exist_ok=True)
    for name, text in made.items():
        with atomic_write(DOCS / name) as file:
            file.write(text.encode("utf-8"))
    for path in (DOCS / "reproduction").glob("*.md"):
        if f"reproduction/{path.name}" not in made:
            path.unlink()


def _row(recipe: Recipe, result: dict[str, Any] | None) -> str:
    """A recipe's line in the index."""
    tested = recipe.tested or recipe.variants[0].name
    kept: dict[str, float] = {}
    for row in ((result and result["final"]) or {}).get("rows", ()):
        if "average" in row["figures"]:
            kept.setdefault(row["row"], row["figures"]["average"]["kept"])
    before, after = (f"{kept[name]:.1%}" if name in kept else _NONE for name in (BEFORE, tested))
    where = (result["environment"]["accelerator"] or "two cores") if result else ""
    return (
        f"| [{recipe.title}](reproduction/{recipe.name}.md) | {' + '.join(recipe.teachers)} | {_student(recipe)} | "
        f"{where} | {tested} | {before} | {after} |"
    )


def _student(recipe: Recipe) -> str:
    model = recipe.student.get("model")
    if model is None:
        return f"{recipe.student.get('layers')} layers of {recipe.teachers[0]}"
    return "static" if model == "static" else str(model)


def _page(recipe: Recipe, result: dict[str, Any] | None) -> str:
    lines = [f"# {recipe.title}", "", recipe.about.strip(), "", *_setting(recipe), ""]
    for kind in ("dev", "final"):
        if not recipe.sets(kind):
            continue
        found = result and result[kind]
        lines += [f"## {kind.capitalize()} sets", ""]
        lines += [*_figures(recipe, found, kind), ""]
        if found and found["tests"]:
            lines += [*_tests(found["tests"]), ""]
    if recipe.expected:
        lines += ["## Expected figures", "", *_targets(recipe, result), ""]
    if result and result["costs"]:
        lines += ["## Cost", "", _costs(result), ""]
    lines += [f"[How to read this page](../reproduction.md#how-to-read-the-pages). Recipe: `{recipe.name}.yaml`.", ""]
    return "\n".join(lines)


def _setting(recipe: Recipe) -> list[str]:
    text = recipe.text
    most = ((text.max_documents, "documents"), (text.max_queries, "queries"))
    limit = "".join(f", at most {count:,} {what}" for count, what in most if count)
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in recipe.settings.items())
    lines = [
        f"- teacher: {' + '.join(recipe.teachers)}",
        f"- student: {_student(recipe)}",
        f"- text: {', '.join((*text.corpora, *text.pairs, *text.queries))}{limit}",
        f"- watched while training: {recipe.watch or 'overlap@10 with the teacher, on held-out texts'}",
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
        f"The teacher has {teacher['parameters'] / 1e6:.1f} M parameters and {teacher['dims']} dimensions. "
        f"The student has {student['parameters'] / 1e6:.1f} M and {student['dims']}, and encodes "
        f"{costs['times_as_fast']:.1f} times as fast. It learnt from {costs['texts']:,} texts (fingerprint "
        f"`{costs['text_fingerprint'][:16]}`). A run trained for {costs['training_seconds']:,.0f} s, at "
        f"{costs['training_texts_per_second']:,.0f} texts/s, on "
        f"{where}. Measured on {result['date']}."
    )


if __name__ == "__main__":
    write_pages()
