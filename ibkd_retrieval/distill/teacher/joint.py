"""Several teachers as one: their unit vectors are concatenated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.weights import ParameterCount
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import Kind
    from ibkd_retrieval.progress import Task


def side_by_side(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Concatenate the vectors [n, D_k] of all teachers, each normalised and scaled, to vectors of unit length."""
    units = [
        part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.finfo(np.float32).tiny) for part in parts
    ]
    return (np.concatenate(units, axis=1) / math.sqrt(len(parts))).astype(np.float32)


_LARGE = 1 << 30
"""The bytes of weights from which loading them twice is better than holding them while the student is trained."""


def release_large(teacher: object) -> None:
    """Free the weights of a large teacher until it has to encode again."""
    if isinstance(teacher, Encoder | JointTeacher) and teacher.held_bytes > _LARGE:
        teacher.release()


class JointTeacher:
    """Encoders joined into one `TextEncoder`. An inner product of its vectors is the mean of their cosines."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        first = encoders[0]
        self._encoders = tuple(encoders)
        self.name = " + ".join(encoder.name for encoder in encoders)
        self.weight_hash = hashlib.sha256(" ".join(e.weight_hash for e in encoders).encode()).hexdigest()
        self.dim = sum(encoder.dim for encoder in encoders)
        self.max_length = max(encoder.max_length for encoder in encoders)
        self.pooling = first.pooling
        self.dtype, self.device = first.dtype, first.device
        kinds: tuple[Kind, Kind] = ("query", "document")
        self.prompts: Mapping[str, str] = {kind: " | ".join(e.prompts[kind] for e in encoders) for kind in kinds}
        parts = ("embedding", "transformer")
        self.parameters = ParameterCount({part: sum(e.parameters[part] for e in encoders) for part in parts})

    @property
    def held_bytes(self) -> int:
        """The bytes of the weights that are in memory now."""
        return sum(encoder.held_bytes for encoder in self._encoders)

    def release(self) -> None:
        """Free the weights of all teachers. They are loaded again for the next text."""
        for encoder in self._encoders:
            encoder.release()

    def encode(
        self, texts: Sequence[str], kind: Kind = "document", progress: Task | None = None
    ) -> NDArray[np.float32]:
        """Encode with each teacher, [n, sum of dims]. `progress` follows the last one."""
        last = self._encoders[-1]
        return side_by_side([e.encode(texts, kind, progress if e is last else None) for e in self._encoders])


class JointCache:
    """The caches of several teachers, read as one."""

    def __init__(self, caches: Sequence[TeacherCache], teacher: JointTeacher) -> None:
        self.teacher = teacher
        self._caches = tuple(caches)
        self._places = np.empty((0, len(caches)), dtype=np.int64)

    @property
    def folder(self) -> Path:
        """The folder of results that belong to all teachers, beside the first teacher's cache."""
        return self._caches[0].folder.with_name(f"joint-{self.teacher.weight_hash[:12]}-{self.teacher.dtype}")

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.teacher.dim

    def rows(self, texts: Sequence[str], kind: Kind = "document", progress: Progress = SILENT) -> NDArray[np.int64]:
        """The positions [n] of the texts' vectors. They are equal if all teachers read the same text."""
        found = np.stack([cache.rows(texts, kind, progress) for cache in self._caches], axis=1)
        self._places = np.concatenate([self._places, found])
        _, first, inverse = np.unique(self._places, axis=0, return_index=True, return_inverse=True)
        return first[inverse.reshape(-1)][len(self._places) - len(found) :].astype(np.int64)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The unit vectors [n, sum of dims] at positions [n]."""
        parts = [cache.vectors(self._places[rows, number]) for number, cache in enumerate(self._caches)]
        return side_by_side(parts)
