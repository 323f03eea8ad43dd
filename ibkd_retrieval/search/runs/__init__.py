"""Ranked results: a hit, and the run of many queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.runs.doc_ids import Ids, as_ids, empty_ids

if TYPE_CHECKING:
    import pandas as pd

    from ibkd_retrieval.search.runs.run_metadata import RunOrigin


RunFormat = Literal["trec", "msmarco"]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result. Two hits are equal if rank, score and id are.

    Attributes:
        rank: rank, counted from 1.
        score: score. Higher is better.
        doc_id: id of the document.
        source: the document, or a function that reads it. None if no text is stored.
    """

    rank: int
    score: float
    doc_id: str
    source: Document | Callable[[], Document] | None = field(compare=False)

    @property
    def document(self) -> Document | None:
        """The document. It is read each time, unless it is in memory: of thousands of fused hits only ten are shown."""
        return self.source() if callable(self.source) else self.source

    def read(self) -> Hit:
        """The same hit with its document in memory."""
        return replace(self, source=self.document)


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """Ranked documents of many queries, one after the other in flat arrays.

    The results of query i are `doc_ids[offsets[i]:offsets[i + 1]]` and the same slice of `scores`. The order is
    trec_eval's: score descending, then document id descending. trec_eval compares scores as float32, so scores are
    rounded to float32. `Run.from_lists` and `read_run` ensure all of that. The plain constructor checks nothing.

    Attributes:
        query_ids: q different ids.
        offsets: int64 [q + 1], ascending from 0.
        doc_ids: document ids, StringDType [n] (see `doc_ids`). No document appears twice for a query.
        scores: float64 [n], finite.
        tag: name of the system, which is the last column of a TREC file.
        origin: what was searched, and how. None if it is not known.
    """

    query_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    doc_ids: Ids
    scores: Scores
    tag: str = "ibkd"
    origin: RunOrigin | None = None

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.query_ids)

    def __iter__(self) -> Iterator[tuple[str, Ids, Scores]]:
        """Each query with its documents and scores, best first."""
        for query_id, start, stop in zip(self.query_ids, self.offsets[:-1], self.offsets[1:], strict=True):
            yield query_id, self.doc_ids[start:stop], self.scores[start:stop]

    def __getitem__(self, query_id: str) -> dict[str, float]:
        """The scores of one query's documents by id, best first.

        Raises:
            KeyError: there is no such query.
        """
        try:
            place = self.query_ids.index(query_id)
        except ValueError:
            raise KeyError(query_id) from None
        window = slice(self.offsets[place], self.offsets[place + 1])
        return dict(zip(self.doc_ids[window].tolist(), self.scores[window].tolist(), strict=True))

    def __repr__(self) -> str:
        return f"<run {self.tag}: {len(self):,} queries, {len(self.doc_ids):,} results>"

    def to_pandas(self) -> pd.DataFrame:
        """A table with a row per result and the columns query_id, rank, doc_id and score."""
        import pandas as pd

        counts = np.diff(self.offsets)
        queries = np.repeat(np.array(self.query_ids, dtype=object), counts)
        columns = {"query_id": queries, "rank": self.places + 1, "doc_id": self.doc_ids.tolist(), "score": self.scores}
        return pd.DataFrame(columns)

    def save(self, path: Path | str, format: RunFormat = "trec") -> None:
        """Write the run to a file (`write_run`), which `read_run` reads.

        If the origin of the run is known, it is written to `PATH.metadata.yaml` beside it.

        Args:
            path: the file. It is compressed if the name ends in `.gz`.
            format: "trec" or "msmarco".

        Raises:
            UserError: the format is unknown, or an id contains white space.
        """
        from ibkd_retrieval.search.runs.run_files import write_run

        write_run(self, path, format)
        if self.origin is not None:
            from ibkd_retrieval.search.runs.run_metadata import run_metadata, write_run_metadata

            write_run_metadata(Path(path), run_metadata(self, self.origin))

    @property
    def places(self) -> NDArray[np.int64]:
        """Each result's place in its query's list, counted from 0, [n]."""
        return np.arange(len(self.scores)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    def first(self, k: int) -> Run:
        """The first k documents of each query."""
        kept = self.places < k
        offsets = np.append(0, np.diff(self.offsets).clip(max=k).cumsum()).astype(np.int64)
        return Run(self.query_ids, offsets, self.doc_ids[kept], self.scores[kept], self.tag)

    @classmethod
    def from_lists(
        cls,
        query_ids: Sequence[str],
        doc_ids: Sequence[Sequence[str]],
        scores: Sequence[Sequence[float] | NDArray[Any]],
        tag: str = "ibkd",
    ) -> Run:
        """Build a run from a list of results per query, in any order.

        Args:
            query_ids: q different ids.
            doc_ids: the ids of each query's documents. A list may be empty.
            scores: a score for each of these documents. Higher is better.
            tag: name of the system.

        Raises:
            UserError: a query or a query's document appears twice, the lengths differ, a score is not finite, or an
                id is not text.
        """
        if not len(query_ids) == len(doc_ids) == len(scores):
            raise UserError(
                f"A run needs documents and scores for each query: got {len(query_ids)} queries, {len(doc_ids)} lists "
                f"of documents and {len(scores)} lists of scores."
            )
        if len(set(query_ids)) != len(query_ids):
            raise UserError(f"Query {first_repeated(query_ids)} appears twice in the run: give each query one list.")
        offsets = np.zeros(len(query_ids) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in doc_ids], out=offsets[1:])
        flat_ids = empty_ids(int(offsets[-1]))
        flat_scores = np.empty(int(offsets[-1]), dtype=np.float64)
        for row, (query_id, ids, values) in enumerate(zip(query_ids, doc_ids, scores, strict=True)):
            if len(ids) != len(values):
                raise UserError(
                    f"Query {query_id} has {len(ids)} documents and {len(values)} scores: give one score each."
                )
            if len(set(ids)) != len(ids):
                raise UserError(
                    f"Document {first_repeated(ids)} appears twice for query {query_id}: keep its best score only."
                )
            single = as_float32(np.asarray(values, dtype=np.float64))
            if not np.isfinite(single).all():
                bad = int(np.flatnonzero(~np.isfinite(single))[0])
                raise UserError(
                    f"Query {query_id} gives document {ids[bad]} the score {values[bad]}: scores must be finite "
                    "float32 numbers, since nothing can be ranked by others."
                )
            window = slice(offsets[row], offsets[row + 1])
            flat_ids[window], flat_scores[window] = in_rank_order(as_ids(ids), single)
        return cls(tuple(query_ids), offsets, flat_ids, flat_scores, tag)

    @classmethod
    def from_matrix(cls, query_ids: Sequence[str], doc_ids: Ids, scores: NDArray[np.float32], tag: str = "ibkd") -> Run:
        """Build a run from the results of an index: different documents in each row, in descending order of score.

        Args:
            query_ids: q different ids.
            doc_ids: [q, k]. Ids whose score is -inf are ignored.
            scores: float32 [q, k], not increasing. -inf fills the end of a row with fewer than k results.
            tag: name of the system.
        """
        found = scores > -np.inf
        offsets = np.concatenate([[0], np.cumsum(np.count_nonzero(found, axis=1))]).astype(np.int64)
        if found.all():
            flat_ids, flat_scores = doc_ids.reshape(-1), scores.reshape(-1).astype(np.float64)
        else:
            flat_ids, flat_scores = doc_ids[found], scores[found].astype(np.float64)
        tied = np.flatnonzero(((scores[:, 1:] == scores[:, :-1]) & found[:, 1:]).any(axis=1))
        for query in tied:
            window = slice(offsets[query], offsets[query + 1])
            flat_ids[window], flat_scores[window] = in_rank_order(flat_ids[window], scores[query][found[query]])
        return cls(tuple(query_ids), offsets, flat_ids, flat_scores, tag)


def as_float32(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round to float32, the precision of trec_eval. Scores outside its range become infinite, without a warning."""
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)


def in_rank_order(doc_ids: Ids, scores: NDArray[np.float32]) -> tuple[Ids, Scores]:
    """Sort one query's documents [n] by score descending, then by document id descending, as trec_eval does.

    Code points order strings as trec_eval's strcmp orders their UTF-8 bytes.
    """
    if len(scores) > 1 and not (scores[1:] < scores[:-1]).all():
        order = np.argsort(-scores, kind="stable")
        doc_ids, scores = doc_ids[order], scores[order]
        ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) + 1
        starts = np.append(0, ends[:-1])
        for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
            doc_ids[start:end] = sorted(doc_ids[start:end].tolist(), reverse=True)
    return doc_ids, scores.astype(np.float64)


def strictly_decreasing(scores: Scores) -> NDArray[np.float32]:
    """Lower tied scores by the smallest step of float32, so that every tool sees the same order.

    Args:
        scores: float32 values [n], descending.

    Returns:
        float32 [n], strictly decreasing. Entry i is at most `scores[i]`, except at the end of float32's range.
    """
    # Floats of one sign, read as integers, are in order, and neighbours differ by 1. Subnormal numbers become 0: some
    # processes flush them to 0, which would make ties of them again.
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32).astype(np.int64)
    magnitude = np.maximum((bits & 0x7FFFFFFF) - 0x007FFFFF, 0)
    keys = np.where(bits < 0, -magnitude, magnitude)
    steps = np.arange(len(keys))
    keys = np.minimum.accumulate(keys + steps) - steps
    lowest = -(0x7F7FFFFF - 0x007FFFFF)
    keys = np.maximum(keys, lowest + steps[::-1])
    magnitude = np.where(keys == 0, 0, np.abs(keys) + 0x007FFFFF)
    return np.where(keys < 0, magnitude | 0x80000000, magnitude).astype(np.uint32).view(np.float32)


def first_repeated(values: Sequence[str]) -> str:
    """The first value that equals an earlier one."""
    seen: set[str] = set()
    return next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]
