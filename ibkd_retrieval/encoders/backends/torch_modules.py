"""The torch backend, on a CPU or a GPU, and checks on a probe that its faster forms keep the vectors of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.loading import quiet_transformers
from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.encoders.tokens import PaddedTokens, excluded_prompt_length, pad, tokenize
from ibkd_retrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.backends.lean import LeanTransformer
    from ibkd_retrieval.encoders.protocol import Kind


_QUERY_TOKENS = 128


class TorchBackend:
    """Runs the transformer of a model in a number format, with `LeanTransformer` where the architecture allows."""

    name = "torch"

    def __init__(self, model: SentenceTransformer, dtype: torch.dtype, *, lean: bool = True) -> None:
        """Take over `model` on its device. Its transformer is converted in place."""
        self.dtype = str(dtype).removeprefix("torch.")
        self._transformer: Any = model[0]
        self._transformer.auto_model.to(dtype)
        self._device = model.device
        self._output = str(self._transformer.module_output_name)
        self._lean = lean_transformer(model, dtype) if lean else None

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer. See `Backend`."""
        mask = self._on_device(tokens.full_mask)
        if self._lean is None:
            features = self._transformer({"input_ids": self._on_device(tokens.ids), "attention_mask": mask})
            features[self._output] = features[self._output].float()
            return features  # type: ignore[no-any-return]
        padded = tokens.mask is not None and (self._device.type == "cpu" or self._lean.can_vary())
        # Packed batches use few different numbers of rows, which helps oneDNN. A single query gains nothing.
        packed = padded or (self._lean.packs_weights and tokens.ids.size > _QUERY_TOKENS)
        states = self._packed(self._lean, tokens) if packed else self._padded(self._lean, tokens, mask)
        return {self._output: states, "attention_mask": mask}

    def fault(self) -> str:
        """Why the transformer does not run in this number format, "" where it does."""
        import torch

        try:
            with torch.inference_mode():
                self(PaddedTokens(np.ones((2, 4), dtype=np.int64), None))
        except RuntimeError as error:
            return first_line(error)
        return ""

    def _padded(self, lean: LeanTransformer, tokens: PaddedTokens, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = lean(self._on_device(tokens.ids), None if tokens.mask is None else mask)
        return states.float()

    def _packed(self, lean: LeanTransformer, tokens: PaddedTokens) -> torch.Tensor:
        """Run texts laid end to end, and return their states as a padded batch with zeros for padding."""
        import torch

        from ibkd_retrieval.encoders.backends.packing import places_in_padded

        count, longest = tokens.ids.shape
        lengths = tokens.full_mask.sum(axis=1).tolist()
        places = places_in_padded(lengths, longest)
        bounds = None
        if lean.can_vary():
            bounds = self._on_device(np.cumsum([0, *lengths], dtype=np.int32))
        where = self._on_device(places)
        ids = self._on_device(tokens.ids.reshape(-1)[places])
        states = lean.packed(ids, where % longest, lengths, bounds)
        out = torch.zeros(count * longest, states.shape[1], device=self._device)
        out[where] = states.float()
        return out.view(count, longest, -1)

    def _on_device(self, array: Any) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        # The copy from pinned memory runs in parallel with the computation.
        return tensor.pin_memory().to(self._device, non_blocking=True)


def lean_transformer(model: SentenceTransformer, dtype: torch.dtype) -> LeanTransformer | None:
    """Return the fast form of the model's transformer, None where the architecture has none."""
    from ibkd_retrieval.encoders.autotune.cpu import packs_weights
    from ibkd_retrieval.encoders.backends.lean import LeanTransformer, is_lean

    transformer: Any = model[0]
    if not gives_token_states(model) or not is_lean(transformer.auto_model):
        return None
    lean = LeanTransformer(transformer.auto_model)
    if model.device.type == "cpu" and packs_weights(dtype):
        lean.pack_weights()
    return lean


def gives_token_states(model: SentenceTransformer) -> bool:
    """Whether the further modules of the model read only the states of the transformer's last layer."""
    transformer: Any = model[0]
    return transformer.module_output_name == "token_embeddings" and not getattr(
        transformer.auto_model.config, "output_hidden_states", False
    )


Run = Literal["lean", "tokens", "whole"]
"""The forms of a model: our forward pass, its own on our token ids, or sentence-transformers as a whole."""

_PROBE = ("A river, and the boats on it; 3.14 of them.", "Milk", "cheese and bread")
# Any other setting changes a vector of length 1 by more than this.
_TOLERANCE = 1e-4
# Half formats round more than that. Another setting still changes a vector by tenths of its length.
_HALF_TOLERANCE = 1e-2
# A longer limit would need too long a probe.
_LONGEST = 100_000
_KNOWN = {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length"}


def runs_in_float32(model: SentenceTransformer, backend: str, dtype: str) -> bool:
    """Whether a model in a half format has to be brought to float32 before it is checked and run.

    Other backends and number formats need it. Our own forward pass is checked in it, and its architectures are small.
    """
    from ibkd_retrieval.encoders.backends.backend import weights_in
    from ibkd_retrieval.encoders.backends.lean import is_lean

    transformer: Any = model[0]
    if transformer.auto_model.dtype.itemsize == 4:
        return False
    return is_lean(transformer.auto_model) or weights_in(dtype, backend, str(model.device)) != model.dtype


def faithful_run(model: SentenceTransformer, prompts: Mapping[str, str]) -> Run:
    """Return the fastest form of a transformer that gives the vectors of sentence-transformers.

    Args:
        model: the model on its device, in float32 or a half format. It is not changed.
        prompts: the prompts for each kind of text.
    """
    import torch

    from ibkd_retrieval.encoders.backends.lean import LeanTransformer, is_lean

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

    transformer: Any = model[0]
    kinds: list[Kind] = ["query", "document"]
    with quiet_transformers(), torch.inference_mode():
        if not all(_same_tokens(model, kind, prompts[kind]) for kind in kinds):
            return None
        expected: dict[str, NDArray[np.float32]] = {}
        for kind in kinds:
            if prompts[kind] not in expected:
                expected[prompts[kind]] = _one_by_one(model, kind, prompts[kind])
        tolerance = _TOLERANCE if transformer.auto_model.dtype.itemsize == 4 else _HALF_TOLERANCE
        close = [_close(_on_tokens(model, prompt), vectors, tolerance) for prompt, vectors in expected.items()]
    return expected[prompts["document"]] if all(close) else None


def _close(found: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = _TOLERANCE) -> bool:
    scale = max(1.0, float(np.abs(expected).max()))
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= tolerance * scale)


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
