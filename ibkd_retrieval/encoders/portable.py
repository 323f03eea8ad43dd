"""Settings of a saved model in the form that every reader of sentence-transformers folders knows.

sentence-transformers 6 writes new module names and new keys, and reads the old ones. Older versions,
text-embeddings-inference, vLLM and llama.cpp's converter read the old ones alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.files import write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# The classes that exist under `sentence_transformers.models` in every version.
_CLASSES = ("Transformer", "Pooling", "Dense", "Normalize", "StaticEmbedding")
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_USUAL_NAMES = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


def make_portable(model: SentenceTransformer, folder: Path) -> None:
    """Rewrite the settings of a saved model with the old names and keys, where these say the same.

    Modules with settings that the old keys cannot express are left as they are. The vectors do not change.

    Args:
        model: the model that was saved.
        folder: where it was saved.
    """
    path = folder / "modules.json"
    entries = json.loads(path.read_text("utf-8"))
    rewritten = [_rewrite(entry, folder / entry["path"], model) for entry in entries]
    if all(rewritten):  # Old and new names in one file would help nobody.
        for entry in entries:
            entry["type"] = f"sentence_transformers.models.{_class(entry)}"
        write_json(path, entries)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        settings = json.loads(tokenizer.read_text("utf-8"))
        if settings.get("tokenizer_class") == "TokenizersBackend":  # The name that transformers 5 gives it.
            write_json(tokenizer, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _class(entry: dict[str, Any]) -> str:
    return str(entry["type"]).rpartition(".")[2]


def _rewrite(entry: dict[str, Any], folder: Path, model: SentenceTransformer) -> bool:
    """Rewrite the settings of one module. False where the old keys cannot express them."""
    kind = _class(entry)
    if kind not in _CLASSES:
        return False
    if kind == "Transformer":
        return _rewrite_transformer(folder, model)
    path = folder / "config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if kind == "Pooling":
        return _rewrite_pooling(path, settings)
    if kind in ("Dense", "Normalize"):
        if any(settings.get(name, usual) != usual for name, usual in _USUAL_NAMES.items()):
            return False
        kept = {name: value for name, value in settings.items() if name not in _USUAL_NAMES}
        if kept:
            write_json(path, kept)
        else:
            path.unlink(missing_ok=True)
    return True


def _rewrite_transformer(folder: Path, model: SentenceTransformer) -> bool:
    path = folder / "sentence_bert_config.json"
    settings = json.loads(path.read_text("utf-8"))
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    usual = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": forward},
        "module_output_name": "token_embeddings",
    }
    others = {name: value for name, value in settings.items() if name not in usual or usual[name] != value}
    lower = bool(others.pop("do_lower_case", False))
    others.pop("max_seq_length", None)
    if others:
        return False
    length = model.max_seq_length
    write_json(path, {"max_seq_length": None if length is None else int(length), "do_lower_case": lower})
    return True


def _rewrite_pooling(path: Path, settings: dict[str, Any]) -> bool:
    modes = settings.get("pooling_mode")
    modes = [modes] if isinstance(modes, str) else modes
    known = {"embedding_dimension", "pooling_mode", "include_prompt"}
    if not modes or not set(modes) <= set(_POOLING_KEYS) or set(settings) - known:
        return False
    old = {"word_embedding_dimension": settings["embedding_dimension"]}
    old |= {key: mode in modes for mode, key in _POOLING_KEYS.items()}
    write_json(path, old | {"include_prompt": settings.get("include_prompt", True)})
    return True
