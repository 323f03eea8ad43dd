"""`ibkd distill --stage both` on judged queries, with negatives that the command mines itself."""

import json

import numpy as np
import pytest


@pytest.fixture
def command(shell, distilling, plenty, beir):
    """A fine-tuning whose pairs have another corpus than its first stage: their documents alone have titles."""
    first = ("--corpus", plenty, "--max-documents", 200, "--steps", 2, "--eval-every", 0, "--cache", "cache")
    second = ("--stage", "both", "--pairs", f"{beir}:test", "--finetune-steps", 2, "--finetune-batch-size", 8)
    return (*distilling, *first, *second, "--output", "made", "--json")


def mined(shell):
    """The negatives that the command kept, by query."""
    (kept,) = (shell.folder / "cache").rglob("negatives-*.jsonl")
    return {each["query"]: each for each in map(json.loads, kept.read_text().splitlines())}


def test_judged_queries_are_learnt_from_with_negatives_of_their_own_corpus(shell, command, beir):
    mining = ("--negatives", 2, "--negative-ranks", "3-40", "--negative-margin", 0)
    made = json.loads(shell.must(*command, *mining).out)["finetuning"]
    settings = made["settings"]
    assert (settings["steps"], settings["batch_size"], settings["negatives"]) == (2, 8, 2)
    assert [settings["mining"][name] for name in ("first", "last", "margin")] == [3, 40, 0]
    assert made["queries"] == 20
    asked = [json.loads(line)["text"] for line in (beir / "queries.jsonl").read_text().splitlines()]
    found = mined(shell)
    assert list(found) == asked
    for number, query in enumerate(asked):
        judged = {f"d{7 * number}", f"d{7 * number + 1}"}
        assert [text.split()[:2] for text in found[query]["positives"]] == [
            ["page", str(7 * number)],
            ["page", str(7 * number + 1)],
        ]
        negatives = found[query]["negatives"]
        assert not {each["id"] for each in negatives} & judged
        assert all(each["text"].startswith("page ") and 3 <= each["rank"] <= 40 for each in negatives)
    assert made["negatives_a_query"] == sum(len(each["negatives"]) for each in found.values()) / 20 > 0


def test_a_cross_encoder_grades_the_passages_of_judged_queries(shell, command, reranker):
    answer = shell.must(*command, "--soft-labels", reranker, "--soft-weight", 0.5)
    settings = json.loads(answer.out)["finetuning"]["settings"]
    assert (settings["soft_labels"], settings["soft_weight"]) == (str(reranker), 0.5)
    log = (shell.folder / "made" / "finetuning-log.jsonl").read_text().splitlines()
    assert any("soft" in json.loads(line) for line in log)
    # Every passage that a query may draw was scored once, the mined ones among them.
    pairs = sum(len(each["positives"]) + len(each["negatives"]) for each in mined(shell).values())
    scored = [shard["scores"] for shard in map(np.load, (shell.folder / "cache").rglob("*.npz")) if "scores" in shard]
    assert sum(map(len, scored)) == pairs
