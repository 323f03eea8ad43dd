"""The machinery of docs/reproduction.md, run whole on tiny models and data."""

import dataclasses
import json
import statistics

import numpy as np
import pytest

from helpers.programs import PYTHONPATH
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.significance import holm, randomisation_test
from ibkd_retrieval.progress import SILENT
from reproducing import RECIPES, RESULTS, Expected, read_recipe, read_recipes
from reproduction import collect, contrasts, result_of, run_cells, summarise
from reproduction_cell import BEFORE, TEACHER, Places, cells, run
from reproduction_page import DOCS, pages

SMOKE = RECIPES / "smoke.yaml"


def test_the_committed_pages_are_what_recipes_and_results_make():
    committed = [DOCS / "reproduction.md", *(DOCS / "reproduction").glob("*.md")]
    found = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in committed}
    assert found == pages(read_recipes(), RESULTS), "run python benchmarks/reproduction_page.py"


def page(recipe, results):
    return pages([recipe], results)[f"reproduction/{recipe.name}.md"]


def beir(folder, texts, queries, split):
    (folder / "qrels").mkdir(parents=True)
    lines = {
        "corpus": [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)],
        "queries": [{"_id": f"q{i}", "text": " ".join(texts[i].split()[:4])} for i in range(queries)],
    }
    for name, each in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in each))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(queries))
    (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the smoke recipe names: data sets and models, all tiny and made up."""
    from helpers.tiny_models import save_plain_transformer, save_sentence_transformer, sentences

    root = tmp_path_factory.mktemp("reproduction")
    save_sentence_transformer(root / "models" / "all-MiniLM-L6-v2")
    save_plain_transformer(root / "models" / "bert-tiny", seed=3, layers=1, hidden=16)
    beir(root / "data" / "medquad", sentences(150, seed=1), 20, "train")
    beir(root / "data" / "cranfield", sentences(60, seed=2), 12, "test")
    beir(root / "data" / "cisi", sentences(50, seed=3), 9, "test")
    lines = [f"{i % 6}\t{a}\t{b}" for i, (a, b) in enumerate(zip(sentences(12, 4), sentences(12, 5), strict=True))]
    (root / "data" / "sts").mkdir()
    (root / "data" / "sts" / "STSB-dev.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *lines]) + "\n")
    return Places(root / "data", root / "models", root / "work", "cpu")


@pytest.fixture(scope="module")
def done(places):
    """The recipe with every cell run for both kinds of sets."""
    recipe = read_recipe(SMOKE)
    for cell in cells(recipe):
        run(cell, places, ("dev", "final"), SILENT)
    return recipe


@pytest.mark.slow
def test_a_recipe_gives_a_row_for_teacher_student_before_and_every_variant(done, places):
    result = result_of(done, places)
    rows = {row["row"]: row for row in result["final"]["rows"]}
    assert list(rows) == [TEACHER, *(variant.name for variant in done.variants), BEFORE]
    assert {name: row["seeds"] for name, row in rows.items()} == dict.fromkeys(rows, 2) | {TEACHER: 1, BEFORE: 1}
    assert rows[TEACHER]["figures"]["CISI"]["kept"] == 1
    assert 0 < rows[done.tested]["figures"]["CISI"]["mean"] <= 1
    assert set(result["dev"]["rows"][0]["figures"]) == {"Cranfield", "STS-B dev"}
    assert result["costs"]["student"]["dims"] == 16
    assert result["costs"]["texts"] == 150 - 30 + 20
    assert str(places.work) not in json.dumps(result), "no path of this machine is kept"


@pytest.mark.slow
def test_only_cells_that_are_missing_are_run_each_in_a_process_of_its_own(done, places, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    every = [cell.result(places, "dev") for cell in cells(done)]
    missing = [path for path in every if path.name.startswith(("mse-seed1", "infonce-seed0"))]
    before = [json.loads(path.read_text())["dims"] for path in missing]
    for path in missing:
        path.unlink()
    times = {path: path.stat().st_mtime_ns for path in every if path not in missing}
    run_cells([SMOKE], places, ["dev"], jobs=2)
    after = [json.loads(path.read_text())["dims"] for path in missing]
    assert after == before, "the students were there and are not trained again"
    assert times == {path: path.stat().st_mtime_ns for path in times}


@pytest.mark.slow
def test_another_setting_is_another_cell_and_a_shared_one_is_not(done, places):
    longer = dataclasses.replace(done, settings=done.settings | {"steps": 41}, title="Another")
    retitled = dataclasses.replace(done, title="Another")
    pairs = zip(cells(done), cells(longer), cells(retitled), strict=True)
    for cell, changed, same in pairs:
        assert same.result(places, "dev") == cell.result(places, "dev")
        # The student before training follows from some settings too, such as the length it reads.
        assert (changed.result(places, "dev") == cell.result(places, "dev")) == (cell.row == TEACHER)


@pytest.mark.slow
def test_rows_and_tests_are_their_formulas(done, places):
    found = collect(done, places, "final")
    rows = {row["row"]: row for row in summarise(done, found, "final")}
    by_seed = [cell["dims"]["16"]["CISI"] for cell in found["mse"].values()]
    figure = rows["mse"]["figures"]["CISI"]
    assert figure["mean"] == pytest.approx(statistics.mean(each["score"] for each in by_seed))
    assert figure["sd"] == pytest.approx(statistics.stdev(each["score"] for each in by_seed))
    for each in by_seed:
        assert statistics.mean(each["per_query"]) == pytest.approx(each["score"], abs=1e-6)
    tests = contrasts(done, found, "final")
    assert [each["against"] for each in tests] == [TEACHER, "infonce", "mse", BEFORE]
    ours, theirs = (
        np.mean([next(iter(cell["dims"].values()))["CISI"]["per_query"] for cell in found[name].values()], axis=0)
        for name in (done.tested, "mse")
    )
    assert tests[2]["difference"] == pytest.approx((ours - theirs).mean())
    assert tests[2]["p"] == randomisation_test(ours, theirs).p_value
    assert [each["p_holm"] for each in tests] == holm([each["p"] for each in tests])


@pytest.mark.slow
def test_the_page_shows_what_was_run_marks_what_is_outside_and_says_what_was_not(done, places, tmp_path):
    result = result_of(done, places)
    found = next(row for row in result["final"]["rows"] if row["row"] == "mse")["figures"]["CISI"]["mean"]
    wanted = (Expected("mse", "CISI", value=found), Expected("infonce", "CISI", value=2.0))
    recipe = dataclasses.replace(done, expected=(*wanted, Expected(done.tested, "CISI", kept_at_least=9.0)))
    (tmp_path / "smoke.json").write_text(json.dumps(result))
    shown = page(recipe, tmp_path)
    assert f"| mse, CISI | {found:.4f} ± 0.01 | {found:.4f} ✓ |" in shown
    (outside,) = [line for line in shown.splitlines() if "✗ expected" in line]
    assert outside.startswith("| infonce | 16 | 2 |")
    assert "kept >= 900.0%" in shown
    assert "not run yet" not in shown
    (tmp_path / "smoke.json").write_text(json.dumps(result | {"final": None}))
    assert page(recipe, tmp_path).count("| not run yet |") == len(done.variants) + 2 + 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"surprise": 1}, "unknown surprise"),
        ({"seeds": []}, "seeds is empty"),
        ({"tested": "magic"}, "tested is `magic`"),
        ({"settings": {"magic": 1}}, "magic"),
        ({"dev": [{"name": "x", "qrels": "y"}]}, "unknown qrels"),
        ({"final": [{"name": "Cranfield", "queries": "cisi"}]}, "Cranfield appears twice"),
    ],
)
def test_a_recipe_that_cannot_work_is_a_user_error(tmp_path, changed, said):
    (tmp_path / "base.yaml").write_text(SMOKE.read_text("utf-8"), "utf-8")
    (tmp_path / "wrong.yaml").write_text(json.dumps({"like": "base"} | changed), "utf-8")
    with pytest.raises(UserError, match=said):
        read_recipe(tmp_path / "wrong.yaml")


def test_a_recipe_may_be_like_one_that_is_like_another_but_not_like_itself(tmp_path):
    (tmp_path / "base.yaml").write_text(SMOKE.read_text("utf-8"), "utf-8")
    (tmp_path / "nearer.yaml").write_text(json.dumps({"like": "base", "tolerance": 0.25, "seeds": [3]}), "utf-8")
    (tmp_path / "recipe.yaml").write_text(json.dumps({"like": "nearer", "seeds": [4]}), "utf-8")
    recipe, base = read_recipe(tmp_path / "recipe.yaml"), read_recipe(SMOKE)
    assert (recipe.tolerance, recipe.seeds, recipe.teachers) == (0.25, (4,), base.teachers)
    (tmp_path / "nearer.yaml").write_text(json.dumps({"like": "recipe"}), "utf-8")
    with pytest.raises(UserError, match="like itself, by recipe, nearer"):
        read_recipe(tmp_path / "recipe.yaml")


def test_the_thorough_preset_is_the_recipe_whose_figures_are_shown():
    recipe = read_recipe(RECIPES / "l3.yaml")
    shown = recipe.config(recipe.variants[0], 0)
    chosen = decided(DistillConfig().with_parameters(preset="thorough", student=shown.student.model))
    names = ("objective", "steps", "bank_size", "learning_rate", "max_length", "projection", "merge")
    assert [chosen.value(name) for name in names] == [shown.value(name) for name in names]
    # That of ibkd, not the one that kl had.
    assert chosen.objective == shown.objective
