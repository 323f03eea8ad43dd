"""Dev metrics during training: retrieval quality on judged queries, or overlap with the teacher's neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Corpus, Document, Judgement, Query, QuerySet
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError

DocumentEncoder = Callable[[Sequence[str]], NDArray[np.float32]]


class Dev(Protocol):
    """A dev set with its metric. Higher is better."""

    @property
    def name(self) -> str:
        """A readable name of the dev set."""

    @property
    def metric(self) -> str:
        """The name of the metric, for tables."""

    @property
    def texts(self) -> list[str]:
        """The texts that must not be in the training data."""

    @property
    def searched(self) -> Sequence[str]:
        """The texts that are searched."""

    def score(self, encoder: TextEncoder, searched: DocumentEncoder | None = None) -> float:
        """Measure `encoder`. `searched` encodes the documents in its place, if given."""


@dataclass(frozen=True)
class JudgedDev:
    """Retrieval quality over a sample of judged queries and a small corpus that holds their answers."""

    queries: tuple[Query, ...]
    documents: tuple[Document, ...]
    judgements: tuple[Judgement, ...]
    relevance_level: int = 1
    metric: str = "mrr@10"
    source: str = "judged queries"

    @property
    def name(self) -> str:
        """The query set, and the numbers of queries and documents."""
        return f"{len(self.queries):,} queries of {self.source} among {len(self.documents):,} documents"

    @property
    def texts(self) -> list[str]:
        """The queries and the documents judged relevant to one of them."""
        relevant = {judgement.doc_id for judgement in self.judgements if judgement.relevance > 0}
        return [query.text for query in self.queries] + [
            document.content for document in self.documents if document.doc_id in relevant
        ]

    @property
    def searched(self) -> list[str]:
        """The texts of the documents."""
        return [document.content for document in self.documents]

    def score(self, encoder: TextEncoder, searched: DocumentEncoder | None = None) -> float:
        """The mean of the metric, by exact search."""
        from ibkd_retrieval.evaluation.metrics import evaluate_run
        from ibkd_retrieval.search.runs import Run

        documents = searched(self.searched) if searched else encoder.encode(self.searched, "document")
        queries = encoder.encode([query.text for query in self.queries], "query")
        scores = queries @ documents.T
        depth = min(100, len(self.documents))
        best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        run = Run.from_lists(
            [query.query_id for query in self.queries],
            [[self.documents[j].doc_id for j in row] for row in best],
            list(np.take_along_axis(scores, best, axis=1)),
        )
        return float(evaluate_run(run, self.judgements, [self.metric], self.relevance_level).scores[self.metric])


@dataclass(frozen=True)
class NeighbourDev:
    """The overlap@10 of student and teacher: nearest neighbours among held-out texts that both find."""

    held_out: tuple[str, ...]
    neighbours: NDArray[np.int64]
    metric: str = "overlap@10 with the teacher"

    @property
    def name(self) -> str:
        """The number of held-out texts."""
        return f"{len(self.held_out):,} held-out texts"

    @property
    def texts(self) -> list[str]:
        """The held-out texts."""
        return list(self.held_out)

    @property
    def searched(self) -> tuple[str, ...]:
        """The held-out texts."""
        return self.held_out

    def score(self, encoder: TextEncoder, searched: DocumentEncoder | None = None) -> float:
        """Mean overlap, 0 to 1."""
        vectors = encoder.encode(self.held_out)
        found = nearest(vectors, searched(self.held_out) if searched else vectors, self.neighbours.shape[1])
        shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), self.neighbours.tolist(), strict=True)]
        return float(np.mean(shared) / self.neighbours.shape[1])


class TeacherSpaceDev:
    """A dev set whose documents the teacher encodes, for a student that searches the teacher's index."""

    def __init__(self, inner: Dev, teacher: TextEncoder) -> None:
        self._inner, self._teacher = inner, teacher
        self._vectors: NDArray[np.float32] | None = None

    @property
    def name(self) -> str:
        """The name of the inner dev set, with a note on the encoder."""
        return f"{self._inner.name}, encoded by the teacher"

    @property
    def metric(self) -> str:
        """The metric of the inner dev set."""
        return self._inner.metric

    @property
    def texts(self) -> list[str]:
        """The texts of the inner dev set."""
        return self._inner.texts

    @property
    def searched(self) -> Sequence[str]:
        """The texts that are searched in the inner dev set."""
        return self._inner.searched

    def encode_searched(self) -> None:
        """Let the teacher encode the texts that are searched, while it is in memory."""
        self._searched(self.searched)

    def score(self, encoder: TextEncoder, searched: DocumentEncoder | None = None) -> float:
        """Measure by the inner dev set. It is 0 for an untrained student with another dimension than the teacher's."""
        return self._inner.score(encoder, self._searched) if encoder.dim == self._teacher.dim else 0.0

    def _searched(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The teacher's document vectors. The texts are always the same, so they are encoded once."""
        if self._vectors is None:
            self._vectors = self._teacher.encode(texts)
        return self._vectors


def nearest(vectors: NDArray[np.float32], others: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k rows of `others` nearest to each row of `vectors` by inner product, without the same row [n, k]."""
    scores = vectors @ others.T
    np.fill_diagonal(scores, -np.inf)
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]


def judged_dev(corpus: Corpus, queries: QuerySet, *, most_queries: int, most_documents: int, seed: int) -> JudgedDev:
    """Draw a dev set: a sample of judged queries and a small corpus.

    Every relevant document of a drawn query is taken. The rest of the corpus is documents judged not relevant, and then
    other documents, each drawn at random.

    Args:
        corpus: the documents.
        queries: the judged queries. Queries without a relevant document are not drawn.
        most_queries: maximum number of queries.
        most_documents: maximum number of documents. The relevant ones are all taken, even if they are more.
        seed: random seed of the draw.

    Raises:
        UserError: no query has a relevant document in the corpus.
    """
    generator = np.random.default_rng([seed, 2])
    relevant = [j for j in queries.judgements if j.relevance >= queries.relevance_level]
    answered = {judgement.query_id for judgement in relevant}
    judged = [query for query in queries.queries if query.query_id in answered]
    chosen = [judged[i] for i in sorted(generator.permutation(len(judged))[:most_queries])]
    names = {query.query_id for query in chosen}
    judgements = tuple(j for j in queries.judgements if j.query_id in names)
    wanted = {judgement.doc_id for judgement in relevant if judgement.query_id in names}
    known = {judgement.doc_id for judgement in judgements} - wanted
    answers: list[Document] = []
    refused, others = (_Sample(most_documents, generator) for _ in range(2))
    for document in corpus.documents():
        if document.doc_id in wanted:
            answers.append(document)
        else:
            (refused if document.doc_id in known else others).see(document)
    if not answers:
        raise UserError(f"No query of {queries.name} has a relevant document in {corpus.name}: give another `dev` set.")
    around = refused.draw(most_documents - len(answers))
    around += others.draw(most_documents - len(answers) - len(around))
    return JudgedDev(
        tuple(chosen), tuple(sorted(answers + around)), judgements, queries.relevance_level, source=queries.name
    )


class _Sample:
    """Up to `most` documents of a stream, each kept with equal chance (reservoir sampling)."""

    def __init__(self, most: int, generator: np.random.Generator) -> None:
        self._most, self._generator = most, generator
        self._kept: list[Document] = []
        self._seen = 0

    def see(self, document: Document) -> None:
        self._seen += 1
        if len(self._kept) < self._most:
            self._kept.append(document)
        elif (position := int(self._generator.integers(0, self._seen))) < self._most:
            self._kept[position] = document

    def draw(self, count: int) -> list[Document]:
        """Draw up to `count` of the kept documents. A slice would be biased, since positions depend on the order."""
        order = self._generator.permutation(len(self._kept))[: max(0, count)]
        return [self._kept[place] for place in order]


def neighbour_dev(texts: tuple[str, ...], teacher: TextEncoder, *, size: int, seed: int) -> NeighbourDev:
    """Hold out texts and find the teacher's nearest neighbours among them.

    Raises:
        UserError: there are too few texts.
    """
    size = min(size, len(texts) // 5)
    if size < 20:
        raise UserError(f"Only {len(texts)} texts: too few to hold out a dev set; give at least 100.")
    chosen = np.random.default_rng([seed, 3]).permutation(len(texts))[:size]
    held_out = tuple(texts[i] for i in sorted(chosen))

    def find() -> NDArray[np.int64]:
        vectors = teacher.encode(held_out)
        return nearest(vectors, vectors, 10)

    neighbours = ranks.from_first(find)
    return NeighbourDev(held_out, neighbours.astype(np.int64))
