"""A cross-encoder's scores of query and passage, computed once and kept."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.teacher.cache import KeyIndex, text_keys
from ibkd_retrieval.encoders.cross_encoder import load_pair_scorer
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.progress import SILENT, Progress

_SHARD = 4096


def _keys(pairs: Sequence[tuple[str, str]]) -> NDArray[np.uint64]:
    return text_keys([f"{len(query)} {query}{passage}" for query, passage in pairs])


class CrossEncoderScores:
    """Scores of a cross-encoder by query and passage, in a folder of shards.

    A shard is `NNNNN.npz` with `keys` (128-bit hashes, [n, 2] uint64) and `scores` (float32 [n]), written whole.
    """

    def __init__(self, name: str, folder: Path, *, device: str, max_length: int) -> None:
        """Load the model and open what it scored before.

        Args:
            name: folder or hub name of a cross-encoder that gives one score.
            folder: below which each model has a folder.
            device: where to compute.
            max_length: tokens read of query and passage together.

        Raises:
            UserError: it cannot be loaded or gives more than one score, or a shard is damaged.
        """
        self._scorer = load_pair_scorer(name, max_length=max_length, device=device)
        self.weight_hash = self._scorer.weight_hash
        self._folder = folder / self.weight_hash[:16]
        self._shards = [self._read(path) for path in sorted(self._folder.glob("[0-9]*.npz"))]

    def scores(self, pairs: Sequence[tuple[str, str]], progress: Progress = SILENT) -> NDArray[np.float32]:
        """The raw score of each (query, passage), [n]; what is missing is computed first."""
        windows = (pairs[start : start + _SHARD] for start in range(0, len(pairs), _SHARD))
        keys = np.concatenate([np.empty((0, 2), np.uint64), *map(_keys, windows)])
        _, first = np.unique(keys, axis=0, return_index=True)
        missing = first[self._index().find(keys[first]) < 0]
        missing = missing[np.argsort([len(pairs[i][0]) + len(pairs[i][1]) for i in missing], kind="stable")]
        if len(missing):
            with progress.task("cross-encoder scores", len(missing), "pairs") as task:
                for start in range(0, len(missing), _SHARD):
                    part = missing[start : start + _SHARD]
                    self._append(keys[part], self._scorer.score([pairs[i] for i in part], task))
        every = np.concatenate([shard["scores"] for shard in self._shards])
        return every[self._index().find(keys)]

    def _read(self, path: Path) -> dict[str, NDArray[Any]]:
        try:
            with np.load(path, allow_pickle=False) as shard:
                keys, scores = shard["keys"], shard["scores"]
            if keys.shape != (len(scores), 2):
                raise ValueError("it has not one score a key")
        except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is damaged: delete {self._folder} and run again to rebuild it.") from error
        return {"keys": keys, "scores": scores}

    def _index(self) -> KeyIndex:
        return KeyIndex(np.concatenate([np.empty((0, 2), np.uint64), *(shard["keys"] for shard in self._shards)]))

    def _append(self, keys: NDArray[np.uint64], scores: NDArray[np.float32]) -> None:
        with atomic_write(self._folder / f"{len(self._shards):05d}.npz") as file:
            np.savez(file, keys=keys, scores=scores)
        self._shards.append({"keys": keys, "scores": scores})
