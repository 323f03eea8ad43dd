"""An encoder of single queries from a record of a model. It needs neither transformers nor sentence-transformers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.autotune.cpu import packs_weights
from ibkd_retrieval.encoders.backends.numpy_forward import NumpyTransformer
from ibkd_retrieval.encoders.tokens import ids_of_beginnings, text_errors

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import Kind, TextEncoder
    from ibkd_retrieval.progress import Task

_TABLE = "embeddings.word_embeddings.weight"


class QueryEncoder:
    """Encodes one query at a time, as the full encoder does.

    Attributes:
        name: the hub name or folder of the model.
        weight_hash: the weight hash of the full encoder.
        former_hash: its weight hash of version 0.1.0.
        dim: the length of a vector.
        max_length: the most tokens of a text. 0 means no limit.
        prompts: the text before a query and before a document.
        pooling: the pooling that the user chose, else None.
        dtype: the number format of the transformer.
        backend: what runs the transformer: "torch", "numpy" or "openvino".
        device: "cpu".
    """

    def __init__(
        self, record: Mapping[str, Any], weights: bytes, full: Callable[[], TextEncoder], backend: str = "torch"
    ) -> None:
        """Open a model.

        Args:
            record: what `quick.keep` wrote.
            weights: the content of the safetensors file.
            full: opens the full encoder, for a text that needs it.
            backend: what runs a transformer. "numpy" computes in float32. It is slower than torch, whose import takes
                a second. "openvino" reads a file that the full encoder has left in the cache, in place of the weights.
        """
        from tokenizers import Tokenizer

        self.name: str = record["name"]
        self.weight_hash: str = record["weight_hash"]
        self.former_hash: str = record["former_hash"]
        self.dim: int = record["dim"]
        self.max_length: int = record["max_length"]
        self.prompts: dict[str, str] = record["prompts"]
        self.pooling: str | None = record["pooling"]
        self.dtype: str = record["dtype"]
        self.backend = backend
        self.device = "cpu"
        self._full = full
        self._tokenizer = Tokenizer.from_str(record["tokenizer"])
        self._tokenizer.encode_special_tokens = record["encode_special_tokens"]
        transformers = {"torch": _transformer, "numpy": _transformer_in_numpy, "openvino": _transformer_in_openvino}
        self._vector = (_static if record["architecture"] is None else transformers[backend])(record, weights)

    def encode(
        self, texts: Sequence[str], kind: Kind = "document", progress: Task | None = None
    ) -> NDArray[np.float32]:
        """Encode `texts` [n] into float32 vectors [n, dim], in the order given."""
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for place, text in enumerate(texts):
            with text_errors([text], place):
                ids = self._ids(self.prompts[kind] + text)
            vector = self._vector(ids)
            if vector is None:
                return self._full().encode(texts, kind, progress)
            out[place] = vector
        if progress is not None:
            progress.advance(len(texts))
        return out

    def _ids(self, text: str) -> list[int]:
        if self.max_length == 0:
            found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            return found
        return ids_of_beginnings(self._tokenizer, [text])[0]


Vector = Callable[[list[int]], "NDArray[np.float32] | None"]
"""The vector of token ids. None where a token has no row in the table."""


def _static(record: Mapping[str, Any], weights: bytes) -> Vector:
    """The mean of the token vectors, with unit length if the model gives it."""
    from safetensors.numpy import load

    (table,) = load(weights).values()
    normalised = record["modules"] == [["Normalize"]]

    def vector(ids: list[int]) -> NDArray[np.float32] | None:
        if max(ids, default=0) >= len(table):
            return None
        mean = np.zeros(table.shape[1], np.float32)
        if ids:
            mean = table[ids].astype(np.float32).sum(axis=0) / np.float32(len(ids))
        return mean / max(np.float32(np.linalg.norm(mean)), np.float32(1e-12)) if normalised else mean

    return vector


def _transformer(record: Mapping[str, Any], weights: bytes) -> Vector:
    """Our forward pass, with the modules after it in float32."""
    import torch
    from safetensors.torch import load

    from ibkd_retrieval.encoders.backends.lean import LeanTransformer

    dtype = getattr(torch, record["dtype"])
    architecture = record["architecture"]
    tensors = load(weights)
    # A checkpoint may have a prefix before the names.
    prefix = next(name for name in tensors if name.endswith(_TABLE)).removesuffix(_TABLE)
    parameters = {name: tensors[prefix + name].float().to(dtype) for name in architecture["parameters"]}
    model = _like_transformers(architecture["type"], parameters)
    model.config = SimpleNamespace(**architecture["config"])
    model.embeddings.padding_idx = architecture["padding"]
    if architecture["distances"] is not None:
        after, before = (_tensor(*stored).to(dtype) for stored in architecture["distances"])
        model.encoder.compute_position_bias = lambda states: _by_distance(after, before, states.shape[1])
        model.encoder.relative_attention_bias = torch.nn.Module()
    with torch.inference_mode():
        lean = LeanTransformer(model)
        if packs_weights(dtype, one_by_one=True):
            lean.pack_weights()
    rows = architecture["rows"]
    modules = [
        (kind, {name: _tensor(*stored) for name, stored in arrays.items()}) for kind, arrays in record["modules"]
    ]

    def vector(ids: list[int]) -> NDArray[np.float32] | None:
        if max(ids, default=0) >= rows or not ids:
            return None
        with torch.inference_mode():
            states = lean(torch.tensor([ids]), None)[0].float()
            for kind, values in modules:
                if kind == "mean":
                    states = states.sum(0) / len(ids)
                elif kind == "cls":
                    states = states[0]
                elif kind == "Dense":
                    states = torch.nn.functional.linear(states, values["weight"], values.get("bias"))
                else:
                    states = torch.nn.functional.normalize(states, dim=-1)
        found: NDArray[np.float32] = states.numpy()
        return found

    return vector


def _transformer_in_numpy(record: Mapping[str, Any], weights: bytes) -> Vector:
    """The same forward pass in float32, without torch."""
    from safetensors.numpy import load

    tensors = load(weights)
    prefix = next(name for name in tensors if name.endswith(_TABLE)).removesuffix(_TABLE)
    architecture = record["architecture"]
    parameters = {name: tensors[prefix + name].astype(np.float32, copy=False) for name in architecture["parameters"]}
    distances = [array(*stored) for stored in architecture["distances"] or ()]
    return _behind(NumpyTransformer(architecture, parameters, distances), record)


def _transformer_in_openvino(record: Mapping[str, Any], weights: bytes) -> Vector:
    """The same forward pass by OpenVINO, without torch."""
    from ibkd_retrieval.encoders.backends.openvino_runtime import cached_openvino_file, compiled, inference

    path = cached_openvino_file(record["weight_hash"], record["dtype"])
    run = inference(compiled(path, record["dtype"], record["threads"], record["half"]))

    def states_of(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = run(ids[None], np.ones((1, len(ids)), np.int64))[0]
        return found

    return _behind(states_of, record)


def _behind(states_of: Callable[[NDArray[np.int64]], NDArray[np.float32]], record: Mapping[str, Any]) -> Vector:
    """The vector from token states [n, width], by the modules behind the transformer, in numpy."""
    modules = [(kind, {name: array(*stored) for name, stored in arrays.items()}) for kind, arrays in record["modules"]]
    rows = record["architecture"]["rows"]

    def vector(ids: list[int]) -> NDArray[np.float32] | None:
        if max(ids, default=0) >= rows or not ids:
            return None
        states = states_of(np.array(ids, np.int64))
        for kind, values in modules:
            if kind == "mean":
                states = states.sum(axis=0) / np.float32(len(ids))
            elif kind == "cls":
                states = states[0]
            elif kind == "Dense":
                states = states @ values["weight"].T + values.get("bias", np.float32(0))
            else:
                states = states / max(np.linalg.norm(states), np.float32(1e-12))
        return states

    return vector


def _tensor(shape: Sequence[int], content: str) -> Any:
    import torch

    return torch.from_numpy(array(shape, content))


def array(shape: Sequence[int], content: str) -> NDArray[np.float32]:
    """The array of `stored`."""
    return np.frombuffer(base64.b64decode(content), np.float32).reshape(shape).copy()


def stored(tensor: Any) -> list[Any]:
    """The shape and the float32 bytes of a tensor, of JSON types."""
    array = np.ascontiguousarray(tensor.float().numpy())
    return [array.shape, base64.b64encode(array.tobytes()).decode()]


def _by_distance(after: Any, before: Any, longest: int) -> Any:
    """MPNet's attention bias [1, heads, longest, longest], of that by the distance of a token behind and before."""
    import torch

    places = torch.arange(longest)
    distances = places[None, :] - places[:, None]
    whole = torch.cat([before[:, 1:longest].flip(1), after[:, :longest]], dim=1)
    return whole[:, distances + longest - 1][None]


def _like_transformers(kind: str, tensors: Mapping[str, Any]) -> Any:
    """The parameters by the attributes that a model of transformers has them under."""
    root: Any = type(kind, (SimpleNamespace,), {})()
    for name, tensor in tensors.items():
        at = root
        *parts, last = name.split(".")
        for part in parts:
            at.__dict__.setdefault(part, SimpleNamespace())
            at = at.__dict__[part]
        setattr(at, last, tensor)
    layers = root.encoder.layer.__dict__
    root.encoder.layer = [layers[str(number)] for number in range(len(layers))]
    return root
