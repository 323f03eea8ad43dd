from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from helpers.searching import HashEncoder, searcher
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.serving.answering import (
    QUERY_BATCH_TOKENS,
    Question,
    ServedIndex,
    answer_all,
    can_share,
    suit_to_queries,
    thread_sharer,
)

DOCUMENTS = [Document(f"d{number}", f"text number {number}") for number in range(30)]


class Alone:
    """A ranker that is no `Searcher`."""

    def __init__(self, ranker):
        self.name, self._ranker = "alone", ranker

    def search(self, text, k=10):
        return self._ranker.search(text, k)


@pytest.fixture
def rankers(tmp_path):
    shared, other = HashEncoder(), HashEncoder("b" * 64, dim=4)
    return [
        searcher(tmp_path / "a", DOCUMENTS, shared),
        searcher(tmp_path / "b", DOCUMENTS[:12], shared),
        searcher(tmp_path / "c", DOCUMENTS, other),
    ]


def served(name, ranker):
    return ServedIndex(name, ranker, 30, "tiny", 8, "flat")


def test_a_batch_is_answered_as_each_question_alone(rankers):
    rankers = [*rankers, Alone(rankers[0])]
    indexes = [served(str(place), ranker) for place, ranker in enumerate(rankers)]
    questions = [Question("text number 3", 5), Question("text number 8", 20), Question("text number 3", 1)]
    answers = answer_all(indexes, questions)
    assert len(answers) == 3
    for question, of_question in zip(questions, answers, strict=True):
        assert len(of_question) == 4
        for ranker, answer in zip(rankers, of_question, strict=True):
            alone = ranker.search(question.text, question.k)
            assert [hit.document for hit in answer.hits] == [hit.document for hit in alone]
            assert [hit.score for hit in answer.hits] == pytest.approx([hit.score for hit in alone], abs=1e-6)
    assert [answer.batch for answer in answers[0]] == [3, 3, 3, 1]
    assert answers[0][3].encoding_ms is None
    assert answers[0][0].milliseconds >= answers[0][0].searching_ms >= 0


def test_questions_are_encoded_in_one_call_for_all_indexes_of_an_encoder(rankers):
    shared = rankers[0].encoder
    before = len(shared.kinds)
    answer_all([served("a", rankers[0]), served("b", rankers[1])], [Question("one", 3), Question("two", 4)])
    assert shared.kinds[before:] == [("query", 2)]


def test_an_empty_question_is_refused(rankers):
    with pytest.raises(UserError, match="The query is empty"):
        answer_all([served("a", Alone(rankers[0]))], [Question(" ", 3)])


def test_an_index_is_described_without_the_folders_of_its_model(rankers):
    rankers[0].encoder.name = "/home/someone/models/tiny"
    index = ServedIndex.of("a", rankers[0], rankers[0].index.manifest)
    assert (index.name, index.documents, index.encoder, index.dims, index.family) == ("a", 30, "tiny", 8, "flat")


@pytest.mark.parametrize(
    ("device", "before", "after"), [("cpu", 4096, QUERY_BATCH_TOKENS), ("cpu", 64, 64), ("cuda", 4096, 4096)]
)
def test_only_an_encoder_on_a_cpu_takes_queries_in_small_parts(device, before, after):
    encoder = SimpleNamespace(device=device, batch_tokens=before)
    suit_to_queries(encoder, 1024)
    assert encoder.batch_tokens == after
    assert encoder.remembered_queries == 1024


def test_two_batches_at_once_only_where_all_is_searched_by_vectors_on_a_cpu(rankers, monkeypatch):
    import torch

    indexes = [served(str(place), ranker) for place, ranker in enumerate(rankers)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert can_share(indexes)
    assert not can_share([*indexes, served("alone", Alone(rankers[0]))])
    rankers[2].encoder.device = "cuda:0"
    assert can_share(indexes[:2])
    assert not can_share(indexes)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not can_share(indexes[:2])


def test_a_thread_takes_its_share_of_the_processors_and_leaves_others_theirs():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        share = thread_sharer()

        def threads_of(busy):
            share(busy)
            return torch.get_num_threads()

        with ThreadPoolExecutor(1) as other:
            assert [other.submit(threads_of, busy).result() for busy in (1, 2, 3, 8)] == [4, 2, 1, 1]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_batches_worked_on_at_once_are_answered_as_in_turn(tmp_path):
    ranker = searcher(tmp_path / "index", [Document(f"d{number}", f"text number {number}") for number in range(300)])
    indexes = [served("a", ranker)]
    batches = [[Question(f"text number {place}", 5) for place in range(start, start + 6)] for start in range(0, 240, 6)]
    in_turn = [answer_all(indexes, batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda batch: answer_all(indexes, batch), batches))
    assert [[of[0].hits for of in batch] for batch in at_once] == [[of[0].hits for of in batch] for batch in in_turn]
