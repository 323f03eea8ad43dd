"""Which texts each step sees: decided by the seed and the step alone, so that a resumed run sees the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Most batches sorted together by length: larger means less padding and less mixing.
_GROUP = 32
# Groups in an epoch, where it has as many batches: in a single one, sorting would undo the draw, and the same texts
# would meet in every epoch.
_LEAST_GROUPS = 8


class BatchSchedule:
    """Endless epochs of length-grouped batches.

    Args:
        lengths: tokens of each text [n].
        batch_size: texts a step; what is left over in an epoch, drawn anew in each, is left out.
        seed: of every draw.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self.steps_per_epoch = len(lengths) // batch_size
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def batch(self, step: int) -> NDArray[np.int64]:
        """Positions of the texts of a step counted from 0, [batch_size]."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[position]

    def bank(self, step: int, size: int, rows: int) -> NDArray[np.int64]:
        """`size` different positions below `rows`, all of them where there are no more, for a step."""
        if size >= rows:
            return np.arange(rows)
        return np.random.default_rng([self._seed, 1, step]).choice(rows, size=size, replace=False)

    def _draw(self, epoch: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng([self._seed, 0, epoch])
        # Cut before sorting: what is left over are then not always the longest texts.
        order = generator.permutation(len(self._lengths))[: self.steps_per_epoch * self._batch_size]
        group = self._batch_size * max(1, min(_GROUP, self.steps_per_epoch // _LEAST_GROUPS))
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), group):
            part = order[start : start + group]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            batches += [part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]
