"""Texts laid end to end."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.encoders.backends.packing import attend_in_runs, has_varlen, places_in_padded, runs


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_runs_hold_every_token_once_and_in_order(lengths):
    found = list(runs(lengths))
    assert [length for _, count, length in found for _ in range(count)] == [each for each in lengths if each]
    ends = [start + count * length for start, count, length in found]
    assert [start for start, _, _ in found] == [0, *ends][: len(found)]
    assert not found or ends[-1] == sum(lengths)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_every_token_has_its_place_among_padded_ones(lengths):
    longest = max(1, *lengths)
    padded = np.full(len(lengths) * longest, -1)
    padded[places_in_padded(lengths, longest)] = np.arange(sum(lengths))
    rows = [row[row >= 0].tolist() for row in padded.reshape(-1, longest)]
    assert [token for row in rows for token in row] == list(range(sum(lengths)))
    assert list(map(len, rows)) == lengths
    assert all((row[: len(kept)] >= 0).all() for row, kept in zip(padded.reshape(-1, longest), rows, strict=True))


def test_attention_stays_within_each_text_and_adds_the_bias_of_its_length():
    generator = torch.Generator().manual_seed(0)
    lengths, heads, width = [7, 5, 5, 2], 2, 8
    inputs = torch.randn(sum(lengths), 3 * width, generator=generator)
    distances = torch.randn(heads, 13, generator=generator)
    numbers = torch.arange(7)
    bias = distances[:, numbers[None] - numbers[:, None] + 6][None]
    got = attend_in_runs(inputs, lengths, heads, bias)
    for part, mixed in zip(inputs.split(lengths), got.split(lengths), strict=True):
        queries, keys, values = part.view(len(part), 3, heads, -1).permute(1, 2, 0, 3)
        scores = queries @ keys.mT / (width / heads) ** 0.5 + bias[0, :, : len(part), : len(part)]
        expected = (scores.softmax(-1) @ values).transpose(0, 1).reshape(len(part), width)
        torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=0)


def test_one_attention_over_all_lengths_is_for_gpus():
    assert not has_varlen(torch.device("cpu"), torch.bfloat16)
