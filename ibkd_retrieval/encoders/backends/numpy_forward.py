"""The forward pass of the BERT family in numpy, for one text. It saves the import of torch, which takes a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_ATTENTION = {
    "BertModel": ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output."),
    "MPNetModel": ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention."),
}
"""The names of queries, keys and values, and what comes before the name of the layer norm."""


class NumpyTransformer:
    """The map from token ids [n] to states [n, width] of BERT, RoBERTa and MPNet, in float32."""

    def __init__(
        self, architecture: Mapping[str, Any], parameters: Mapping[str, Array], distances: Sequence[Array]
    ) -> None:
        """Take the parameters.

        Args:
            architecture: type, config and padding, as `quick.keep` records them.
            parameters: float32 arrays by their names in transformers.
            distances: MPNet's attention bias [heads, n] by the distance of a token behind, and of one before. Empty for
                other models.
        """
        from scipy.special import erf
        from threadpoolctl import ThreadpoolController

        self._blas = ThreadpoolController()
        self._erf, self._parameters, self._distances = erf, parameters, distances
        kind, config = architecture["type"], architecture["config"]
        self._heads, self._epsilon = int(config["num_attention_heads"]), np.float32(config["layer_norm_eps"])
        self._padding: int | None = None if kind == "BertModel" else architecture["padding"]
        *self._inputs, self._before_norm = _ATTENTION.get(kind, _ATTENTION["BertModel"])
        self._output = "attention.attn.o" if kind == "MPNetModel" else "attention.output.dense"
        self._layers = len({name.split(".")[2] for name in parameters if name.startswith("encoder.layer.")})

    def __call__(self, ids: NDArray[np.int64]) -> Array:
        """The states of a text of at least one token."""
        # Where other work runs, the threads of OpenBLAS wait spinning for each other, up to fifty times as long.
        with self._blas.limit(limits=1, user_api="blas"):
            return self._states(ids)

    def _states(self, ids: NDArray[np.int64]) -> Array:
        places = np.arange(len(ids))
        if self._padding is not None:  # RoBERTa and MPNet count positions from the padding id on, and skip padding.
            counted = ids != self._padding
            places = np.cumsum(counted) * counted + self._padding
        states = self._table("word", ids) + self._table("position", places)
        if "embeddings.token_type_embeddings.weight" in self._parameters:
            states = states + self._table("token_type", 0)
        states = self._normed(states, "embeddings.LayerNorm")
        bias = self._bias(len(ids))
        for number in range(self._layers):
            layer = f"encoder.layer.{number}."
            mixed = self._linear(self._mixed(states, layer, bias), layer + self._output)
            states = self._normed(mixed + states, f"{layer}{self._before_norm}LayerNorm")
            wide = self._linear(states, layer + "intermediate.dense")
            wide *= (1 + self._erf(wide * np.float32(0.5**0.5))) * np.float32(0.5)
            states = self._normed(self._linear(wide, layer + "output.dense") + states, layer + "output.LayerNorm")
        return states

    def _mixed(self, states: Array, layer: str, bias: Array | None) -> Array:
        """Attention [n, width]."""
        shape = len(states), self._heads, -1
        queries, keys, values = (
            self._linear(states, layer + name).reshape(shape).transpose(1, 0, 2) for name in self._inputs
        )
        scores = queries @ keys.transpose(0, 2, 1) / np.float32(queries.shape[-1] ** 0.5)
        if bias is not None:
            scores += bias
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed: Array = (scores @ values).transpose(1, 0, 2).reshape(states.shape)
        return mixed

    def _bias(self, count: int) -> Array | None:
        """MPNet's attention bias by distance [heads, n, n]."""
        if not self._distances:
            return None
        after, before = self._distances
        places = np.arange(count)
        whole = np.concatenate([before[:, 1:count][:, ::-1], after[:, :count]], axis=1)
        found: Array = whole[:, places[None, :] - places[:, None] + count - 1]
        return found

    def _table(self, name: str, rows: Any) -> Array:
        found: Array = self._parameters[f"embeddings.{name}_embeddings.weight"][rows]
        return found

    def _linear(self, states: Array, name: str) -> Array:
        # For few rows, OpenBLAS is a quarter faster with the weights on the left.
        product: Array = np.ascontiguousarray((self._parameters[name + ".weight"] @ states.T).T)
        product += self._parameters[name + ".bias"]
        return product

    def _normed(self, states: Array, name: str) -> Array:
        states = states - states.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(states).mean(axis=-1, keepdims=True) + self._epsilon)
        normed: Array = states / scale * self._parameters[name + ".weight"]
        normed += self._parameters[name + ".bias"]
        return normed
