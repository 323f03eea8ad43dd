"""Texts laid end to end, so that a batch has no padding, and attention among the tokens of each text alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from numpy.typing import NDArray
from torch import Tensor


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of equal length: first token, how many texts, and their length; all tokens exactly once."""
    start = first = 0
    for number in range(1, len(lengths) + 1):
        if number == len(lengths) or lengths[number] != lengths[first]:
            count = number - first
            if lengths[first]:
                yield start, count, lengths[first]
            start += count * lengths[first]
            first = number


def attend_in_runs(inputs: Tensor, lengths: Sequence[int], heads: int, bias: Tensor | None) -> Tensor:
    """Torch's fused attention, called once for each run of texts of equal length, so that nothing need be masked.

    Args:
        inputs: queries, keys and values of all tokens, [tokens, 3 * width].
        lengths: tokens of each text, in order; equal ones are best neighbours.
        heads: of attention.
        bias: added to the scores of tokens by their distance, [1, heads, longest, longest] or None.

    Returns:
        [tokens, width].
    """
    parts = []
    for start, count, length in runs(lengths):
        part = inputs[start : start + count * length].view(count, length, 3, heads, -1)
        queries, keys, values = part.permute(2, 0, 3, 1, 4).unbind(0)
        # What depends on the distance of two tokens alone is the same in a shorter text.
        mask = None if bias is None else bias[:, :, :length, :length].expand(count, -1, -1, -1)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        parts.append(mixed.transpose(1, 2).reshape(count * length, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attend_varlen(inputs: Tensor, bounds: Tensor, longest: int, heads: int) -> Tensor:
    """Flash attention over texts of any lengths in one call, on a GPU in a half format.

    Args:
        inputs: queries, keys and values of all tokens, [tokens, 3 * width].
        bounds: int32 [texts + 1], where each text begins, and where the last ends.
        longest: tokens of the longest text.
        heads: of attention.
    """
    from torch.nn.attention.varlen import varlen_attn

    queries, keys, values = inputs.view(inputs.shape[0], 3, heads, -1).unbind(1)
    mixed = varlen_attn(queries, keys, values, bounds, bounds, longest, longest)
    assert isinstance(mixed, Tensor)  # A pair only where more is asked for.
    return mixed.reshape(inputs.shape[0], -1)


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `attend_varlen` runs: on GPUs since Ampere, in half formats."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or torch.version.cuda is None:
        return False
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:  # It came with torch 2.10.
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def places_in_padded(lengths: Sequence[int], longest: int) -> NDArray[np.int64]:
    """Where each token of packed texts stands among the n * longest places of padded ones, [tokens]."""
    counts = np.asarray(lengths, dtype=np.int64)
    begins = np.cumsum(counts) - counts
    rows = np.arange(len(counts), dtype=np.int64) * longest
    places: NDArray[np.int64] = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(rows - begins, counts)
    return places
