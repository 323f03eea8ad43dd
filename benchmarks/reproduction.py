"""Run recipes of reproduction: train each student, measure, test, and keep the figures.

usage: python benchmarks/reproduction.py benchmarks/reproduction/NAME.yaml [...]
           --data-dir DIR --models-dir DIR --work-dir DIR [--final] [--device DEVICE] [--jobs N]

Data sets and models are named in the recipe, below the folders given. Each row of the table with each seed is a process
of its own, whose figures are kept as JSON below --work-dir: run again, the script does what is missing, and a student
whose training was killed goes on from its checkpoint. Teacher vectors are computed once, for all recipes.
--jobs runs several cells at a time, for a GPU that one small student does not fill; --collect runs none, and gathers
the cells that are there, which may have been run elsewhere.

Without --final only the dev sets are looked at. With it the final sets are measured too, once: while a recipe is still
being chosen, leave it out. Writes benchmarks/results/reproduction/NAME.json and the pages of docs/reproduction.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.significance import holm, paired_t_test, randomisation_test, win_tie_loss
from ibkd_retrieval.files import write_json
from reproducing import RESULTS, Recipe, read_recipe
from reproduction_cell import BEFORE, TEACHER, Cell, Places, cells, taught_mark
from reproduction_page import write_pages

KINDS = ("dev", "final")
Found = dict[str, dict[int | None, dict[str, Any]]]
"""What cells gave, by row and seed."""


def run_cells(paths: Sequence[Path], places: Places, kinds: Sequence[str], jobs: int = 1) -> None:
    """Run those cells whose figures of some kind are missing, `jobs` at a time.

    Raises:
        UserError: a recipe cannot be read, or a cell broke down; what was running then still ends.
    """
    every = [(path, cell) for path in paths for cell in cells(read_recipe(path))]
    wanted = [(path, cell, [kind for kind in kinds if not cell.result(places, kind).is_file()]) for path, cell in every]
    missing = [each for each in wanted if each[2]]
    # The student before training is kept by the first cell that trains.
    late = [each for each in missing if each[1].row == BEFORE]
    with ThreadPoolExecutor(jobs) as pool:
        taught: dict[Path, Future[None]] = {}
        for path, cell, _ in missing if jobs > 1 else ():
            mark = taught_mark(cell.recipe, places)
            if cell.variant and mark not in taught and not mark.is_file():
                taught[mark] = pool.submit(_run, path, cell, places, "--teach")

        def run_one(path: Path, cell: Cell, left: list[str]) -> None:
            if cell.variant and (teaching := taught.get(taught_mark(cell.recipe, places))):
                teaching.result()
            _run(path, cell, places, "--kind", *left)

        early = [pool.submit(run_one, *each) for each in missing if each not in late]
        wait(early)
        ended = early + [pool.submit(run_one, *each) for each in late]
    for each in ended:
        each.result()


def _run(path: Path, cell: Cell, places: Places, *options: str) -> None:
    seed = "" if cell.seed is None else f", seed {cell.seed}"
    print(f"{cell.recipe.name}: {cell.row}{seed} {' '.join(options)}", flush=True)
    command = [sys.executable, str(Path(__file__).with_name("reproduction_cell.py")), str(path), cell.row]
    command += ["--data-dir", str(places.data), "--models-dir", str(places.models), "--work-dir", str(places.work)]
    command += ["--device", places.device]
    command += ["--seed", str(cell.seed)] if cell.seed is not None else []
    if subprocess.run([*command, *options], check=False).returncode:
        raise UserError(f"{cell.recipe.name}: {cell.row} did not end well; what it said is above. Run again to go on.")


def collect(recipe: Recipe, places: Places, kind: str) -> Found:
    """The figures of all cells that have them."""
    found: Found = {}
    for cell in cells(recipe):
        path = cell.result(places, kind)
        if path.is_file():
            found.setdefault(cell.row, {})[cell.seed] = json.loads(path.read_text("utf-8"))
    return found


def summarise(recipe: Recipe, found: Found, kind: str) -> list[dict[str, Any]]:
    """A row for each length of each row: mean and spread over seeds of every set and of their average.

    The spread is the standard deviation of a sample, None for a single seed. *kept* is the share of the teacher's mean.
    """
    sets = recipe.sets(kind)
    retrieval = [each.name for each in sets if each.queries is not None]
    rows = []
    for row, by_seed in found.items():
        for length in next(iter(by_seed.values()))["dims"]:
            scores = {
                each.name: [cell["dims"][length][each.name]["score"] for cell in by_seed.values()] for each in sets
            }
            if len(retrieval) > 1:
                together = zip(*(scores[name] for name in retrieval), strict=True)
                scores["average"] = [statistics.mean(each) for each in together]
            figures = {name: _spread(values) for name, values in scores.items()}
            rows.append({"row": row, "dims": int(length), "seeds": len(by_seed), "figures": figures})
    teacher = next((each["figures"] for each in rows if each["row"] == TEACHER), None)
    for each in rows if teacher else []:
        for name, figure in each["figures"].items():
            figure["kept"] = figure["mean"] / teacher[name]["mean"] if teacher[name]["mean"] else None
    return rows


def _spread(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "sd": deviation, "by_seed": values}


def contrasts(recipe: Recipe, found: Found, kind: str) -> list[dict[str, Any]]:
    """The tested variant against every other row, query by query, each query's values averaged over seeds first.

    Paired randomisation tests, with Holm's correction over all of them that are returned.
    """
    tested = recipe.tested or recipe.variants[0].name
    made = []
    for row in found if tested in found else ():
        if row == tested:
            continue
        for each in recipe.sets(kind):
            if each.queries is None:
                continue
            ours, theirs = (_by_query(found[name], each.name) for name in (tested, row))
            made.append(
                {
                    "row": tested,
                    "against": row,
                    "set": each.name,
                    "difference": float(ours.mean() - theirs.mean()),
                    "p": randomisation_test(ours, theirs).p_value,
                    "p_t_test": paired_t_test(ours, theirs).p_value,
                    **win_tie_loss(ours, theirs)._asdict(),
                }
            )
    for each, corrected in zip(made, holm([each["p"] for each in made]), strict=True):
        each["p_holm"] = corrected
    return made


def _by_query(by_seed: dict[int | None, dict[str, Any]], name: str) -> np.ndarray:
    """Values at full length, which is the first, [n]."""
    each = [next(iter(cell["dims"].values()))[name]["per_query"] for cell in by_seed.values()]
    return np.mean(np.array(each, dtype=np.float64), axis=0)


def costs(found: Found) -> dict[str, Any]:
    """What students cost beside their teacher: medians over cells, and how long training took."""
    facts = [cell["facts"] for by_seed in found.values() for cell in by_seed.values() if cell["facts"]]
    if not facts:
        return {}
    out: dict[str, Any] = {}
    for who in ("teacher", "student"):
        out[who] = {
            "parameters": facts[0][who]["embedding_parameters"] + facts[0][who]["transformer_parameters"],
            "dims": facts[0][who]["dim"],
            "texts_per_second": statistics.median(each[who]["texts_per_second"] for each in facts),
        }
    ratios = [each["student"]["texts_per_second"] / each["teacher"]["texts_per_second"] for each in facts]
    return out | {
        "times_as_fast": statistics.median(ratios),
        "training_seconds": statistics.median(each["train_seconds"] for each in facts),
        "training_texts_per_second": statistics.median(each["texts_per_second"] for each in facts),
        "texts": facts[0]["texts"],
        "text_fingerprint": facts[0]["fingerprint"],
    }


def result_of(recipe: Recipe, places: Places) -> dict[str, Any]:
    """All that is known of a recipe."""
    out: dict[str, Any] = {"recipe": recipe.name, "cells": len(cells(recipe))}
    for kind in KINDS:
        found = collect(recipe, places, kind)
        rows = summarise(recipe, found, kind)
        out[kind] = {"rows": rows, "tests": contrasts(recipe, found, kind)} if rows else None
        if kind == "dev":
            out["costs"] = costs(found)
            # Of a process that trained, since teachers may have been measured elsewhere; this one has computed nothing.
            every = (cell for by_seed in found.values() for cell in by_seed.values())
            measured = min(every, key=lambda cell: not cell["facts"], default={"environment": {}})
            out["environment"] = measured["environment"]
    return out | {"date": datetime.date.today().isoformat()}


def show(recipe: Recipe, result: dict[str, Any]) -> None:
    """Print the figures of a recipe, a line for each row at each length."""
    print(recipe.title)
    for kind in KINDS:
        for row in (result[kind] or {"rows": ()})["rows"]:
            figures = "  ".join(f"{name} {each['mean']:.4f}" for name, each in row["figures"].items())
            print(f"{kind}  {row['row']} ({row['dims']}, {row['seeds']} runs)  {figures}")


def main() -> None:
    """Run recipes and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", type=Path, nargs="+", metavar="recipe")
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--final", action="store_true", help="measure the final sets too")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--collect", action="store_true", help="run nothing, gather what there is")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    given = parser.parse_args()
    places = Places(given.data_dir.resolve(), given.models_dir.resolve(), given.work_dir.resolve(), given.device)
    try:
        if not given.collect:
            run_cells(given.recipes, places, KINDS if given.final else KINDS[:1], given.jobs)
    except UserError as error:
        raise SystemExit(str(error)) from error
    for recipe in map(read_recipe, given.recipes):
        result = result_of(recipe, places)
        write_json(given.results / f"{recipe.name}.json", result)
        show(recipe, result)
    if given.results == RESULTS:
        write_pages()


if __name__ == "__main__":
    main()
