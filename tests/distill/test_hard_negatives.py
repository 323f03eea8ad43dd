import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.tiny_models import sentences
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.distill.data import hard_negatives
from ibkd_retrieval.distill.data.hard_negatives import mine_negatives, with_negatives
from ibkd_retrieval.distill.data.pairs import PairSet, TrainingPair
from ibkd_retrieval.distill.sections import MiningSettings
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT

TEXTS = sentences(60, seed=4)
DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]
# The second query's positive stands in the corpus twice.
DOCUMENTS.append(Document("copy", TEXTS[7]))
PAIRS = PairSet(
    "p",
    (
        TrainingPair("river bank water boat", (TEXTS[3], TEXTS[11]), ("given",)),
        TrainingPair("milk cheese salt", (TEXTS[7],)),
        TrainingPair(TEXTS[20], (TEXTS[20],)),
    ),
)


def corpus():
    return Corpus("c", len(DOCUMENTS), lambda: DOCUMENTS)


def by_hand(teacher, pair, settings):
    query = teacher.encode([pair.query], "query")[0]
    scores = teacher.encode([document.content for document in DOCUMENTS]) @ query
    ceiling = float((teacher.encode(list(pair.positives)) @ query).max()) - settings.margin
    window = np.argsort(-scores, kind="stable")[settings.first - 1 : settings.last]
    found = [DOCUMENTS[i].text for i in window if scores[i] <= ceiling and DOCUMENTS[i].text not in pair.positives]
    return list(dict.fromkeys(found))


def mined_for(*given, **more):
    path = mine_negatives(*given, **more)
    return with_negatives(given[0], path), path


@pytest.mark.parametrize(
    "settings",
    [MiningSettings(1, 61, 0.0, 99), MiningSettings(5, 30, 0.02, 99), MiningSettings(1, 500, 0.1, 99)],
)
def test_negatives_are_the_results_in_the_window_below_the_margin_that_are_no_positives(tmp_path, teacher, settings):
    mined, _ = mined_for(PAIRS, corpus(), teacher, tmp_path, settings)
    for pair, found in zip(PAIRS.pairs, mined.pairs, strict=True):
        assert found.negatives == (*pair.negatives, *by_hand(teacher, pair, settings))
        assert not set(found.negatives) & set(pair.positives)
    assert any(pair.negatives for pair in mined.pairs[1:])


def test_few_negatives_are_spread_over_the_window(tmp_path, teacher):
    settings = MiningSettings(5, 45, 0.0, 4)
    mined, _ = mined_for(PAIRS, corpus(), teacher, tmp_path, settings)
    every = by_hand(teacher, PAIRS.pairs[2], settings)
    assert len(every) > 10
    found = mined.pairs[2].negatives
    assert len(found) == 4
    assert (found[0], found[-1]) == (every[0], every[-1])


def test_texts_that_are_held_out_are_no_negatives_and_are_mined_around(tmp_path, teacher):
    settings = MiningSettings(1, 40, 0.0, 4)
    before, first = mined_for(PAIRS, corpus(), teacher, tmp_path, settings)
    held_out = [pair.negatives[-1] for pair in before.pairs]
    after, second = mined_for(PAIRS, corpus(), teacher, tmp_path, settings, exclude=[f" {t}" for t in held_out])
    assert first != second
    for pair in after.pairs:
        assert not set(pair.negatives) & set(held_out)
    assert len(after.pairs[2].negatives) == 4


def test_what_was_mined_is_listed_with_rank_and_score_and_read_again(tmp_path, teacher, monkeypatch):
    settings = MiningSettings(2, 40, 0.0, 5)
    mined, path = mined_for(PAIRS, corpus(), teacher, tmp_path, settings)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["query"] for line in lines] == [pair.query for pair in PAIRS.pairs]
    assert [tuple(line["positives"]) for line in lines] == [pair.positives for pair in PAIRS.pairs]
    for line in lines:
        ranks, scores = ([negative[key] for negative in line["negatives"]] for key in ("rank", "score"))
        assert ranks == sorted(ranks)
        assert ranks[0] >= 2
        assert ranks[-1] <= 40
        assert scores == sorted(scores, reverse=True)
    monkeypatch.setattr(hard_negatives, "_mine", None)
    assert mined_for(PAIRS, corpus(), teacher, tmp_path, settings) == (mined, path)


def test_a_passage_that_answers_many_queries_is_encoded_once_and_held_no_longer_than_needed(
    tmp_path, teacher, monkeypatch
):
    shared, alone = TEXTS[3], TEXTS[7]
    pairs = PairSet("p", tuple(TrainingPair(f"query {i}", (shared,) if i != 1 else (alone, shared)) for i in range(4)))
    settings, asked, held = MiningSettings(1, 40, 0.0, 9), [], []
    at_once = mined_for(pairs, corpus(), teacher, tmp_path / "at-once", settings)[0]
    encode, of = type(teacher).encode, hard_negatives._Answers.of

    def recorded(self, texts, kind="document", *more):
        asked.extend(texts)
        return encode(self, texts, kind, *more)

    def watched(self, part):
        found = of(self, part)
        held.append(sorted(self._known))
        return found

    monkeypatch.setattr(hard_negatives, "_WINDOW", 1)
    monkeypatch.setattr(hard_negatives._Answers, "of", watched)
    mined_for(pairs, corpus(), teacher, tmp_path / "part-by-part", settings)  # The corpus is indexed here.
    monkeypatch.setattr(type(teacher), "encode", recorded)
    (path,) = (tmp_path / "part-by-part").glob("negatives-*.jsonl")
    path.unlink()
    assert mined_for(pairs, corpus(), teacher, tmp_path / "part-by-part", settings)[0] == at_once
    assert (asked.count(shared), asked.count(alone)) == (1, 1)
    assert held[-4:] == [[shared], [shared], [shared], []]


def test_a_corpus_that_has_changed_is_indexed_and_mined_anew(tmp_path, teacher):
    settings = MiningSettings(1, 40, 0.0, 99)
    _, before = mined_for(PAIRS, corpus(), teacher, tmp_path, settings)
    fewer = Corpus("c", 30, lambda: DOCUMENTS[:30])
    mined, after = mined_for(PAIRS, fewer, teacher, tmp_path, settings)
    assert before != after
    assert set(mined.pairs[1].negatives) <= set(TEXTS[:30])


def test_several_runs_with_one_teacher_and_corpus_wait_for_whoever_indexes_it(tmp_path, teacher):
    """Also the processes of one run, all but the first of which come at once."""
    settings, barrier, said = MiningSettings(1, 40, 0.0, 9), threading.Barrier(3), []

    class Told(type(SILENT)):
        def say(self, message):
            said.append(message)

    def late():
        barrier.wait(30)
        return mine_negatives(PAIRS, slow, teacher, tmp_path, settings, Told())

    def documents():
        time.sleep(0.05)
        return DOCUMENTS

    slow = Corpus("c", len(DOCUMENTS), documents)
    with ThreadPoolExecutor(3) as pool:
        paths = {run.result() for run in [pool.submit(late) for _ in range(3)]}
    assert len(paths) == 1
    assert any("waiting for another run" in line for line in said)
    assert not any("anew" in line for line in said)


@pytest.mark.parametrize("wrong", [{"first": 0}, {"first": 9, "last": 8}, {"margin": -0.1}, {"margin": float("nan")}])
def test_ranks_and_margins_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="`negative_"):
        MiningSettings(**({"first": 10, "last": 100, "margin": 0.05} | wrong))


def test_a_changed_letter_in_kept_negatives_is_noticed(tmp_path, teacher):
    settings = MiningSettings(1, 61, 0.0, 99)
    mined, path = mined_for(PAIRS, corpus(), teacher, tmp_path, settings)
    path.write_bytes(path.read_bytes().replace(b"o", b"a", 1))
    with pytest.raises(UserError, match=r"negatives-.* is damaged: delete it"):
        with_negatives(PAIRS, path)
    path.unlink()
    assert mined_for(PAIRS, corpus(), teacher, tmp_path, settings)[0] == mined
