"""Text to vectors: one model, loaded once, that encodes any number of texts in bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.allocator import keep_freed_memory
from ibkd_retrieval.encoders.batching import token_budget_batches
from ibkd_retrieval.encoders.device import choose_device, choose_dtype
from ibkd_retrieval.encoders.loading import load_sentence_transformer, quiet_transformers
from ibkd_retrieval.encoders.protocol import PreparedTexts, TokenWindow
from ibkd_retrieval.encoders.students import keep_leading_dimensions
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.protocol import Kind
    from ibkd_retrieval.progress import Task

# Texts tokenised at a time: enough for sorting by length to leave little padding, small enough to forget.
_WINDOW = 8192
_TOKENIZED_AT_ONCE = 1024
DEFAULT_BATCH_TOKENS = 4096


class Encoder:
    """A sentence-transformers model behind one call, `encode`.

    Satisfies `TextEncoder`. The transformer computes in `dtype`; pooling and everything after it stay in
    float32, where they cost nothing and rounding would show.

    Attributes:
        batch_tokens: most tokens in one batch, padding counted; may be changed between calls.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        name: str,
        *,
        dtype: str = "auto",
        pooling: str | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> None:
        """Take over a float32 `model`, already on its device; its transformer is converted in place."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        self.name = name
        self.device = str(model.device)
        if self.device == "cpu":
            keep_freed_memory()
        self._static = isinstance(model[0], StaticEmbedding)
        # A static model reads all of a text; 0 says so.
        self.max_length = 0 if self._static else int(model.max_seq_length or 0)
        self.dim = int(model.get_embedding_dimension() or 0)
        self.weight_hash = weight_hash(model)
        self.parameters = count_parameters(model)
        self.model_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        self.pooling = pooling
        self.prompts: Mapping[str, str] = {"query": prompt_of(model, "query"), "document": prompt_of(model, "document")}
        chosen = choose_dtype("float32" if self._static else dtype, self.device)
        self.dtype = str(chosen).removeprefix("torch.")
        self._model = model
        if not self._static:
            model[0].auto_model.to(chosen)
        self.batch_tokens = batch_tokens

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        pooling: str | None = None,
        max_length: int | None = None,
        dim: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> Encoder:
        """Load a model by folder or hub name.

        Args:
            name: sentence-transformers folder, transformers folder, hub name, or the embedded default's name.
            device: "auto", "cpu", "cuda", "cuda:1".
            dtype: "auto", "float32", "bfloat16" or "float16", for the transformer.
            pooling: "mean" or "cls", for a plain transformers encoder.
            max_length: tokens to read of a text; None keeps the model's own limit.
            dim: length to cut vectors to before they are normalised; None keeps all. An encoder of cut vectors has a
                weight hash of its own.
            batch_tokens: most tokens in one batch, padding counted.

        Raises:
            UserError: no such model or device, or a setting the model cannot honour.
        """
        if batch_tokens < 1:
            raise UserError(f"--batch-tokens is {batch_tokens}: give at least 1.")
        model = load_sentence_transformer(name, device=choose_device(device), pooling=pooling, max_length=max_length)
        if dim is not None:
            keep_leading_dimensions(model, dim)
        # A folder is remembered by its full path, so that an index finds its encoder from anywhere.
        known_as = str(Path(name).resolve()) if Path(name).is_dir() else name
        return cls(model, known_as, dtype=dtype, pooling=pooling, batch_tokens=batch_tokens)

    def encode(
        self, texts: Sequence[str], kind: Kind = "document", progress: Task | None = None
    ) -> NDArray[np.float32]:
        """Encode texts, each after the model's prompt for its kind.

        Args:
            texts: [n] strings; an empty one gives the vector of the model's special tokens.
            kind: which prompt to put before them.
            progress: told of the texts done, batch by batch.

        Returns:
            float32 [n, dim], row i for text i.

        Raises:
            UserError: something in `texts` is no text.
        """
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), _WINDOW):
            self._encode_window(self._prepare_window(texts, start, kind), out[start : start + _WINDOW], progress)
        return out

    def prepare(self, texts: Sequence[str], kind: Kind = "document") -> PreparedTexts:
        """Tokenise texts for `encode_prepared`; another thread may do so while this encoder encodes.

        Raises:
            UserError: something in `texts` is no text.
        """
        windows = tuple(self._prepare_window(texts, start, kind) for start in range(0, len(texts), _WINDOW))
        return PreparedTexts(len(texts), windows)

    def encode_prepared(self, prepared: PreparedTexts, progress: Task | None = None) -> NDArray[np.float32]:
        """The second half of `encode`: the same vectors, float32 [n, dim], to the bit."""
        out = np.empty((prepared.count, self.dim), dtype=np.float32)
        for number, window in enumerate(prepared.windows):
            self._encode_window(window, out[number * _WINDOW : (number + 1) * _WINDOW], progress)
        return out

    def _prepare_window(self, texts: Sequence[str], start: int, kind: Kind) -> TokenWindow:
        prompt = self.prompts[kind]
        window = list(texts[start : start + _WINDOW])
        if self._static:
            return TokenWindow(start, prompt, texts=window)
        token_ids: list[NDArray[np.int32]] = []
        for first in range(0, len(window), _TOKENIZED_AT_ONCE):
            part = window[first : first + _TOKENIZED_AT_ONCE]
            found = tokenize(self._model, part, prompt, first=start + first)
            # A list of Python integers takes nine times the memory.
            token_ids += [np.array(ids, dtype=np.int32) for ids in found]
        return TokenWindow(
            start, prompt, token_ids=token_ids, prompt_length=excluded_prompt_length(self._model, prompt)
        )

    def _encode_window(self, window: TokenWindow, out: NDArray[np.float32], progress: Task | None) -> None:
        import torch

        if self._static:
            with _text_errors(window.texts, window.start):
                # The prompt is given in full: without one, the model would put its default prompt there.
                out[:] = self._model.encode(
                    list(window.texts), prompt=window.prompt, convert_to_numpy=True, show_progress_bar=False
                )
            if progress is not None:
                progress.advance(len(window.texts))
            return
        for rows in token_budget_batches([len(ids) for ids in window.token_ids], self.batch_tokens):
            features = pad(self._model, [window.token_ids[row] for row in rows])
            if window.prompt_length:
                features["prompt_length"] = window.prompt_length
            with torch.inference_mode():
                out[rows] = self._forward(features).cpu().numpy()
            if progress is not None:
                progress.advance(len(rows))

    def _forward(self, features: dict[str, Any]) -> torch.Tensor:
        transformer: Any = self._model[0]
        features = transformer(features)
        features[transformer.module_output_name] = features[transformer.module_output_name].float()
        for module in list(self._model)[1:]:
            features = module(features)
        return features["sentence_embedding"]  # type: ignore[no-any-return]


def excluded_prompt_length(model: SentenceTransformer, prompt: str) -> int:
    """Tokens of the prompt that the model's pooling is to leave out, 0 where it includes them."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    if not prompt or not any(isinstance(module, Pooling) and not module.include_prompt for module in model):
        return 0
    ids = model.tokenizer(prompt)["input_ids"]
    # A closing special token belongs to the text that follows, not to the prompt.
    return len(ids) - (ids[-1] in model.tokenizer.all_special_ids)


def tokenize(model: SentenceTransformer, texts: Sequence[str], prompt: str = "", *, first: int = 0) -> list[list[int]]:
    """Token ids of each text with special tokens, cut to the model's length, not padded.

    Lower-casing, where the model asks for it, is part of its tokenizer since it was loaded.

    Args:
        model: whose tokenizer and length limit count.
        texts: what to tokenise.
        prompt: put before every text.
        first: position of the first text in the caller's list, for error messages.

    Raises:
        UserError: a text is not a string or holds a lone surrogate, named by its position.
    """
    with _text_errors(texts, first):
        encoded = model.tokenizer(
            [prompt + text for text in texts],
            truncation=True,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
    return encoded["input_ids"]  # type: ignore[no-any-return]


@contextlib.contextmanager
def _text_errors(texts: Sequence[str], first: int) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, AttributeError, UnicodeEncodeError) as error:
        for position, text in enumerate(texts, start=first):
            if not isinstance(text, str):
                raise UserError(f"Text number {position} is {text!r}, not a string: give strings.") from error
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise UserError(
                    f"Text number {position} holds a lone surrogate: replace it before encoding."
                ) from error
        raise


def pad(model: SentenceTransformer, token_ids: Sequence[Sequence[int] | NDArray[np.int32]]) -> dict[str, Any]:
    """Put token ids of n texts into tensors [n, longest] on the model's device, with their attention mask."""
    import torch

    longest = max(len(ids) for ids in token_ids)
    ids = np.full((len(token_ids), longest), model.tokenizer.pad_token_id or 0, dtype=np.int64)
    mask = np.zeros((len(token_ids), longest), dtype=np.int64)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    device = model.device
    return {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}


class ParameterCount(dict[str, int]):
    """Parameters by part: "embedding" (token tables), "transformer" (all else)."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.values())


def count_parameters(model: SentenceTransformer) -> ParameterCount:
    """Count parameters, the token and position tables apart from the layers that compute."""
    import torch

    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)
        for parameter in module.parameters()
    }
    embedding = sum(p.numel() for p in model.parameters() if id(p) in tables)
    total = sum(p.numel() for p in model.parameters())
    return ParameterCount(embedding=embedding, transformer=total - embedding)


def weight_hash(model: SentenceTransformer) -> str:
    """SHA-256 over what decides a vector: weights, modules and their settings, tokens, prompts, length."""
    digest = hashlib.sha256()
    settings = {
        "modules": [[type(module).__name__, _settings(module)] for module in model],
        "prompts": dict(sorted((model.prompts or {}).items())),
        "max_length": model.max_seq_length,
        "tokens": _tokens_digest(model.tokenizer),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def _settings(module: Any) -> Any:
    """The module's own settings; a transformer's are in its weights and its architecture's name."""
    if hasattr(module, "auto_model"):
        config = module.auto_model.config
        return [config.model_type, config.num_attention_heads, str(config.hidden_act), module.do_lower_case]
    return module.get_config_dict() if hasattr(module, "get_config_dict") else None


# Upper case, accents, compatibility forms, scripts without spaces, digits, white space: what tokenizers treat apart.
_TOKENIZER_PROBE = "Straße naïve İstanbul ﬁne CamelCase snake_case 3.14 東京 [SEP] <s>\tdon't 🙂"


def _tokens_digest(tokenizer: Any) -> str:
    """A digest of the vocabulary and of how a probe is cut, which outlasts a change of the tokenizer's file format."""
    if tokenizer is None:
        return ""
    with quiet_transformers():  # A model that reads fewer tokens than the probe has would warn.
        found = tokenizer.encode(_TOKENIZER_PROBE)
    ids = getattr(found, "ids", found)
    return hashlib.sha256(json.dumps([sorted(tokenizer.get_vocab().items()), ids]).encode()).hexdigest()


def prompt_of(model: SentenceTransformer, kind: Kind) -> str:
    """The prompt a model puts before texts of a kind, "" where it asks for none."""
    prompts = model.prompts or {}
    names = ("query",) if kind == "query" else ("document", "passage", "corpus")
    return next((prompt for name in names if (prompt := prompts.get(name))), "")
