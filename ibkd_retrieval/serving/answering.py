"""Answers batches of queries with every served index."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.searcher import Searcher

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.indexing.format.manifest import IndexManifest
    from ibkd_retrieval.search.api import Index
    from ibkd_retrieval.search.ranker import Ranker
    from ibkd_retrieval.search.runs import Hit


QUERY_BATCH_TOKENS = 256
"""Tokens an encoder on a CPU takes at once from a batch of queries."""


@dataclass(frozen=True)
class ServedIndex:
    """An index and its ranker.

    Attributes:
        name: unique name in answers.
        encoder: name of the encoder, without its parent folders.
        dims: dimensions of the vectors.
        family: index family: flat, ivf-pq, ...
    """

    name: str
    ranker: Ranker
    documents: int
    encoder: str
    dims: int
    family: str

    @classmethod
    def of(cls, name: str, ranker: Ranker, manifest: IndexManifest) -> ServedIndex:
        """Describe an index by its manifest."""
        encoder = PurePath(manifest.encoder.called).name
        return cls(name, ranker, manifest.document_count, encoder, manifest.dim, manifest.family)


def served(indexes: Sequence[Index], remembered: int = 0) -> list[ServedIndex]:
    """Describe opened indexes for a server. They are named after their folders, or by their paths if names repeat.

    Args:
        indexes: opened indexes.
        remembered: number of queries whose vectors each encoder keeps.

    Raises:
        UserError: a folder was given twice.
    """
    names = names_apart([index.folder for index in indexes])
    found = [ServedIndex.of(name, index.ranker, index.manifest) for name, index in zip(names, indexes, strict=True)]
    for encoder in {id(each): each for index in indexes for each in index.encoders}.values():
        suit_to_queries(encoder, remembered)
    return found


def names_apart(folders: Sequence[Path]) -> list[str]:
    """Names of folders: their last parts, or their paths where two last parts are the same.

    Raises:
        UserError: a folder was given twice.
    """
    for at, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:at]]:
            raise UserError(f"{folder} was given twice: name it once.")
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def suit_to_queries(encoder: Encoder, remembered: int) -> None:
    """Make an encoder remember queries. On a CPU, it encodes a batch in parts of similar lengths that fit the caches.

    Queries are short and of different lengths: of sixteen queries of Cranfield in one batch, nearly half is padding.
    `benchmarks/serve_load.py` measures the gain.
    """
    encoder.remembered_queries = remembered
    if encoder.device == "cpu":
        encoder.batch_tokens = min(encoder.batch_tokens, QUERY_BATCH_TOKENS)


def can_share(indexes: Sequence[ServedIndex]) -> bool:
    """Whether two threads may search at once: every index is searched by vectors on a CPU with several threads.

    Lexical rankers and cross-encoders are not known to be safe with several threads.
    """
    rankers = [index.ranker for index in indexes]
    searchers = [ranker for ranker in rankers if isinstance(ranker, Searcher)]
    return len(searchers) == len(rankers) and can_share_encoders(searcher.encoder for searcher in searchers)


def can_share_encoders(encoders: Iterable[Any]) -> bool:
    """Whether two threads may encode at once: on a CPU with several threads."""
    import torch

    return torch.get_num_threads() > 1 and all(getattr(encoder, "device", "") == "cpu" for encoder in encoders)


def thread_sharer() -> Callable[[int], None]:
    """A function that sets a thread's share of the processors, given the number of working threads.

    A lone thread takes all processors, which answers a single query soonest. Several threads take equal parts. A batch
    of short queries cannot keep many processors busy, so two batches side by side finish before two in turn.
    """
    import torch

    threads = torch.get_num_threads()

    def share(busy: int) -> None:
        # torch and faiss both use OpenMP's number of threads. Each calling thread has its own.
        torch.set_num_threads(max(1, threads // busy))

    return share


class Question(NamedTuple):
    """A query.

    Attributes:
        text: the text of the query.
        k: number of results.
    """

    text: str
    k: int


@dataclass(frozen=True)
class Answer:
    """The answer of one index to one question.

    Attributes:
        encoding_ms: milliseconds to encode the batch of the question. None if the index is not searched by vectors
            alone. Encoding is then part of searching.
        searching_ms: milliseconds to search for the batch and to read the documents' texts.
        batch: number of queries in the batch.
    """

    hits: tuple[Hit, ...]
    encoding_ms: float | None
    searching_ms: float
    batch: int

    @property
    def milliseconds(self) -> float:
        """Milliseconds to encode and to search."""
        return (self.encoding_ms or 0.0) + self.searching_ms


def answer_all(indexes: Sequence[ServedIndex], questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
    """Answer questions with every index.

    For an index that is searched by vectors alone, the questions are encoded in one call. They are searched in one call
    for each number of results, because a longer list does not always continue a shorter one. Indexes that share an
    encoder share its vectors. Other rankers are asked question by question.

    Returns:
        For each question, an answer of each index.

    Raises:
        UserError: a question is empty, or asks for less than one result.
    """
    encoded: dict[int, tuple[NDArray[np.float32], float]] = {}
    by_index = [_answers(index.ranker, questions, encoded) for index in indexes]
    return list(zip(*by_index, strict=True))


def _answers(
    ranker: Ranker, questions: Sequence[Question], encoded: dict[int, tuple[NDArray[np.float32], float]]
) -> list[Answer]:
    if not isinstance(ranker, Searcher):
        return [_answer_one(ranker, question) for question in questions]
    if id(ranker.encoder) not in encoded:
        began = time.perf_counter()
        vectors = ranker.encode([Query(str(place), question.text) for place, question in enumerate(questions)])
        encoded[id(ranker.encoder)] = vectors, _since(began)
    vectors, encoding_ms = encoded[id(ranker.encoder)]
    began = time.perf_counter()
    places_by_k: dict[int, list[int]] = {}
    for place, question in enumerate(questions):
        places_by_k.setdefault(question.k, []).append(place)
    hits: dict[int, list[Hit]] = {}
    for k, places in places_by_k.items():
        for place, found in zip(places, ranker.hits_of_each(vectors[places], k), strict=True):
            hits[place] = [hit.read() for hit in found]
    searching_ms = _since(began)
    return [Answer(tuple(hits[place]), encoding_ms, searching_ms, len(questions)) for place in range(len(questions))]


def _answer_one(ranker: Ranker, question: Question) -> Answer:
    began = time.perf_counter()
    hits = tuple(hit.read() for hit in ranker.search(question.text, question.k))
    return Answer(hits, None, _since(began), 1)


def _since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)


T = TypeVar("T")
R = TypeVar("R")


class QueueFull(Exception):
    """The queue is full."""


class Closed(Exception):
    """The batcher is closed and accepts no more items."""


class MicroBatcher(Generic[T, R]):
    """Threads that take the waiting items, up to a maximum, and work on them in one call.

    An item that arrives while a thread is idle is taken at once and alone, so batching never adds a wait; under load
    batches grow by themselves. Items that wait are shared evenly among the threads that are idle.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_batch: int,
        max_waiting: int,
        workers: int = 1,
        begin: Callable[[int], None] = lambda busy: None,
    ) -> None:
        """Start the threads.

        Args:
            work: function from items to one result for each, in order. If it fails for several items, it is called
                again for each alone, so that only a bad item fails. Several threads call it at once.
            max_batch: maximum number of items in one call.
            max_waiting: maximum number of items that wait, at least 1.
            workers: number of threads.
            begin: called by a thread before it works, with the number of working threads, itself included.
        """
        self._work, self._max_batch, self._max_waiting, self._begin = work, max_batch, max_waiting, begin
        self._waiting: deque[tuple[T, Future[R]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._idle = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"micro-batcher-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of items that wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether items are taken and worked on."""
        return all(thread.is_alive() for thread in self._threads) and not self._closed

    def submit(self, item: T) -> Future[R]:
        """Put an item into the queue. Nothing is done for a future that is cancelled while its item waits.

        Raises:
            QueueFull: the queue is full.
            Closed: `close` was called.
        """
        future: Future[R] = Future()
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._waiting) >= self._max_waiting:
                self._drop_cancelled()
                if len(self._waiting) >= self._max_waiting:
                    raise QueueFull
            self._waiting.append((item, future))
            self._changed.notify()
        return future

    def close(self, timeout: float | None = None) -> bool:
        """Finish the waiting items and end the threads. False if a thread still runs after `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _drop_cancelled(self) -> None:
        self._waiting = deque(pair for pair in self._waiting if not pair[1].cancelled())

    def _run(self) -> None:
        while taken := self._next_batch():
            batch, busy = taken
            wanted = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if wanted:
                self._begin(busy)
                self._answer([item for item, _ in wanted], [future for _, future in wanted])

    def _next_batch(self) -> tuple[list[tuple[T, Future[R]]], int] | None:
        """Wait for items. Return this thread's share and the number of working threads, or None at the end."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closed)
            share = min(self._max_batch, math.ceil(len(self._waiting) / self._idle))
            self._idle -= 1
            if not share:
                return None
            return [self._waiting.popleft() for _ in range(share)], len(self._threads) - self._idle

    def _answer(self, items: list[T], futures: list[Future[R]]) -> None:
        try:
            results = self._work(items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        except Exception as error:
            if len(items) == 1:
                futures[0].set_exception(error)
                return
            for item, future in zip(items, futures, strict=True):
                self._answer([item], [future])
            return
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)
