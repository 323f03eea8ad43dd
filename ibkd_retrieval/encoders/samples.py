"""As many texts as an encoder has to be timed on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder

# With fewer, much of a run is its last batches, which are computed one by one.
_BATCHES_A_LANE = 4


def filling_lanes(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Texts over and over, until an encoder computes most of them side by side as it does those of a corpus.

    Where it computes batch after batch, and where they are many already, each text is there once.
    """
    if encoder.batches_at_once == 1 or not texts:
        return list(texts)
    batches = _BATCHES_A_LANE * encoder.batches_at_once + 1
    tokens_each = max(1.0, sum(encoder.token_counts(texts)) / len(texts))
    wanted = math.ceil(batches * encoder.batch_tokens / tokens_each)
    return list(islice(cycle(texts), max(len(texts), wanted)))
