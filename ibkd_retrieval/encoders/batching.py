"""How texts of unequal length are put into batches with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

DEFAULT_BATCH_TOKENS = 4096
_GPU_BATCH_TOKENS = 65536


def default_batch_tokens(device: str) -> int:
    """Tokens in a batch: what keeps a processor's caches in use, or all of a GPU at work for some milliseconds.

    On a GPU a forward pass of a small model is some hundred launches of a few microseconds each, and 4,096 tokens are
    computed in less.
    """
    return _GPU_BATCH_TOKENS if device.startswith("cuda") else DEFAULT_BATCH_TOKENS


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[NDArray[np.int64]]:
    """Group positions by length so that no batch, padded to its longest text, exceeds `budget` tokens.

    The longest texts come first, so that a run that is going to be short of memory is so at once.
    A single text longer than the budget is a batch of its own.

    Args:
        lengths: tokens of each text, [n].
        budget: most tokens in a batch, padding counted.

    Yields:
        Positions into `lengths`; together every position exactly once.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        size = max(1, budget // longest)
        yield order[start : start + size]
        start += size
