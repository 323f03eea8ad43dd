"""A cross-encoder's scores of query and passage, computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.teacher_cache import KeyIndex, text_keys
from ibkd_retrieval.encoders.loading import quiet_transformers
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_SHARD = 4096


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
            UserError: it cannot be loaded, or gives more than one score.
        """
        import torch
        from sentence_transformers import CrossEncoder

        try:
            with quiet_transformers():
                self._model = CrossEncoder(name, device=device, max_length=max_length)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
            raise UserError(f"Cannot load the cross-encoder `{name}` of --soft-labels: {reason}.") from error
        if not any("SequenceClassification" in name for name in self._model.config.architectures or ()):
            # Loaded all the same, with a head of random numbers.
            raise UserError(f"`{name}` of --soft-labels is no cross-encoder: give a re-ranker, or `teacher`.")
        if self._model.num_labels != 1:
            raise UserError(f"`{name}` gives {self._model.num_labels} scores, not one: give a re-ranker.")
        self._activation = torch.nn.Identity()
        self.weight_hash = _weights_digest(self._model, max_length)
        self._folder = folder / self.weight_hash[:16]
        self._shards = [dict(np.load(path, allow_pickle=False)) for path in sorted(self._folder.glob("[0-9]*.npz"))]

    def scores(self, pairs: Sequence[tuple[str, str]], progress: Progress = SILENT) -> NDArray[np.float32]:
        """The raw score of each (query, passage), [n]; what is missing is computed first."""
        keys = text_keys([f"{len(query)} {query}{passage}" for query, passage in pairs])
        _, first = np.unique(keys, axis=0, return_index=True)
        missing = first[self._index().find(keys[first]) < 0]
        missing = missing[np.argsort([len(pairs[i][0]) + len(pairs[i][1]) for i in missing], kind="stable")]
        if len(missing):
            with progress.task("cross-encoder scores", len(missing), "pairs") as task:
                for start in range(0, len(missing), _SHARD):
                    part = missing[start : start + _SHARD]
                    self._append(keys[part], self._predict([pairs[i] for i in part]))
                    task.advance(len(part))
        every = np.concatenate([shard["scores"] for shard in self._shards])
        return every[self._index().find(keys)]

    def _predict(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        found = self._model.predict(pairs, activation_fn=self._activation, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    def _index(self) -> KeyIndex:
        return KeyIndex(np.concatenate([np.empty((0, 2), np.uint64), *(shard["keys"] for shard in self._shards)]))

    def _append(self, keys: NDArray[np.uint64], scores: NDArray[np.float32]) -> None:
        with atomic_write(self._folder / f"{len(self._shards):05d}.npz") as file:
            np.savez(file, keys=keys, scores=scores)
        self._shards.append({"keys": keys, "scores": scores})


def _weights_digest(model: CrossEncoder, max_length: int) -> str:
    digest = hashlib.sha256(f"{type(model.model).__name__} {max_length}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()
