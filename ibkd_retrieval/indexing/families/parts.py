"""A structure in parts: faiss indexes with the same inverted lists, each with the vectors of a range of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.faiss_binding import blas_threshold, load_faiss, read_structure_file, write_structure
from ibkd_retrieval.indexing.format.integrity import damaged
from ibkd_retrieval.indexing.format.layout import TRAINED, part_file
from ibkd_retrieval.indexing.format.manifest import IndexManifest, PartEntry
from ibkd_retrieval.indexing.vectors import VectorSource
from ibkd_retrieval.indexing.vectors.exact import Found, best_of
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors
from ibkd_retrieval.progress import Progress

ADDED_AT_ONCE = 1 << 16
"""Vectors added by one call. Rotated vectors depend on it in their last bits, so every way to fill keeps to it."""

Adding = Callable[[Any, VectorSource, Progress], Any]
"""Adds all vectors to a trained index, and gives the filled one."""


class Parts:
    """Faiss indexes that are searched as one. Their ids are the rows of the whole.

    Candidates of all parts are merged by score. They are those of one structure with all vectors, except where scores
    are equal at the last place.

    Attributes:
        d: length of a vector.
        ntotal: number of vectors in all parts.
    """

    def __init__(self, opened: Sequence[Callable[[], Any]], dim: int, rows: int, *, keep: bool = True) -> None:
        """Join parts.

        Args:
            opened: gives each part, in the order of their rows.
            dim: length of a vector.
            rows: number of vectors in all parts.
            keep: whether all parts stay in memory. Otherwise all but the first are opened for each search.
        """
        self.d, self.ntotal = dim, rows
        self._opened = list(opened)
        self._keep = keep
        self._kept: dict[int, Any] = {}

    @property
    def first(self) -> Any:
        """The first part, which says what kind of structure all are."""
        return self._part(0)

    def __iter__(self) -> Iterator[Any]:
        """The parts in the order of their rows."""
        return map(self._part, range(len(self._opened)))

    def _part(self, number: int) -> Any:
        if number in self._kept:
            return self._kept[number]
        part = self._opened[number]()
        if self._keep or not number:
            self._kept[number] = part
        return part

    def search(self, queries: NDArray[np.float32], k: int, params: Any = None) -> Found:
        """The k best candidates [q, k] of all parts, as the method of a faiss index gives them."""
        found: Found = (np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
        for part in self:
            scores, rows = part.search(queries, k, params=params)
            scores[rows < 0] = -np.inf
            found = best_of(found, (scores, rows), k)
        return found

    def merged(self) -> Any:
        """One faiss index of all parts. The first part becomes it."""
        whole = self.first
        for part in islice(self, 1, None):
            # `merge_ondisk` and `add_core` with known lists lose the codes of fast-scan types.
            whole.merge_from(part, 0)
        return whole


def add_whole(index: Any, vectors: VectorSource, progress: Progress) -> Any:
    """Add all vectors in order, in blocks, and give the index.

    Raises:
        UserError: a vector is not finite.
    """
    with progress.task("Adding vectors", vectors.count, "vectors") as task:
        for shard in vectors:
            for block in _blocks(shard):
                index.add(block)
                task.advance(len(block))
    return index


def _blocks(shard: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(shard), ADDED_AT_ONCE):
        block = np.ascontiguousarray(shard[start : start + ADDED_AT_ONCE])
        check_finite(block)
        yield block


def check_finite(vectors: NDArray[np.float32]) -> None:
    """Refuse NaN and infinity, which faiss would index and never find.

    Raises:
        UserError: there is one.
    """
    if not np.isfinite(vectors).all():
        raise UserError("A vector to index is not finite (NaN or infinity): encode the corpus with `dtype='float32'`.")


@dataclass(frozen=True)
class PartPlan:
    """A part to be filled. It can be sent to another process that sees the folder.

    Attributes:
        folder: the index folder, with `layout.TRAINED`.
        counts: documents in each shard of the index.
        dim: length of a vector.
        number: number of the part.
        shards: the first of its shards, and the one after the last.
    """

    folder: str
    counts: tuple[int, ...]
    dim: int
    number: int
    shards: tuple[int, int]

    @property
    def entry(self) -> PartEntry:
        """The manifest's entry of the part."""
        first, end = self.shards
        return PartEntry(part_file(self.number), sum(self.counts[first:end]))


def fill_part(plan: PartPlan) -> PartEntry:
    """Add the vectors of a range of shards to a copy of the trained index, and write it in its place.

    Raises:
        UserError: a vector is not finite, or a shard cannot be read.
        OSError: the disk is full or fails.
    """
    write_structure(filled_part(plan), Path(plan.folder) / plan.entry.file)
    return plan.entry


def filled_part(plan: PartPlan) -> Any:
    """A copy of the trained index with the vectors of a range of shards.

    Raises:
        UserError: a vector is not finite, or a shard cannot be read.
        OSError: the disk is full or fails.
    """
    folder = Path(plan.folder)
    index = read_structure_file(folder / TRAINED)
    blas_threshold(plan.dim)  # The lists that vectors are put into depend on it in rare cases.
    (first, end), row = plan.shards, sum(plan.counts[: plan.shards[0]])
    for shard in islice(ShardVectors(folder, plan.counts, plan.dim).from_shard(first), end - first):
        for block in _blocks(shard):
            index.add_with_ids(block, np.arange(row, row + len(block)))
            row += len(block)
    return index


FillParts = Callable[[Sequence[PartPlan]], Iterator[PartEntry]]
"""Fills parts, on other machines perhaps, and gives their entries in the order in which they finish."""


def part_plans(folder: Path, counts: Sequence[int], dim: int, parts: int) -> list[PartPlan]:
    """Up to `parts` contiguous ranges of shards, of about as many vectors each."""
    ends = np.cumsum(counts)
    bounds = np.unique(np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts) + 1)
    edges = [0, *(int(bound) for bound in bounds if bound < len(counts)), len(counts)]
    return [
        PartPlan(str(folder.resolve()), tuple(counts), dim, number, shards)
        for number, shards in enumerate(pairwise(edges))
    ]


def open_parts(folder: Path, manifest: IndexManifest, memory: int | None = None) -> Parts:
    """The structure of a verified index in parts.

    Args:
        folder: the index folder.
        manifest: its manifest.
        memory: maximum bytes of all parts in memory. Larger ones are mapped where faiss can do that. Those of other
            types are read for each search, one at a time. None is no limit.

    Raises:
        UserError: the first part cannot be read. Others are read at the first search.
    """
    return _joined(folder, manifest.parts, manifest.dim, memory, partial(damaged, folder, manifest))


def _joined(
    folder: Path,
    entries: Sequence[PartEntry],
    dim: int,
    memory: int | None,
    fault: Callable[[str, str], Exception] = lambda name, what: RuntimeError(f"{name}: {what}"),
) -> Parts:
    faiss = load_faiss()
    keep = memory is None or sum((folder / entry.file).stat().st_size for entry in entries) <= memory
    flags = 0 if keep else faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    parts = [partial(_read_part, folder, entry, dim, flags, fault) for entry in entries]
    first = parts[0]()
    if not keep:
        lists = faiss.extract_index_ivf(first).invlists
        keep = isinstance(faiss.downcast_InvertedLists(lists), faiss.OnDiskInvertedLists)
    return Parts([lambda: first, *parts[1:]], dim, sum(entry.rows for entry in entries), keep=keep)


def _read_part(folder: Path, entry: PartEntry, dim: int, flags: int, fault: Callable[[str, str], Exception]) -> Any:
    try:
        index = read_structure_file(folder / entry.file, flags)
    except RuntimeError as error:
        raise fault(entry.file, "faiss cannot read it") from error
    if (index.d, index.ntotal) != (dim, entry.rows):
        found = f"it holds {index.ntotal:,} vectors of {index.d} dimensions and {entry.rows:,} of {dim} are recorded"
        raise fault(entry.file, found)
    return index


def begun_part(folder: Path, manifest: IndexManifest, added: int) -> tuple[Any, tuple[PartEntry, ...]]:
    """The faiss index for vectors that are appended to an index in parts, and the parts as they are then.

    It holds the last part, or nothing if that would make it larger than the largest part.

    Raises:
        UserError: the part cannot be read.
    """
    *before, last = manifest.parts
    index = _read_part(folder, last, manifest.dim, 0, partial(damaged, folder, manifest))
    number = max(int(Path(entry.file).stem) for entry in manifest.parts) + 1
    if last.rows + added > max(entry.rows for entry in manifest.parts):
        index.reset()
        return index, (*manifest.parts, PartEntry(part_file(number), added))
    return index, (*before, PartEntry(part_file(number), last.rows + added))


@dataclass(frozen=True)
class AddingInParts:
    """Adds the vectors of a folder's shards in parts, which are kept as files or merged in memory.

    Attributes:
        plans: the parts.
        kept: whether they stay files.
        memory: maximum bytes of all parts in memory (`open_parts`).
        fill: fills all plans, on other machines perhaps. None is one after the other in this process.
    """

    plans: Sequence[PartPlan]
    kept: bool
    memory: int | None = None
    fill: FillParts | None = None

    def __call__(self, index: Any, vectors: VectorSource, progress: Progress) -> Any:
        """Fill the parts with `vectors`, which are those of the shards.

        Returns:
            The parts, or the one index of all.
        """
        folder = Path(self.plans[0].folder)
        (folder / TRAINED).parent.mkdir(exist_ok=True)
        for plan in self.plans:
            (folder / plan.entry.file).unlink(missing_ok=True)
        write_structure(index, folder / TRAINED)
        filled = map(fill_part, self.plans) if self.fill is None else self.fill(self.plans)
        with progress.task("Adding vectors", vectors.count, "vectors") as task:
            for entry in filled:
                task.advance(entry.rows)
        parts = _joined(folder, [plan.entry for plan in self.plans], vectors.dim, self.memory if self.kept else None)
        return parts if self.kept else parts.merged()
