"""A faster forward pass for the BERT family.

transformers runs the same layers through about a hundred modules. It builds new masks for each batch, and for MPNet it
computes every attention score. Here one matrix product gives queries, keys and values. Attention is the fused one
of torch, for the relative positions of MPNet too. Texts are laid end to end, so there is no padding and no mask. The
arithmetic is the same, so results differ only by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from ibkd_retrieval.encoders.autotune.cpu import pack_linear
from ibkd_retrieval.encoders.backends.packing import attend_in_runs, attend_varlen, has_varlen

# The head widths that flash attention accepts without padding.
_VARLEN_STEP, _VARLEN_WIDEST = 8, 256
_ROWS_STEP, _FEW_ROWS_STEP = 128, 16
Attend = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Affine:
    """A linear layer or a layer norm: weight, bias and optionally the weight in the layout of oneDNN."""

    weight: Tensor
    bias: Tensor
    packed: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, module: Any) -> _Affine:
        return cls(module.weight.detach(), module.bias.detach())


@dataclass(frozen=True)
class _Layer:
    """The parameters of one layer. `inputs` computes queries, keys and values at once."""

    inputs: _Affine
    output: _Affine
    attention_norm: _Affine
    widen: _Affine
    narrow: _Affine
    norm: _Affine


def is_lean(model: Any) -> bool:
    """Whether `LeanTransformer` supports a transformers model: BERT, RoBERTa and MPNet."""
    config = model.config
    return (
        type(model).__name__ in ("BertModel", "RobertaModel", "XLMRobertaModel", "MPNetModel")
        and config.hidden_act == "gelu"
        and config.num_hidden_layers > 0
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "add_cross_attention", False)
        and _plain(model)
    )


def _plain(model: Any) -> bool:
    """Whether every layer is a plain layer of the architecture, without adapters and quantised weights.

    The module of an adapter, such as one of peft, has no parameters of its own, and its inner layers are plain. It is
    recognised because it belongs neither to torch nor to the models of transformers.
    """
    kinds = (torch.nn.Linear, torch.nn.Embedding, torch.nn.LayerNorm)
    homes = ("torch.nn.modules.", "transformers.models.", "transformers.activations")
    return all(
        type(module) in kinds if list(module.parameters(recurse=False)) else type(module).__module__.startswith(homes)
        for module in model.modules()
    )


class LeanTransformer(torch.nn.Module):
    """The map `input_ids, attention_mask -> last_hidden_state` of a model that `is_lean` accepts, in its dtype.

    It shares the parameters of the model. The weights of queries, keys and values are joined, and the model gets views
    of the joined weights, so both use no more memory than one.
    """

    def __init__(self, model: Any) -> None:
        """Take over the parameters of `model`, which must not be moved or converted afterwards."""
        super().__init__()
        config = model.config
        self.heads = int(config.num_attention_heads)
        self.width = int(config.hidden_size)
        self.epsilon = float(config.layer_norm_eps)
        self._mpnet = type(model).__name__ == "MPNetModel"
        # RoBERTa and MPNet count positions from the padding id on, and skip padding tokens.
        self._padding = None if type(model).__name__ == "BertModel" else int(model.embeddings.padding_idx)
        embeddings = model.embeddings
        self._words: Tensor = embeddings.word_embeddings.weight.detach()
        self._positions: Tensor = embeddings.position_embeddings.weight.detach()
        self._kind: Tensor | None = None
        if getattr(embeddings, "token_type_embeddings", None) is not None:
            self._kind = embeddings.token_type_embeddings.weight.detach()[0]
        self._norm = _Affine.of(embeddings.LayerNorm)
        self._layers = [(_mpnet_layer if self._mpnet else _bert_layer)(layer) for layer in model.encoder.layer]
        self._bias: Any = model.encoder.compute_position_bias if self._mpnet else None
        if self._mpnet:
            model.encoder.relative_attention_bias.requires_grad_(False)
        self._longest_bias: Tensor | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the token states of padded texts, [n, longest, width].

        Args:
            input_ids: int64 [n, longest].
            attention_mask: int64 [n, longest], 1 for tokens and 0 for padding; None where there is no padding.
        """
        states = self._normed(self._embedded(input_ids), self._norm)
        mask = self._attention_bias(states, attention_mask)
        count, longest = states.shape[0], states.shape[1]

        def attend(inputs: Tensor) -> Tensor:
            parts = inputs.view(count, longest, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            queries, keys, values = parts.unbind(0)
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            return mixed.transpose(1, 2).reshape(count, longest, self.width)

        return self._run_layers(states, attend)

    def packed(self, ids: Tensor, positions: Tensor, lengths: Sequence[int], bounds: Tensor | None) -> Tensor:
        """Return the token states of texts laid end to end, [tokens, width].

        Args:
            ids: int64 [tokens], the token ids.
            positions: int64 [tokens], the position of each token in its text, from 0.
            lengths: the number of tokens of each text. Texts of equal length are best adjacent.
            bounds: int32 [texts + 1], the bounds of the texts for one attention over all, where `can_vary`. None runs
                one attention per length.
        """
        states = F.embedding(ids, self._words)
        if self._kind is not None:
            states = states + self._kind
        if self._padding is not None:
            positions = self._counted_positions(ids, positions)
        states = self._normed(states + F.embedding(positions, self._positions), self._norm)
        longest = max(lengths)
        if bounds is not None:
            return self._run_layers(states, lambda inputs: attend_varlen(inputs, bounds, longest, self.heads))
        bias = self._relative_bias(states.view(1, -1, self.width), longest) if self._mpnet else None
        tokens = len(states)
        spare = -tokens % (_ROWS_STEP if tokens > _ROWS_STEP else _FEW_ROWS_STEP) if self.packs_weights else 0
        if not spare:
            return self._run_layers(states, lambda inputs: attend_in_runs(inputs, lengths, self.heads, bias))
        # oneDNN caches a kernel for each number of rows. Few different numbers keep the cache small.
        states = F.pad(states, (0, 0, 0, spare))

        def attend(inputs: Tensor) -> Tensor:
            return F.pad(attend_in_runs(inputs[:tokens], lengths, self.heads, bias), (0, 0, 0, spare))

        return self._run_layers(states, attend)[:tokens]

    def can_vary(self) -> bool:
        """Whether one attention over texts of different lengths runs here."""
        head = self.width // self.heads
        fits = head % _VARLEN_STEP == 0 and head <= _VARLEN_WIDEST
        return fits and not self._mpnet and has_varlen(self._words.device, self._words.dtype)

    @property
    def packs_weights(self) -> bool:
        """Whether it uses copies of the weights in the layout of oneDNN."""
        return bool(self._layers[0].inputs.packed)

    def pack_weights(self) -> None:
        """Copy the weights into the layout of oneDNN, for fused products."""
        for layer in self._layers:
            for affine in (layer.inputs, layer.output, layer.widen, layer.narrow):
                affine.packed.append(pack_linear(affine.weight))

    def _embedded(self, ids: Tensor) -> Tensor:
        states: Tensor = F.embedding(ids, self._words)
        if self._kind is not None:
            states = states + self._kind
        if self._padding is None:
            return states + self._positions[: ids.shape[1]]
        counted = ids.ne(self._padding).int()
        numbers = (torch.cumsum(counted, dim=1).to(counted.dtype) * counted).long() + self._padding
        return states + F.embedding(numbers, self._positions)

    def _counted_positions(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Return RoBERTa's positions: they start after the padding id and skip padding tokens."""
        assert self._padding is not None
        skipped = ids.eq(self._padding)
        numbers = positions + 1
        if bool(skipped.any()):
            before = torch.cumsum(skipped, dim=0)
            begins = torch.arange(len(ids), device=ids.device) - positions
            numbers = (numbers - (before - before[begins] + skipped[begins])) * ~skipped
        return numbers + self._padding

    def _attention_bias(self, states: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """Return the term added to scores before the softmax, [n or 1, heads or 1, longest, longest]."""
        count, longest = states.shape[0], states.shape[1]
        # GPU kernels need aligned rows, and those of a slice may not be aligned.
        bias = self._relative_bias(states, longest).contiguous() if self._mpnet else None
        if attention_mask is not None:
            lowest = torch.finfo(states.dtype).min
            hidden = (1.0 - attention_mask[:, None, None, :].to(states.dtype)) * lowest
            bias = hidden if bias is None else (bias + hidden).clamp_min(lowest)
        return None if bias is None else bias.expand(count, -1, longest, longest)

    def _relative_bias(self, states: Tensor, longest: int) -> Tensor:
        """Return MPNet's bias by the distance of two tokens, [1, heads, longest, longest]."""
        if torch._C._get_tracing_state() is not None:  # A cached tensor would become a constant.
            traced: Tensor = self._bias(states[:1])
            return traced
        # That of a shorter text is the corner of a longer one's, so that one alone is kept in memory. Another thread
        # may be replacing it: what is returned is held here.
        kept = self._longest_bias
        if kept is None or kept.shape[-1] < longest:
            kept = self._longest_bias = self._bias(states[:1, :longest])
        return kept[:, :, :longest, :longest]

    def _run_layers(self, states: Tensor, attend: Attend) -> Tensor:
        for layer in self._layers:
            mixed = attend(_linear(states, layer.inputs))
            states = self._normed(_linear_added(mixed, layer.output, states), layer.attention_norm)
            states = self._normed(_linear_added(_linear_gelu(states, layer.widen), layer.narrow, states), layer.norm)
        return states

    def _normed(self, states: Tensor, norm: _Affine) -> Tensor:
        return F.layer_norm(states, (self.width,), norm.weight, norm.bias, self.epsilon)


def _linear(states: Tensor, affine: _Affine) -> Tensor:
    if not affine.packed:
        return F.linear(states, affine.weight, affine.bias)
    # The linear layer of torch copies the bias into the result first, which costs time.
    result: Tensor = torch.ops.mkldnn._linear_pointwise(states, affine.packed[0], affine.bias, "none", [], "none")
    return result


def _linear_gelu(states: Tensor, affine: _Affine) -> Tensor:
    """Apply a linear layer and the exact GELU."""
    if not affine.packed:
        return F.gelu(F.linear(states, affine.weight, affine.bias))
    result: Tensor = torch.ops.mkldnn._linear_pointwise(states, affine.packed[0], affine.bias, "gelu", [], "none")
    return result


def _linear_added(states: Tensor, affine: _Affine, others: Tensor) -> Tensor:
    """Apply a linear layer and add the output to `others`."""
    if not affine.packed:
        return others + _linear(states, affine)
    result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(states, others, affine.packed[0], affine.bias, "add")
    return result


def _bert_layer(layer: Any) -> _Layer:
    attention = layer.attention
    return _Layer(
        _side_by_side(attention.self.query, attention.self.key, attention.self.value),
        _Affine.of(attention.output.dense),
        _Affine.of(attention.output.LayerNorm),
        _Affine.of(layer.intermediate.dense),
        _Affine.of(layer.output.dense),
        _Affine.of(layer.output.LayerNorm),
    )


def _mpnet_layer(layer: Any) -> _Layer:
    attention = layer.attention.attn
    return _Layer(
        _side_by_side(attention.q, attention.k, attention.v),
        _Affine.of(attention.o),
        _Affine.of(layer.attention.LayerNorm),
        _Affine.of(layer.intermediate.dense),
        _Affine.of(layer.output.dense),
        _Affine.of(layer.output.LayerNorm),
    )


def _side_by_side(*parts: Any) -> _Affine:
    """Join linear layers with the same input into one. Each of them becomes a view of it."""
    weight = torch.cat([part.weight.detach() for part in parts])
    bias = torch.cat([part.bias.detach() for part in parts])
    for part, its_weight, its_bias in zip(parts, weight.chunk(len(parts)), bias.chunk(len(parts)), strict=True):
        part.weight.data, part.bias.data = its_weight, its_bias
    return _Affine(weight, bias)


class TracedTransformer(torch.nn.Module):
    """The map `input_ids, attention_mask -> token states`, by `LeanTransformer` where the architecture allows."""

    def __init__(self, model: Any) -> None:
        """Share the parameters of a transformers model, which stays usable."""
        super().__init__()
        self._lean = LeanTransformer(model) if is_lean(model) else None
        # Converters do not know the mask operations of the fused attention.
        if self._lean is None:
            model.set_attn_implementation("eager")
            self._model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the token states, float32 [n, longest, width]."""
        if self._lean is not None:
            states: Tensor = self._lean(input_ids, attention_mask)
        else:
            states = self._model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states
