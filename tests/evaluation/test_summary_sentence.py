import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sample_reports import sample_comparison
from ibkd_retrieval.evaluation.report.sentence import (
    further_sentences,
    headline,
    next_steps,
    summary_sentence,
    system_sentence,
)


def told(comparison):
    """The sentence with ordinary spaces."""
    return summary_sentence(comparison).replace("\N{NO-BREAK SPACE}", " ")


def two(values, **settings):
    """A teacher and a student whose values are a function of the teacher's."""
    kept = settings.pop("systems", 3)
    return sample_comparison(
        systems=kept,
        names=["teacher", "teacher ivf", "student"][:kept],
        values=lambda number, first, metric: first if number < 2 else values(first, metric),
        **settings,
    )


def test_a_worse_student_is_said_to_keep_a_share_and_what_it_saves():
    sentence = told(two(lambda first, _: first * 0.9))
    assert sentence == (
        "student keeps 90.0 % of teacher's nDCG@10 (95% interval 90.00 to 90.00 %, 60 queries) at 5.7 × the speed and "
        "half of the index memory; it loses most on nDCG@10 (90.0 % kept); the differences in nDCG@10, MRR@10 and "
        "Recall@100 are significant; it finds 72.0 % of teacher's first ten documents."
    )


def test_a_better_student_is_not_said_to_keep_or_lose():
    sentence = told(two(lambda first, _: first * 1.1))
    assert sentence.startswith("student reaches 110.0 % of teacher's nDCG@10 (95% interval 1")
    assert "60 queries) at 5.7 × the speed" in sentence
    assert "it loses on no metric" in sentence


def test_equal_scores_are_called_the_same_and_no_difference_is_tested():
    comparison = two(lambda first, _: first)
    mean = comparison.averages["teacher"]["ndcg@10"].mean
    assert told(comparison) == (
        f"student scores the same nDCG@10 as teacher ({mean:.4f}, 60 queries) at 5.7 × the speed and half of the index "
        "memory; it loses on no metric; it finds 72.0 % of teacher's first ten documents."
    )


def test_a_slower_and_larger_system_is_said_to_be_so():
    sentence = told(two(lambda first, _: first * 0.9, slower=20.0, larger=4.0))
    assert "at 28.6 % of the speed and 2.0 × the index memory" in sentence


@pytest.mark.parametrize(("scanned", "data_sets"), [({0}, 1), ({2}, 1), ({0, 1, 2}, 1), ({0}, 3)])
def test_nothing_is_said_of_memory_where_an_index_is_scanned(scanned, data_sets):
    sentence = told(two(lambda first, _: first * 0.9, scanned=scanned, data_sets=data_sets))
    assert "at 5.7 × the speed; it loses" in sentence
    assert "memory" not in sentence


def test_too_few_queries_are_no_verdict():
    def lose_much_on_some(first, metric):
        moved = np.random.default_rng(metric).normal(0, 0.5, first.shape)
        return np.clip(first * 0.85 + moved - moved.mean(), 0, 1)

    comparison = two(lose_much_on_some, queries=33)
    found = comparison.data_sets[0].systems["student"].scores["ndcg@10"]
    low, high = found.retention_interval
    assert low < 1 < high
    assert found.retention < 0.95
    sentence = told(comparison)
    assert sentence.startswith(
        f"student – too few queries to tell: between {100 * low:.0f} and {100 * high:.0f} % of teacher's nDCG@10 "
        "(33 queries), at 5.7 ×"
    )
    assert "keeps" not in sentence
    assert "it loses" not in sentence


def test_a_tiny_loss_is_not_rounded_to_everything():
    sentence = told(two(lambda first, _: first * 0.9999))
    assert "keeps 99.99 % of" in sentence


def test_differences_that_may_be_chance_are_named_with_their_p():
    def lose_on_the_first_metric_alone(first, metric):
        noise = np.random.default_rng(metric).normal(0, 0.2, first.shape)
        return first * 0.8 if metric == 0 else np.clip(first + noise - noise.mean() - 1e-3, 0, 2)

    comparison = two(lose_on_the_first_metric_alone)
    p = comparison.data_sets[0].systems["student"].contrasts["mrr@10"].randomisation_p_holm
    assert p > 0.05
    assert "the differences in MRR@10 and Recall@100 are not significant (p ≥ " in told(comparison)


def test_over_several_data_sets_the_worst_one_is_named():
    comparison = sample_comparison(systems=3, data_sets=4, queries=200, seed=3)
    kept = {each.name: each.systems["student flat"].scores["ndcg@10"].retention for each in comparison.data_sets}
    worst = min(kept, key=kept.get)
    assert f"it loses most on {worst} ({kept[worst]:.1%}".replace("%", " %") in told(comparison)


def test_a_teacher_that_finds_nothing_leaves_no_share():
    comparison = sample_comparison(
        systems=3, names=["teacher", "ivf", "student"], values=lambda number, first, _: first * (number == 2)
    )
    mean = comparison.averages["student"]["ndcg@10"].mean
    assert told(comparison).startswith(f"student scores {mean:.4f} nDCG@10, where teacher scores 0, at 5.7 ×")


def test_one_system_alone_is_said_to_score():
    comparison = sample_comparison(systems=1)
    mean = comparison.averages[comparison.baseline]["ndcg@10"].mean
    assert told(comparison) == f"all-mpnet-base-v2 flat scores {mean:.4f} nDCG@10 on scifact."
    assert further_sentences(comparison) == []


def test_a_speed_whose_rounds_disagree_on_the_winner_is_not_called_faster(monkeypatch):
    comparison = sample_comparison(systems=3, slower=5.0)
    # 46.5 against 53.2 ms is 1.14 × the speed; rounds from 0.9 to 1.3 × do not tell.
    result = comparison.data_sets[0].systems["student flat"]
    monkeypatch.setitem(result.gain_spread, "query_total_p50", (0.9, 1.3))
    assert "at a speed that cannot be told apart" in told(comparison)


def test_the_headline_is_the_best_system_with_another_encoder():
    comparison = sample_comparison(systems=5, queries=300, quality=[1, 0.99, 0.9, 0.95, 0.8])
    assert headline(comparison) == "student ivf-pq"
    assert headline(sample_comparison(systems=2)) == "all-mpnet-base-v2 ivf-pq"
    assert [sentence.split(" keeps")[0] for sentence in further_sentences(comparison)] == [
        "all-mpnet-base-v2 ivf-pq",
        "student flat",
        "student hnsw",
    ]


def results_of(comparison):
    return comparison.data_sets[0].systems["S"].scores


@given(
    shift=st.integers(-300, 300).map(lambda n: n / 1000),
    noise=st.integers(0, 30).map(lambda n: n / 100),
    slower=st.sampled_from([0.3, 1.0, 5.6, 6.2, 40.0]),
    larger=st.sampled_from([0.1, 1.0, 2.0, 3.0]),
    data_sets=st.integers(1, 3),
    queries=st.integers(1, 12) | st.just(150),
)
@settings(max_examples=40)
def test_every_claim_agrees_with_the_record(shift, noise, slower, larger, data_sets, queries):
    rng = np.random.default_rng(7)

    def moved(first):
        return np.clip(first + shift + noise * rng.normal(size=first.shape), 0, 1)

    comparison = sample_comparison(
        systems=3,
        names=["T", "I", "S"],
        data_sets=data_sets,
        queries=queries,
        slower=slower,
        larger=larger,
        values=lambda number, first, _: first if number < 2 else moved(first),
    )
    sentence = system_sentence(comparison, "S").replace("\N{NO-BREAK SPACE}", " ")
    first, ours = comparison.averages["T"]["ndcg@10"].mean, comparison.averages["S"]["ndcg@10"].mean
    if "too few queries to tell" in sentence:
        kept = comparison.averages["S"]["ndcg@10"] if data_sets > 1 else results_of(comparison)["ndcg@10"]
        if kept.retention_interval is not None:
            low, high = kept.retention_interval
            assert low <= 1 <= high
            assert f"between {100 * low:.0f} and {100 * high:.0f} %" in sentence
        assert "S keeps" not in sentence
    elif ours < first - 1e-9:
        assert "S keeps " in sentence
        assert float(re.search(r"keeps ([\d.]+) %", sentence)[1]) < 100
    elif ours > first + 1e-9:
        assert "S reaches " in sentence
        assert float(re.search(r"reaches ([\d.]+) %", sentence)[1]) > 100
    else:
        assert "scores the same" in sentence
    results = comparison.data_sets[0].systems
    time = results["S"].latency_ms.total.p50 / results["T"].latency_ms.total.p50
    if found := re.search(r"at ([\d.]+) × the speed", sentence):
        assert float(found[1]) == pytest.approx(1 / time, rel=0.05)
        assert time < 1
    elif found := re.search(r"at ([\d.]+) % of the speed", sentence):
        assert float(found[1]) / 100 == pytest.approx(1 / time, rel=0.05)
        assert time > 1
    else:
        assert "1/" in sentence or "half of" in sentence or 0.9 < time < 1.1
    ratio = results["S"].sizes.index_memory_bytes / results["T"].sizes.index_memory_bytes
    if found := re.search(r"and ([\d.]+) × the index memory", sentence):
        assert float(found[1]) == pytest.approx(ratio, rel=0.05)
        assert ratio > 1
    elif found := re.search(r"and 1/(\d+) of the index memory", sentence):
        assert 1 / float(found[1]) == pytest.approx(ratio, rel=0.05)
    if data_sets > 1:
        contrasts = {each.name: each.systems["S"].contrasts["ndcg@10"] for each in comparison.data_sets}
    else:
        found = comparison.data_sets[0].systems["S"].contrasts
        contrasts = {"nDCG@10": found["ndcg@10"], "MRR@10": found["mrr@10"], "Recall@100": found["recall@100"]}
    doubts = sentence.partition("not significant")[0].rpartition(";")[2] if "not significant" in sentence else ""
    doubts += sentence.partition("no difference")[2].partition("is significant")[0]
    doubts = doubts.replace("any data set", ", ".join(contrasts))
    for name, contrast in contrasts.items():
        unsure = contrast.difference != 0 and contrast.randomisation_p_holm >= 0.05
        listed = re.sub(r"in nDCG@10 on ", "", doubts) if data_sets > 1 else doubts
        assert (name in listed) == unsure, sentence


def made(student, *, dim=128, preset=None, output_space="student"):
    return {
        "student": {"dim": dim},
        "teacher": {"dim": 768},
        "settings": {"output_space": output_space},
        "config": {"student": {"layers": None, "model": None} | student, "preset": preset},
    }


def names(steps):
    """The parameter that each step is about."""
    return [re.search(r"\((\w+)=", step)[1] for step in steps]


def test_what_to_try_next_leaves_out_what_the_student_has():
    everything = ["layers", "dim", "output_space", "preset", "hybrid"]
    assert names(next_steps(made({"layers": 2}), 0.8)) == everything
    assert names(next_steps(made({"layers": [0, 5]}), 0.8)) == everything
    assert names(next_steps(made({"layers": [0, 3, 5]}), 0.8)) == everything[1:]
    assert names(next_steps(made({"model": "small"}), 0.8)) == everything
    assert names(next_steps(made({"layers": 3}, dim=384), 0.8)) == everything[2:]
    assert names(next_steps(made({"layers": 3}, dim=384, preset="thorough", output_space="teacher"), 0.8)) == ["hybrid"]
    # A static student cannot ask the teacher's index.
    assert names(next_steps(made({"model": "static"}), 0.8)) == ["layers", "dim", "preset", "hybrid"]


def test_a_teacher_of_few_layers_is_not_said_to_have_three():
    for student in ({"layers": 2}, {"model": "small"}, {"model": "static"}):
        record = made(student)
        for few in (0, 2):
            record["teacher"]["layers"] = few
            assert "layers" not in names(next_steps(record, 0.8))
        record["teacher"]["layers"] = 6
        assert names(next_steps(record, 0.8))[0] == "layers"


def test_a_student_that_keeps_enough_is_told_nothing_and_an_older_record_is_read():
    assert next_steps(made({"layers": 2}), 0.95) == ()
    assert next_steps(made({"layers": 2}), None) == ()
    assert names(next_steps({"student": {"dim": 8}, "teacher": {"dim": 16}}, 0.5))[0] == "dim"
