"""The sizes of a quickstart fit its minutes."""

import subprocess
import sys

import pytest

from helpers.programs import environment
from helpers.tiny_runs import corpus, run
from ibkd_retrieval.corpora.records import Judgement, Query, QuerySet
from ibkd_retrieval.distill.quickstart import _planned, quickstart
from ibkd_retrieval.distill.quickstart_sizes import (
    LEAST_DOCUMENTS,
    LEAST_INDEXED,
    LEAST_STEPS,
    Speeds,
    TooShort,
    fitting,
    measure_speeds,
    part_of,
    seconds_of,
)
from ibkd_retrieval.errors import UserError

FAST = Speeds(documents=400.0, tokens=50_000.0, query=0.003, step=0.2)
SLOW = Speeds(documents=60.0, tokens=8_000.0, query=0.01, step=1.25)


@pytest.mark.parametrize("speeds", [FAST, SLOW])
def test_the_sizes_fit_the_time(speeds):
    sizes = fitting(speeds, 300.0, 20_000, 9_000)
    assert sizes.seconds == seconds_of(speeds, sizes.steps, sizes.documents, sizes.indexed) <= 300.0
    assert sizes.steps >= LEAST_STEPS
    assert sizes.documents >= LEAST_DOCUMENTS
    assert sizes.indexed >= LEAST_INDEXED


def test_more_time_and_a_faster_machine_do_more():
    short, long, fast = (fitting(*case, 20_000, 9_000) for case in ((SLOW, 300.0), (SLOW, 600.0), (FAST, 300.0)))
    assert short.steps < long.steps
    assert short.indexed < long.indexed
    assert short.documents < fast.documents


def test_a_small_corpus_is_taken_whole():
    sizes = fitting(FAST, 300.0, 500, 100)
    assert (sizes.documents, sizes.indexed) == (500, 100)


def test_a_time_that_is_too_short_says_what_it_takes():
    with pytest.raises(TooShort) as short:
        fitting(SLOW, 60.0, 20_000, 9_000)
    assert fitting(SLOW, short.value.seconds + 0.1, 20_000, 9_000).steps == LEAST_STEPS


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), float("inf")])
def test_minutes_that_are_no_time_are_refused(minutes):
    with pytest.raises(UserError, match=r"`minutes` is .* give a number above 0"):
        quickstart(minutes)


def test_a_part_of_a_corpus_keeps_the_queries_that_it_answers():
    queries = QuerySet(
        "q",
        tuple(Query(f"q{i}", f"text {i}") for i in range(150)),
        tuple(Judgement(f"q{i}", f"d{i}", 1) for i in range(150)),
    )
    part, kept = part_of(corpus(150), queries, 40)
    names = {document.doc_id for document in part.documents()}
    assert len(names) == part.count == len(kept.queries) == 40
    assert {judgement.doc_id for judgement in kept.judgements} == names
    assert part_of(corpus(150), queries, 1000)[1] == queries


def test_speeds_are_measured(bert, teacher):
    from helpers.tiny_models import sentences
    from helpers.tiny_runs import settings

    config = settings(layers=2).with_parameters(teacher=str(bert))
    speeds = measure_speeds(teacher, config, sentences(100))
    assert all(value > 0 for value in (speeds.documents, speeds.tokens, speeds.query, speeds.step))
    assert speeds.tokens > speeds.documents


def test_the_card_of_a_student_runs_from_any_folder_without_a_report_of_missing_weights(tmp_path, bert):
    run(bert, tmp_path)
    card = (tmp_path / "student" / "README.md").read_text("utf-8")
    example = card.split("```python\n")[1].split("```")[0]
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", example + "print(vectors.shape)"],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("(1, 8)\n")
    assert "MISSING" not in done.stdout + done.stderr
    assert "newly initialized" not in done.stdout + done.stderr


def test_a_machine_that_is_slow_gets_the_smallest_sizes_where_no_time_was_asked_for():
    slow = Speeds(documents=5.0, query=0.05, step=10.0, tokens=5000.0)
    found = _planned(slow, None, 300.0, (6000, 6000))
    assert LEAST_STEPS <= found.steps <= LEAST_STEPS + 1
    assert found.indexed <= LEAST_INDEXED + 5
    assert found.seconds > 300
    with pytest.raises(UserError, match=r"`minutes` is 5, and the smallest quickstart takes about \d"):
        _planned(slow, 5.0, 300.0, (6000, 6000))
