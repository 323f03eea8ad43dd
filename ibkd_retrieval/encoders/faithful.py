"""Checks on a probe that the faster forms of a model give the vectors of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.loading import quiet_transformers
from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.encoders.tokens import excluded_prompt_length, pad, tokenize
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.protocol import Kind

Run = Literal["lean", "tokens", "whole"]
"""The forms of a model: our forward pass, its own on our token ids, or sentence-transformers as a whole."""

_PROBE = ("A river, and the boats on it; 3.14 of them.", "Milk", "cheese and bread")
# Any other setting changes a vector of length 1 by more than this.
_TOLERANCE = 1e-4
# A longer limit would need too long a probe.
_LONGEST = 100_000
_KNOWN = {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length"}


def faithful_run(model: SentenceTransformer, prompts: Mapping[str, str]) -> Run:
    """Return the fastest form of a float32 transformer that gives the vectors of sentence-transformers.

    Args:
        model: the model in float32, on its device. It is not changed.
        prompts: the prompts for each kind of text.
    """
    import torch

    from ibkd_retrieval.encoders.backends.lean import LeanTransformer, is_lean
    from ibkd_retrieval.encoders.backends.torch_modules import gives_token_states

    transformer: Any = model[0]
    expected = _given_on_tokens(model, prompts)
    if expected is None:
        return "whole"
    if gives_token_states(model) and is_lean(transformer.auto_model):
        lean = LeanTransformer(transformer.auto_model)
        with torch.inference_mode():
            if _close(_on_tokens(model, prompts["document"], lean), expected):
                return "lean"
    return "tokens"


def check_trainable(model: SentenceTransformer, prompts: Mapping[str, str]) -> None:
    """Refuse a student whose vectors need more than token ids, because training uses only token ids.

    Raises:
        UserError: the student needs more.
    """
    if not is_static(model) and _given_on_tokens(model, prompts) is None:
        raise UserError(
            "The student has settings that only sentence-transformers honours (a chat template, lengths by kind, token "
            "types, or the like), and is trained on token ids alone: give another `student`."
        )


def _given_on_tokens(model: SentenceTransformer, prompts: Mapping[str, str]) -> NDArray[np.float32] | None:
    """Return the document vectors of the probe, or None where our token ids give other vectors."""
    import torch

    kinds: list[Kind] = ["query", "document"]
    with quiet_transformers(), torch.inference_mode():
        if not all(_same_tokens(model, kind, prompts[kind]) for kind in kinds):
            return None
        expected: dict[str, NDArray[np.float32]] = {}
        for kind in kinds:
            if prompts[kind] not in expected:
                expected[prompts[kind]] = _one_by_one(model, kind, prompts[kind])
        close = [_close(_on_tokens(model, prompt), vectors) for prompt, vectors in expected.items()]
    return expected[prompts["document"]] if all(close) else None


def _close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    scale = max(1.0, float(np.abs(expected).max()))
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= _TOLERANCE * scale)


def _same_tokens(model: SentenceTransformer, kind: Kind, prompt: str) -> bool:
    limit = int(model.max_seq_length or 0)
    texts = [*_PROBE, "", *(["river bank " * limit] if 0 < limit < _LONGEST else [])]
    ours = tokenize(model, texts, prompt)
    for text, ids in zip(texts, ours, strict=True):
        features = model.preprocess([text], prompt=prompt or None, task=kind)
        if set(features) - _KNOWN or features.get("modality", "text") != "text" or "input_ids" not in features:
            return False
        found = features["input_ids"][0].tolist()
        if (found or [0]) != (ids or [0]) and not _is_padding(features, ids):
            return False
    excluded = excluded_prompt_length(model, prompt)
    return not excluded or excluded == model.preprocess(["a"], prompt=prompt, task=kind).get("prompt_length")


def _is_padding(features: dict[str, Any], ids: Sequence[int]) -> bool:
    """Whether a text without tokens was given as padding only."""
    return not ids and not bool(features["attention_mask"].any())


def _one_by_one(model: SentenceTransformer, kind: Kind, prompt: str) -> NDArray[np.float32]:
    """Return sentence-transformers' vectors of the probe, each text alone, without padding."""
    vectors = []
    for text in _PROBE:
        features = model.preprocess([text], prompt=prompt or None, task=kind)
        features = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in features.items()}
        vectors.append(model(features, task=kind)["sentence_embedding"].float().cpu().numpy()[0])
    return np.stack(vectors)


def _on_tokens(model: SentenceTransformer, prompt: str, lean: Any = None) -> NDArray[np.float32]:
    """Return the vectors of the probe as one padded batch of our token ids."""
    transformer: Any = model[0]
    features = pad(model, tokenize(model, _PROBE, prompt))
    if lean is None:
        features = transformer(features)
    else:
        states = lean(features["input_ids"], features["attention_mask"])
        features = {transformer.module_output_name: states, "attention_mask": features["attention_mask"]}
    if excluded := excluded_prompt_length(model, prompt):
        features["prompt_length"] = excluded
    for module in list(model)[1:]:
        features = module(features)
    vectors: NDArray[np.float32] = features["sentence_embedding"].float().cpu().numpy()
    return vectors
