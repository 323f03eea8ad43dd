"""Opens a model for single queries without transformers and sentence-transformers, whose import takes seconds.

The first opening of a model is a full one. Then `keep` writes a record to the user's cache: the tokenizer, the modules,
and the checksums of all files of the model. It writes one only if `QueryEncoder` gives the vectors of the full encoder.
`open_quickly` opens a model by its record, as long as the files and the installed packages are the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval import __version__
from ibkd_retrieval.encoders.autotune.cpu import packs_weights, processor_features
from ibkd_retrieval.encoders.endpoints.address import is_endpoint
from ibkd_retrieval.encoders.loading import resolve_model_name
from ibkd_retrieval.encoders.tokens import ids_of_beginnings, text_errors
from ibkd_retrieval.files import atomic_write, cache_folder, sha256_file
from ibkd_retrieval.json_io import parse

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.backends.torch_modules import Run
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.encoders.protocol import Kind, TextEncoder
    from ibkd_retrieval.progress import Progress, Task

_FORMAT = 1
_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "numpy")
_READ = (".json", ".txt", ".model", ".safetensors")
"""Endings of the files that decide a vector."""
_WEIGHTS = "model.safetensors"
_CONFIG = ("num_attention_heads", "hidden_size", "layer_norm_eps")
_TYPES = ("BertModel", "RobertaModel", "XLMRobertaModel", "MPNetModel")
_PROBE = ("what is a river", "Milk", "how do I split a list into parts of equal size? 3.14")
_TOLERANCE = 1e-6
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
        device: "cpu".
    """

    def __init__(self, record: Mapping[str, Any], weights: bytes, full: Callable[[], TextEncoder]) -> None:
        """Open a model.

        Args:
            record: what `keep` wrote.
            weights: the content of the safetensors file.
            full: opens the full encoder, for a text that needs it.
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
        self.device = "cpu"
        self._full = full
        self._tokenizer = Tokenizer.from_str(record["tokenizer"])
        self._tokenizer.encode_special_tokens = record["encode_special_tokens"]
        self._vector = (_static if record["architecture"] is None else _transformer)(record, weights)

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
        if packs_weights(dtype):
            lean.pack_weights()
    rows = len(model.embeddings.word_embeddings.weight)
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


def _tensor(shape: Sequence[int], content: str) -> Any:
    import torch

    array = np.frombuffer(base64.b64decode(content), np.float32).reshape(shape)
    return torch.from_numpy(array.copy())


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


def load_quickly(name: str, *, sample: Callable[[], list[str]], progress: Progress, **settings: Any) -> TextEncoder:
    """Load the encoder of single queries: by its record where there is one, else as `load_encoder` does."""

    def full() -> Any:
        from ibkd_retrieval.encoders.autotune.load import load_encoder

        return load_encoder(name, sample=sample, progress=progress, **settings)

    if is_endpoint(name):
        return full()  # type: ignore[no-any-return]
    found = open_quickly(name, settings, full)
    if found is not None:
        return found
    encoder: Encoder = full()
    encoder.keep_for_queries(name, settings)
    return encoder


def open_quickly(name: str, asked: Mapping[str, Any], full: Callable[[], TextEncoder]) -> QueryEncoder | None:
    """Open a model by its record. None where there is none, or where something has changed since.

    Args:
        name: the model's folder, or the name of an installed one.
        asked: the settings of the encoder, of JSON types.
        full: opens the full encoder, for a text that needs it.
    """
    folder = Path(resolve_model_name(name))
    try:
        record = parse(_path(folder, asked).read_bytes())
        weights = (folder / record["weights"]).read_bytes()
        found = dict(_checksums(folder, {record["weights"]: hashlib.sha256(weights).hexdigest()}))
        if record["key"] != _key(folder, asked) or record["files"] != found or _is_outdated(record, asked):
            return None
        return QueryEncoder(record, weights, full)
    except Exception:  # A record that any library refuses is as good as none.
        return None


def _is_outdated(record: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether the full encoder would take another backend or number format by now."""
    if record["architecture"] is None:
        return False
    if record["architecture"]["processor"] != list(processor_features()):
        return True
    if (asked["backend"], asked["dtype"]) != ("auto", "auto"):
        return False
    from ibkd_retrieval.encoders.autotune.choice import BackendConfig, remembered_choice

    best = remembered_choice(record["weight_hash"], "cpu", "queries")
    return best is not None and best != BackendConfig("torch", record["dtype"])


def keep(encoder: Encoder, model: SentenceTransformer, run: Run, name: str, asked: Mapping[str, Any]) -> None:
    """Write the record of an encoder, where its queries can be encoded without the libraries.

    Args:
        encoder: the full encoder.
        model: its model.
        run: the form in which it runs.
        name: its folder, or the name of an installed model.
        asked: the settings that it was loaded with, of JSON types.
    """
    folder = Path(resolve_model_name(name))
    if encoder.device != "cpu" or encoder.backend != "torch" or not folder.is_dir():
        return
    try:
        described = _static_record(model) if encoder.max_length == 0 else _transformer_record(model, run)
        weights = [path for path in (folder / _WEIGHTS, folder / "0_StaticEmbedding" / _WEIGHTS) if path.is_file()]
        if described is None or not weights:
            return
        told = ("name", "weight_hash", "former_hash", "dim", "max_length", "pooling", "dtype")
        record = described | {each: getattr(encoder, each) for each in told}
        record |= {"weights": weights[0].relative_to(folder).as_posix(), "prompts": dict(encoder.prompts)}
        record |= {"key": _key(folder, asked), "files": dict(_checksums(folder, {}))}
        quick = QueryEncoder(record, weights[0].read_bytes(), lambda: encoder)
        theirs = np.concatenate([encoder.encode([text], "query") for text in _PROBE])
        if np.abs(quick.encode(_PROBE, "query") - theirs).max() <= _TOLERANCE:
            with atomic_write(_path(folder, asked)) as file:
                file.write(json.dumps(record).encode("utf-8"))
    except Exception:  # Without a record, the next opening is only slower.
        return


def _static_record(model: SentenceTransformer) -> dict[str, Any] | None:
    further = [[type(module).__name__] for module in list(model)[1:]]
    if further not in ([], [["Normalize"]]):
        return None
    tokenizer: Any = model.tokenizer
    read = {"tokenizer": tokenizer.to_str(), "encode_special_tokens": tokenizer.encode_special_tokens}
    return read | {"modules": further, "architecture": None}


def _transformer_record(model: SentenceTransformer, run: Run) -> dict[str, Any] | None:
    transformer: Any = model[0].auto_model
    tokenizer: Any = getattr(model.tokenizer, "backend_tokenizer", None)
    modules = [_module_record(module) for module in list(model)[1:]]
    kind = type(transformer).__name__
    if run != "lean" or kind not in _TYPES or tokenizer is None or None in modules:
        return None
    distances = None
    if kind == "MPNetModel":
        import torch

        states = torch.zeros(1, int(transformer.config.max_position_embeddings), 1)
        with torch.inference_mode():
            bias = transformer.encoder.compute_position_bias(states)[0].float()
        distances = [_stored(bias[:, 0, :]), _stored(bias[:, :, 0])]
    return {
        "tokenizer": tokenizer.to_str(),
        "encode_special_tokens": tokenizer.encode_special_tokens,
        "modules": modules,
        "architecture": {
            "distances": distances,
            "type": kind,
            "config": {name: getattr(transformer.config, name) for name in _CONFIG},
            "processor": list(processor_features()),
            "padding": getattr(transformer.embeddings, "padding_idx", None),
            "parameters": [name for name, _ in transformer.named_parameters()],
        },
    }


def _module_record(module: Any) -> list[Any] | None:
    """A module after the transformer: its kind, and its weights by name. None where it is of another kind."""
    kind = type(module).__name__
    if kind == "Normalize":
        return [kind, {}]
    if kind == "Pooling" and module.pooling_mode in ("mean", "cls") and module.include_prompt:
        return [module.pooling_mode, {}]
    if kind != "Dense" or type(module.activation_function).__name__ != "Identity":
        return None
    return [kind, {name: _stored(tensor) for name, tensor in module.linear.state_dict().items()}]


def _stored(tensor: Any) -> list[Any]:
    """The shape and the float32 bytes of a tensor, of JSON types."""
    array = np.ascontiguousarray(tensor.float().numpy())
    return [array.shape, base64.b64encode(array.tobytes()).decode()]


def _key(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    packages = {package: metadata.version(package) for package in _PACKAGES}
    return {"format": _FORMAT, "version": __version__, "folder": str(folder.resolve()), **packages, **asked}


def _path(folder: Path, asked: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(_key(folder, asked), sort_keys=True).encode()).hexdigest()
    return cache_folder() / "queries" / f"{folder.resolve().name}-{digest[:16]}.json"


def _checksums(folder: Path, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The checksums of the files that decide a vector, by path. Those of `known` are not computed."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in _READ and path.is_file():
            yield name, known.get(name) or sha256_file(path)
