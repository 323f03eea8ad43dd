"""The memory budget of a build, and the sizes that keep within it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ibkd_retrieval.errors import UserError

DEFAULT_SHARD_SIZE = 8192
MOST_SHARDS = 30_000
"""Shards up to which a corpus of known size is cut. A search maps a file for each, and a process may map 65,530."""
FEWEST_DOCUMENTS = 64
"""Minimum shard size under a small budget. Below it, the cost of files dominates."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGT]I?|)B?\s*", re.IGNORECASE)

_TEXT_SHARE = 4
"""A shard is closed when its text takes this share (1 in 4) of its memory."""

_LEAST_TEXT, _MOST_TEXT = 1 << 16, 1 << 25
"""Bounds of the characters at which a shard of up to 8,192 documents is closed."""

_RESERVE = 32 << 20
"""Bytes left over for what is loaded later, such as faiss, and for freed memory that the allocator keeps."""

_STAGES = 3
"""Shards in progress: one is read, one encoded, one written. Each queue between holds `depth` more."""


def parse_size(text: str) -> int:
    """Bytes from "512MB", "2GB", "1.5GiB" or a plain number; K, M and G are powers of 1,000.

    Raises:
        UserError: the text is not a size, or is zero.
    """
    match = _SIZE.fullmatch(text)
    size = int(float(match["number"]) * _UNITS[match["unit"].upper()]) if match else 0
    if size <= 0:
        raise UserError(f"`memory` is {text!r}, which is not a size: give one such as 512MB or 2GB.")
    return size


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's if lower."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                most = min(most, int(file.read()))
        except (OSError, ValueError):
            continue  # No control groups here, or no limit ("max").
    return most


def resident_bytes() -> int:
    """Memory that this process uses now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory_bytes()


def peak_memory_bytes() -> int:
    """Peak memory of this process, or of its parent before the fork if higher."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@dataclass(frozen=True)
class MemoryPlan:
    """Sizes that follow from a memory budget.

    Attributes:
        limit: the budget in bytes.
        shard_size: maximum number of documents in a shard.
        shard_text: maximum number of characters in a shard, which bounds shards of long documents. None is no
            limit.
        depth: maximum number of shards that wait between two stages.
        batch_tokens: maximum number of tokens in a batch.
        asked: whether the user set the budget. Work beyond it is then refused.
    """

    limit: int
    shard_size: int
    shard_text: int | None
    depth: int
    batch_tokens: int
    asked: bool = False

    @classmethod
    def unlimited(cls, shard_size: int = DEFAULT_SHARD_SIZE) -> MemoryPlan:
        """The plan of a caller that sets no budget."""
        return cls(machine_memory(), shard_size, None, 1, 0)

    @property
    def readers(self) -> int:
        """Number of processes that read a file at once. A budget does not count them: it has none."""
        return 0 if self.asked else max(1, (os.cpu_count() or 1) // 2)

    @property
    def structure_limit(self) -> int | None:
        """Maximum size in bytes of the search structure. None is no limit."""
        return self.limit if self.asked else None


def plan_memory(
    limit: int | None,
    *,
    dim: int,
    batch_tokens: int,
    shard_size: int | None = None,
    resident: int | None = None,
    workers: int = 1,
    batches: int = 1,
    width: int | None = None,
    documents: int | None = None,
) -> MemoryPlan:
    """Choose sizes for encoding within `limit` bytes.

    The memory in use (the model and the libraries are loaded), a reserve and the batch being encoded are subtracted
    from the limit. The rest is divided among the shards in progress. The plan leaves out what grows with the corpus:
    eight bytes per document for the ids, and the memory of the search structure.

    Args:
        limit: budget in bytes for this process and its encoder processes. None is a quarter of the machine's memory.
        dim: dimension of the vectors.
        batch_tokens: maximum number of tokens in a batch, reduced if the limit requires it.
        shard_size: the user's shard size. None is 8,192, more for a corpus that would have too many shards, or less
            under a low limit.
        resident: bytes in use already. None measures them.
        workers: number of encoder processes. Each takes as much memory as this one. 1 encodes in this process.
        batches: number of batches in memory at once, in all processes together.
        width: dimension of the token states of the encoder, if the vectors are cut. None is `dim`.
        documents: number of documents in the corpus, or an estimate. None if it is unknown.

    Raises:
        UserError: the limit leaves no room for the smallest shards.
    """
    asked = limit is not None
    limit = machine_memory() // 4 if limit is None else limit
    resident = resident_bytes() if resident is None else resident
    processes = 1 if workers == 1 else workers + 1
    batches, width = max(batches, workers), width or dim
    free = limit - processes * (resident + _RESERVE)
    while batches * _batch_bytes(batch_tokens, width) > free // 2 and batch_tokens > 512:
        batch_tokens //= 2
    free -= batches * _batch_bytes(batch_tokens, width)
    most = max(DEFAULT_SHARD_SIZE, least_shard_size(documents or 0))
    for depth, least in ((2, shard_size or most), (1, shard_size or FEWEST_DOCUMENTS)):
        in_flight = _STAGES + 2 * depth + (workers - 1)
        share = free // in_flight
        fits = (share - max(share // _TEXT_SHARE, 3 * _LEAST_TEXT)) // _document_bytes(dim)
        if fits >= least:
            size = shard_size or min(_power_of_two(fits), most)
            # Text is held with its tokens and, while written, once more: a third of its share is for itself.
            text = min(
                _power_of_two(max(_LEAST_TEXT, share // _TEXT_SHARE // 3)), _MOST_TEXT * most // DEFAULT_SHARD_SIZE
            )
            return MemoryPlan(limit, size, text, depth, batch_tokens, asked)
    smallest = _document_bytes(dim) * (shard_size or FEWEST_DOCUMENTS)
    least = (_STAGES + 1 + workers) * max(smallest * 4 // 3, smallest + 3 * _LEAST_TEXT)
    needed = processes * (resident + _RESERVE) + batches * _batch_bytes(batch_tokens, width) + least
    raise UserError(
        f"`memory={limit / 1e6:.0f}MB` is too little: the loaded model and libraries, a batch and the smallest shards "
        f"take {needed / 1e6:,.0f}MB{' in all processes' if workers > 1 else ''}; give more, or a smaller "
        f"{'`shard_size`, ' if shard_size else ''}`batch_tokens` or model."
    )


def least_shard_size(documents: int) -> int:
    """The smallest power of two that cuts a corpus into at most 30,000 shards."""
    return 1 << (-(-documents // MOST_SHARDS) - 1).bit_length() if documents else 1


def _power_of_two(number: int) -> int:
    """The largest power of two up to `number`. Memory in use differs slightly between runs, shards should not."""
    return 1 << (number.bit_length() - 1)


def _batch_bytes(tokens: int, width: int) -> int:
    """A transformer's intermediate results: about 32 arrays of the hidden size in float32, attention included."""
    return tokens * width * 4 * 32


def _document_bytes(dim: int) -> int:
    """Memory of a document: its vector as encoded and as stored, and the objects around its text."""
    return 8 * dim + 1024
