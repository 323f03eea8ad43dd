"""Batches of texts of similar length, with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

DEFAULT_BATCH_TOKENS = 4096
_GPU_BATCH_TOKENS = 65536


def default_batch_tokens(device: str) -> int:
    """Return the default number of tokens in a batch: 4,096 on a CPU, where they fit the caches, and more on a GPU.

    On a GPU, a forward pass of a small model is hundreds of kernel launches of a few microseconds each. Small batches
    would leave it idle.
    """
    return _GPU_BATCH_TOKENS if device.startswith("cuda") else DEFAULT_BATCH_TOKENS


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[NDArray[np.int64]]:
    """Group positions by length so that no batch, padded to its longest text, exceeds `budget` tokens.

    The longest texts come first, so that a lack of memory shows at once. A text longer than the budget is its own
    batch.

    Args:
        lengths: the number of tokens of each text, [n].
        budget: the most tokens in a batch, with padding.

    Yields:
        Positions in `lengths`. Every position is in exactly one batch.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        size = max(1, budget // longest)
        yield order[start : start + size]
        start += size
