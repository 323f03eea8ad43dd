"""What `ibkd distill` makes of the options it was given, and of those it was not."""

import json

import pytest


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--pairs", "nowhere.jsonl"), "--pairs"),
        (("--soft-labels", "nosuch"), "--soft-labels"),
        (("--negatives", 4), "--negatives"),
        (("--finetune-steps", 4, "--negative-margin", 0.1), "--finetune-steps, --negative-margin are"),
    ],
)
def test_options_of_fine_tuning_are_refused_where_nothing_is_fine_tuned(given, named, shell, distilling):
    answer = shell(*distilling, *given)
    assert answer.code == 2
    assert f"{named} " in answer.err
    assert "--stage both" in answer.err
    assert not (shell.folder / "models").exists()


def test_options_of_distilling_are_refused_where_nothing_is_distilled(shell, teacher, beir):
    (shell.folder / "pairs.jsonl").write_text(json.dumps({"query": "a", "passage": "b"}) + "\n")
    fine_tuning = ("--corpus", beir, "--teacher", teacher, "--stage", "finetune", "--pairs", "pairs.jsonl")
    answer = shell("distill", *fine_tuning, "--bank-size", 0, "--temperature", 0.1, "--merge", 0.5)
    assert answer.code == 2
    assert "--bank-size, --merge, --temperature are for distilling" in answer.err
    assert "--finetune-temperature" in answer.err
    assert not (shell.folder / "models").exists()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--stage", "both", "--pairs", "p.jsonl", "--soft-weight", 2), "--soft-weight"),
        (("--stage", "both", "--pairs", "p.jsonl", "--negatives", 0, "--negative-ranks", "1-9"), "--negative-ranks"),
        (("--stage", "both", "--pairs", "p.jsonl", "--negatives", 0, "--soft-labels", "m"), "--negatives 0"),
    ],
)
def test_options_that_change_nothing_beside_the_others_are_refused(given, named, shell, distilling):
    answer = shell(*distilling, *given)
    assert answer.code == 2
    assert named in answer.err
    assert not (shell.folder / "models").exists()


def test_options_that_an_objective_does_not_read_are_named(shell, distilling):
    options = ("--temperature", 0.1, "--hsic-bandwidth", 1)
    for objective, named in {"mse": "--bank-size, --temperature, --hsic-bandwidth", "kl": "--hsic-bandwidth"}.items():
        answer = shell.must(*distilling, "--objective", objective, *options, "--steps", 1)
        assert f"the objective {objective} does not read {named}\n" in answer.err


def test_a_merged_student_says_so_and_an_impossible_share_is_refused(shell, distilling):
    shell.must(*distilling, "--merge", 0.25)
    (made,) = (shell.folder / "models").glob("*/ibkd.json")
    assert json.loads(made.read_text())["settings"]["merge"] == 0.25
    assert "merged: 25% of those before" in (made.parent / "README.md").read_text()
    answer = shell(*distilling, "--merge", 1, "--output", "other")
    assert answer.code == 2
    assert "--merge is 1" in answer.err
    assert not (shell.folder / "other").exists()


def test_a_preset_gives_way_to_what_was_typed(shell, teacher, beir):
    few = ("--corpus", beir, "--teacher", teacher, "--layers", 2, "--dim", 8, "--steps", 1, "--device", "cpu")
    shell.must("distill", *few, "--preset", "paper", "--objective", "mse", "--batch-size", 16, "--max-length", 32)
    made = json.loads((shell.folder / "models" / "teacher-l2-d8-mse" / "ibkd.json").read_text())["settings"]
    assert (made["objective"], made["batch_size"], made["max_length"]) == ("mse", 16, 32)
    # Neither typed nor the command's own: the published ones.
    assert (made["bank_size"], made["learning_rate"]) == (0, 1e-4)
    assert made["objective_settings"]["temperature"] == 1.0


def test_a_preset_gives_way_in_the_second_stage_too(shell, teacher, beir):
    pairs = [{"query": f"word {i}", "passage": f"passage {i}"} for i in range(20)]
    (shell.folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    few = ("--corpus", beir, "--teacher", teacher, "--layers", 2, "--dim", 8, "--steps", 1, "--device", "cpu")
    second = ("--stage", "both", "--batch-size", 16, "--pairs", "pairs.jsonl", "--negatives", 0, "--finetune-steps", 1)
    typed = ("--max-length", 32, "--finetune-batch-size", 8, "--hsic-weight", 0.5)
    shell.must("distill", *few, *second, "--preset", "paper", *typed)
    (made,) = (shell.folder / "models").glob("*/ibkd.json")
    found = json.loads(made.read_text())
    tuned = found["finetuning"]["settings"]
    assert (tuned["batch_size"], tuned["max_length"], tuned["learning_rate"]) == (8, 32, 1e-6)
    # --hsic-weight is that of the first stage alone.
    assert (tuned["hsic_weight"], found["settings"]["objective_settings"]["hsic_weight"]) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("student", "rate", "objective", "merge"),
    [
        (("--layers", 2, "--dim", 8), 2e-3, "ibkd", 0.0),
        (("--student", "TEACHER"), 5e-5, "kl", 0.5),
        (("--student", "TEACHER", "--merge", 0), 5e-5, "kl", 0.0),
        (("--student", "TEACHER", "--layers", 1), 5e-5, "kl", 0.0),
        (("--student", "TEACHER", "--preset", "paper"), 1e-4, "ibkd", 0.0),
        (("--student", "TEACHER", "--output-space", "teacher"), 3e-4, "ibkd", 0.0),
        (("--student", "TEACHER", "--preset", "thorough"), 5e-4, "ibkd", 0.0),
        (("--student", "TEACHER", "--preset", "thorough", "--objective", "kl"), 5e-4, "kl", 0.0),
        (("--student", "TEACHER", "--preset", "thorough", "--pooling", "mean"), 1e-3, "kl", 0.0),
        (("--layers", 2, "--dim", 8, "--preset", "thorough"), 2e-3, "ibkd", 0.0),
        (("--student", "TEACHER", "--pooling", "mean"), 1e-3, "kl", 0.0),
    ],
)
def test_a_student_is_trained_by_what_was_best_for_its_kind(student, rate, objective, merge, shell, teacher, beir):
    student = [teacher if word == "TEACHER" else word for word in student]
    shell.must(
        "distill", "--corpus", beir, "--teacher", teacher, *student, "--steps", 1, "--batch-size", 8, "--max-length", 32
    )
    (made,) = (shell.folder / "models").glob("*/ibkd.json")
    settings = json.loads(made.read_text())["settings"]
    assert (settings["learning_rate"], settings["objective"], settings["merge"]) == (rate, objective, merge)
