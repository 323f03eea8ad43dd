"""Opens a model for single queries without transformers and sentence-transformers, whose import takes seconds.

The first opening of a model is a full one. Then `keep` writes a record to the user's cache: the tokenizer, the modules,
and the checksums of all files of the model. It writes one only if `QueryEncoder` gives the vectors of the full encoder.
`open_quickly` opens a model by its record, as long as the files and the installed packages are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.encoders.autotune.choice import BackendConfig, choice_key, packages, recalled
from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast, processor_flags
from ibkd_retrieval.encoders.endpoints.address import is_endpoint
from ibkd_retrieval.encoders.loading import resolve_model_name
from ibkd_retrieval.encoders.query_encoder import QueryEncoder, stored
from ibkd_retrieval.files import atomic_write, cache_folder, sha256_file
from ibkd_retrieval.json_io import parse

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.backends.torch_modules import Run
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.encoders.protocol import TextEncoder
    from ibkd_retrieval.progress import Progress

_FORMAT = 3
_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "numpy")
_READ = (".json", ".txt", ".model", ".safetensors")
"""Endings of the files that decide a vector."""
_WEIGHTS = "model.safetensors"
_CONFIG = ("num_attention_heads", "hidden_size", "layer_norm_eps")
_TYPES = ("BertModel", "RobertaModel", "XLMRobertaModel", "MPNetModel")
_PROBE = ("what is a river", "Milk", "how do I split a list into parts of equal size? 3.14")
_TOLERANCE = 1e-6


def load_quickly(name: str, *, sample: Callable[[], list[str]], progress: Progress, **settings: Any) -> TextEncoder:
    """Load the encoder of single queries: by its record where there is one, else as `load_encoder` does."""

    def full() -> Any:
        from ibkd_retrieval.encoders.autotune.load import load_encoder

        return load_encoder(name, sample=sample, progress=progress, few=True, **settings)

    if is_endpoint(name):
        return full()  # type: ignore[no-any-return]
    found = open_quickly(name, settings, full)
    if found is not None:
        if found.backend == "openvino":
            progress.say(f"openvino {found.dtype}: measured before as the best here for queries.")
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
        key = _key(folder, asked)
        record = parse(_path(key).read_bytes())
        weights = (folder / record["weights"]).read_bytes()
        found = dict(_checksums(folder, {record["weights"]: hashlib.sha256(weights).hexdigest()}))
        if record["key"] != key or record["files"] != found:
            return None
        best = _measured_best(record, asked)
        if best is not None and best.backend == "openvino":
            with suppress(Exception):  # Its file is gone, or does not load any more.
                return QueryEncoder(record | {"dtype": best.dtype}, weights, full, "openvino")
        elif best is not None and best.backend == "torch" and best.dtype != record["dtype"]:
            return None
        # Where torch is loaded anyway, it is faster.
        return QueryEncoder(
            record, weights, full, "numpy" if record["numpy"] and "torch" not in sys.modules else "torch"
        )
    except Exception:  # A record that any library refuses is as good as none.
        return None


def _measured_best(record: Mapping[str, Any], asked: Mapping[str, Any]) -> BackendConfig | None:
    """What was measured as the best for queries here, where the user leaves the choice open."""
    if record["choice"] is None or (asked["backend"], asked["dtype"]) != ("auto", "auto"):
        return None
    return recalled(record["choice"])


def keep(encoder: Encoder, model: SentenceTransformer, run: Run, name: str, asked: Mapping[str, Any]) -> None:
    """Write the record of an encoder, where its queries can be encoded without the libraries.

    Args:
        encoder: the full encoder.
        model: its model.
        run: the form in which it runs.
        name: its folder, or the name of an installed model.
        asked: the settings that it was loaded with, of JSON types.
    """
    import torch

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
        record |= {"choice": None, "threads": torch.get_num_threads(), "half": "float32"}
        if record["architecture"]:
            record["choice"] = choice_key(encoder.weight_hash, "cpu", "queries")
            record["half"] = "bfloat16" if bfloat16_is_fast() else "float32"
        key = _key(folder, asked)
        record |= {"key": key, "files": dict(_checksums(folder, {}))}
        theirs = np.concatenate([encoder.encode([text], "query") for text in _PROBE])

        def is_equal(backend: str) -> bool:
            quick = QueryEncoder(record, weights[0].read_bytes(), lambda: encoder, backend)
            return bool(np.abs(quick.encode(_PROBE, "query") - theirs).max() <= _TOLERANCE)

        record["numpy"] = False
        with suppress(Exception):  # numpy has no bfloat16.
            record["numpy"] = record["dtype"] == "float32" and is_equal("numpy")
        if is_equal("torch"):
            with atomic_write(_path(key)) as file:
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
        distances = [stored(bias[:, 0, :]), stored(bias[:, :, 0])]
    return {
        "tokenizer": tokenizer.to_str(),
        "encode_special_tokens": tokenizer.encode_special_tokens,
        "modules": modules,
        "architecture": {
            "distances": distances,
            "type": kind,
            "config": {name: getattr(transformer.config, name) for name in _CONFIG},
            "padding": getattr(transformer.embeddings, "padding_idx", None),
            "parameters": [name for name, _ in transformer.named_parameters()],
            "rows": len(transformer.embeddings.word_embeddings.weight),
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
    return [kind, {name: stored(tensor) for name, tensor in module.linear.state_dict().items()}]


def _key(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    versions = {package: metadata.version(package) for package in _PACKAGES} | packages()
    processor = [processor_flags(), os.cpu_count(), os.environ.get("OMP_NUM_THREADS")]
    return {"format": _FORMAT, "folder": str(folder.resolve()), "processor": processor, **versions, **asked}


def _path(key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "queries" / f"{Path(key['folder']).name}-{digest[:16]}.json"


def _checksums(folder: Path, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The checksums of the files that decide a vector, by path. Those of `known` are not computed."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in _READ and path.is_file():
            yield name, known.get(name) or sha256_file(path)
