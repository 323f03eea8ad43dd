"""Batches of texts laid end to end, without padding, and attention within each text."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from numpy.typing import NDArray
from torch import Tensor


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Group adjacent texts of equal length: first token, number of texts and length. Every token is in one group."""
    start = first = 0
    for number in range(1, len(lengths) + 1):
        if number == len(lengths) or lengths[number] != lengths[first]:
            count = number - first
            if lengths[first]:
                yield start, count, lengths[first]
            start += count * lengths[first]
            first = number


def attend_in_runs(inputs: Tensor, lengths: Sequence[int], heads: int, bias: Tensor | None) -> Tensor:
    """Call torch's fused attention once for each group of adjacent texts of equal length, without a mask.

    Args:
        inputs: queries, keys and values of all tokens, [tokens, 3 * width].
        lengths: the number of tokens of each text, in order. Texts of equal length are best adjacent.
        heads: the number of attention heads.
        bias: the term added to scores by the distance of tokens, [1, heads, longest, longest], or None.

    Returns:
        The attention output, [tokens, width].
    """
    parts = []
    for start, count, length in runs(lengths):
        part = inputs[start : start + count * length].view(count, length, 3, heads, -1)
        queries, keys, values = part.permute(2, 0, 3, 1, 4).unbind(0)
        # The bias depends only on the distance of two tokens, so a shorter text uses a part of it.
        mask = None if bias is None else bias[:, :, :length, :length].expand(count, -1, -1, -1)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        parts.append(mixed.transpose(1, 2).reshape(count * length, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attend_varlen(inputs: Tensor, bounds: Tensor, longest: int, heads: int) -> Tensor:
    """Call flash attention once over texts of any length, on a GPU in a half format.

    Args:
        inputs: queries, keys and values of all tokens, [tokens, 3 * width].
        bounds: int32 [texts + 1], the start of each text and the end of the last.
        longest: the number of tokens of the longest text.
        heads: the number of attention heads.
    """
    from torch.nn.attention.varlen import varlen_attn

    queries, keys, values = inputs.view(inputs.shape[0], 3, heads, -1).unbind(1)
    mixed = varlen_attn(queries, keys, values, bounds, bounds, longest, longest)
    assert isinstance(mixed, Tensor)  # It returns a pair only with further options.
    return mixed.reshape(inputs.shape[0], -1)


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `attend_varlen` runs here: on GPUs since Ampere, in half formats."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or torch.version.cuda is None:
        return False
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:  # It came with torch 2.10.
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def places_in_padded(lengths: Sequence[int], longest: int) -> NDArray[np.int64]:
    """Return the flat position of each packed token in the padded batch [n, longest], [tokens]."""
    counts = np.asarray(lengths, dtype=np.int64)
    begins = np.cumsum(counts) - counts
    rows = np.arange(len(counts), dtype=np.int64) * longest
    places: NDArray[np.int64] = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(rows - begins, counts)
    return places
