"""The encoder: a model that is loaded once and encodes any number of texts in bounded memory."""

from __future__ import annotations

import copy
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.backends.backend import check_choice, check_static, open_backend, weights_in
from ibkd_retrieval.encoders.backends.torch_modules import faithful_run, runs_in_float32
from ibkd_retrieval.encoders.device import choose_device, give_freed_memory_back, keep_freed_memory
from ibkd_retrieval.encoders.endpoints.address import is_endpoint
from ibkd_retrieval.encoders.loading import load_sentence_transformer, quiet_transformers
from ibkd_retrieval.encoders.prompts import check_prompt, prompt_of, set_prompts, word_on_prompts
from ibkd_retrieval.encoders.protocol import PreparedTexts, TokenWindow
from ibkd_retrieval.encoders.routes import QUERY_ROUTE, query_route, routes
from ibkd_retrieval.encoders.students import is_static, keep_leading_dimensions
from ibkd_retrieval.encoders.threads import side_by_side, thread_count
from ibkd_retrieval.encoders.tokens import (
    check_ids,
    cut_to_length,
    default_batch_tokens,
    excluded_prompt_length,
    pad_ids,
    static_tokens,
    text_errors,
    token_budget_batches,
    tokenize,
)
from ibkd_retrieval.encoders.weights import (
    count_parameters,
    former_weight_hash,
    weight_hash,
)
from ibkd_retrieval.encoders.word_tokenizer import WordTokens, reads_words_alone
from ibkd_retrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.backends.backend import Backend
    from ibkd_retrieval.encoders.backends.torch_modules import Run
    from ibkd_retrieval.encoders.endpoints.address import EndpointTerms
    from ibkd_retrieval.encoders.protocol import Kind
    from ibkd_retrieval.encoders.tokens import PaddedTokens
    from ibkd_retrieval.progress import Progress, Task

# Texts that are sorted by length together: enough for little padding, few enough for little memory.
_WINDOW = 8192
# A smaller window for a GPU, which encodes faster than the processor tokenises.
_GPU_WINDOW = 2048
_TOKENIZED_AT_ONCE = 1024
Prefer = Callable[[str, str], tuple[str, str] | None]
_KINDS: dict[str, Kind] = {"document": "document", "documents": "document", "query": "query", "queries": "query"}


@dataclass(frozen=True)
class _Loaded:
    """What of an encoder takes memory: the model and what runs it."""

    model: SentenceTransformer
    backend: Backend | None = None
    words: WordTokens | None = None
    queries: Encoder | None = None


class Encoder:
    """A sentence-transformers model behind one call, `encode`.

    It satisfies `TextEncoder`. `backend` runs the transformer in `dtype`. Pooling and the modules after it run in
    float32 for every backend. They cost little, and rounding would show there.

    `release` frees the weights of an encoder that knows how to load itself again.

    Attributes:
        backend: "torch", "onnx" or "openvino".
        batch_tokens: the most tokens in one batch, with padding. It may be changed between calls.
        weight_hash: the hash of everything that decides the vectors.
        former_hash: the weight hash of version 0.1.0, which leaves out settings of the architecture.
        width: the length of the token states of the transformer. It is `dim` for a static model.
        remembered_queries: the number of recent single queries whose vectors are cached. The default is 0. The server
            raises it, because queries repeat.
    """

    _loaded: _Loaded | None = None

    def __init__(
        self,
        model: SentenceTransformer,
        name: str,
        *,
        dtype: str = "auto",
        pooling: str | None = None,
        batch_tokens: int | None = None,
        backend: str = "torch",
        prefer: Prefer | None = None,
        again: Callable[[], Encoder] | None = None,
    ) -> None:
        """Take over a `model` on its device, in float32 or in the `dtype` it is stored in.

        Its transformer is converted in place. `again` loads the same encoder anew after `release`.
        """
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        self.name = name
        self.device = str(model.device)
        if self.device == "cpu":
            keep_freed_memory()
        self._static = isinstance(model[0], StaticEmbedding)
        # A static model reads all of a text; 0 says so.
        self.max_length = 0 if self._static else int(model.max_seq_length or 0)
        self.dim = int(model.get_embedding_dimension() or 0)
        transformer: Any = model[0]
        self.width = self.dim if self._static else int(transformer.get_embedding_dimension())
        self.weight_hash = weight_hash(model)
        self.former_hash = former_weight_hash(model, self.weight_hash)
        self.parameters = count_parameters(model)
        self.model_bytes = sum(p.numel() * p.element_size() for each in routes(model) for p in each.parameters())
        self.pooling = pooling
        self.prompts: Mapping[str, str] = {
            "query": prompt_of(model, "query"),
            "document": prompt_of(model, "document"),
        }
        self.batch_tokens = default_batch_tokens(self.device) if batch_tokens is None else batch_tokens
        self._window = _GPU_WINDOW if self.device.startswith("cuda") else _WINDOW
        self.remembered_queries = 0
        self._recent: dict[str, NDArray[np.float32]] = {}
        self._recent_lock = threading.Lock()
        self._again = again
        self._together = [self]
        alone = self._static and reads_words_alone(model.tokenizer)
        self._loaded = _Loaded(model, words=WordTokens(model.tokenizer) if alone else None)
        self._excluded = self._excluded_lengths()
        self._padding = 0 if self._static else int(model.tokenizer.pad_token_id or 0)
        if prefer is not None and not self._static:
            backend, dtype = prefer(self.weight_hash, self.device) or (backend, dtype)
        check_choice(backend, dtype, self.device)
        if not self._static and runs_in_float32(model, backend, dtype):
            model.float()
        self._run: Run = "tokens" if self._static else faithful_run(model, self.prompts)
        self._tokenizing = threading.Lock()
        if not self._static:
            opened = open_backend(model, backend, dtype, self.weight_hash, run=self._run)
            self._loaded = replace(self._present, backend=opened)
        if (queries := query_route(model)) is not None:
            encoder = Encoder(queries, name, dtype=dtype, batch_tokens=batch_tokens, backend=backend)
            self._loaded = replace(self._present, queries=encoder)
        self.backend = "torch" if self._backend is None else self._backend.name
        self.dtype = "float32" if self._backend is None else self._backend.dtype
        if not self._static:
            cut_to_length(model)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        pooling: str | None = None,
        max_length: int | None = None,
        dim: int | None = None,
        batch_tokens: int | None = None,
        backend: str = "torch",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        prefer: Prefer | None = None,
        endpoint: EndpointTerms | None = None,
        recorded: str | None = None,
        progress: Progress | None = None,
    ) -> Encoder:
        """Load a model by folder or hub name, or open an endpoint.

        Args:
            name: a sentence-transformers folder, a transformers folder, a hub name, the name of the default teacher, or
                `http://HOST/v1#MODEL` for a model behind an OpenAI-style endpoint.
            device: "auto", "cpu", "cuda", "cuda:1".
            dtype: "auto", "float32", "bfloat16", "float16" or "int8", for the transformer.
            pooling: "mean", "cls" or "lasttoken", in place of the folder's own.
            max_length: tokens to read of a text; None keeps the model's own limit.
            dim: length to cut vectors to before they are normalised; None keeps all. An encoder of cut vectors has a
                weight hash of its own.
            batch_tokens: most tokens in one batch, padding counted; None for what suits the device.
            backend: "torch", "onnx", "openvino"; "auto" is torch, and for int8 the first that is installed.
            query_prompt: the text before every query. None keeps the prompt of the model.
            document_prompt: the text before every document. None keeps the prompt of the model.
            prefer: a function of the weight hash and the device of a transformer. It is called before the backend is
                opened, and returns the backend and number format to use, or None to keep those given.
            endpoint: what may be spent on an endpoint, and how fast. None is the usual terms.
            recorded: the weight hash of the record that names an endpoint, if the user does not name it.
            progress: the display of warnings about missing prompts. None gives a Python warning.

        Raises:
            UserError: no such model or device, or a setting the model cannot honour.
            MissingPackage: the backend is not installed.
            WorkFailed: the files for the backend cannot be stored.

        Example:
            >>> encoder = Encoder.load("all-MiniLM-L6-v2", device="cpu", dtype="float32")
            >>> encoder.encode(["a boat on the river", "bread and cheese"]).shape
            (2, 384)
            >>> query = encoder.encode(["who bakes bread?"], kind="queries")
            >>> (query @ encoder.encode(["bread and cheese"], kind="documents").T).shape
            (1, 1)
        """
        if batch_tokens is not None and batch_tokens < 1:
            raise UserError(f"`batch_tokens` is {batch_tokens}: give at least 1.")
        check_prompt(query_prompt, "query_prompt")
        check_prompt(document_prompt, "document_prompt")
        name = str(name)
        if is_endpoint(name):
            from ibkd_retrieval.encoders.endpoints.encoder import EndpointEncoder

            return EndpointEncoder.open(
                name,
                terms=endpoint,
                query_prompt=query_prompt,
                document_prompt=document_prompt,
                dim=dim,
                recorded=recorded,
                progress=progress,
                dtype=dtype,
                backend=backend,
                pooling=pooling,
                max_length=max_length,
            )
        device = choose_device(device)
        model = load_sentence_transformer(
            name, device=device, pooling=pooling, max_length=max_length, dtype=weights_in(dtype, backend, device)
        )
        if is_static(model):
            check_static(name, backend, dtype)
        for each in routes(model):
            if dim is not None:
                keep_leading_dimensions(each, dim)
        set_prompts(model, query_prompt, document_prompt)
        asked = query_prompt is None and document_prompt is None
        word = word_on_prompts(name, (model.prompts or {}).values(), known=True) if asked else None
        if word is not None and progress is not None:
            progress.say(word)
        elif word is not None:
            warnings.warn(word, stacklevel=2)
        # An index stores the full path of a folder, so that it finds its encoder from anywhere.
        known_as = str(Path(name).resolve()) if Path(name).is_dir() else name
        return cls(
            model,
            known_as,
            dtype=dtype,
            pooling=pooling,
            batch_tokens=batch_tokens,
            backend=backend,
            prefer=prefer,
        )

    @property
    def held_bytes(self) -> int:
        """The bytes of the weights in memory. 0 after `release`."""
        return 0 if self._loaded is None else self.model_bytes

    def release(self) -> None:
        """Free the weights, also for the copies that share them. They are loaded again for the next text.

        An encoder that cannot load itself again keeps them.
        """
        for each in self._together:
            if each._again is not None:
                each._loaded = None
        give_freed_memory_back()

    @property
    def layers(self) -> int | None:
        """Number of transformer layers, None of a model whose configuration does not tell."""
        if self._static:
            return 0
        config = getattr(getattr(self._model[0], "auto_model", None), "config", None)
        return getattr(config and config.get_text_config(), "num_hidden_layers", None)

    @property
    def _present(self) -> _Loaded:
        if self._loaded is not None:
            return self._loaded
        anew = cast(Callable[[], Encoder], self._again)()
        if anew.weight_hash != self.weight_hash:
            raise UserError(f"The model `{self.name}` was changed while it was in use: run again.")
        self._loaded = anew._present
        return self._loaded

    @property
    def _model(self) -> SentenceTransformer:
        return self._present.model

    @property
    def _backend(self) -> Backend | None:
        return self._present.backend

    @property
    def _words(self) -> WordTokens | None:
        return self._present.words

    def _excluded_lengths(self) -> dict[str, int]:
        # Computed once, because this call of transformers turns truncation off, and threads share the tokenizer.
        return {
            kind: 0 if self._static else excluded_prompt_length(self._model, prompt)
            for kind, prompt in self.prompts.items()
        }

    def for_sentences(self) -> Encoder:
        """Return the same model without the prompts for queries and documents, for other texts.

        A default prompt, where the model's folder names one, is kept.
        """
        if not any(self.prompts.values()):
            return self
        default = (self._model.prompts or {}).get(self._model.default_prompt_name or "") or ""
        other = copy.copy(self)
        other.prompts = {"query": default, "document": default}
        other._excluded = other._excluded_lengths()
        other._recent, other._recent_lock = {}, threading.Lock()
        if not other._static:
            cut_to_length(other._model)
        return other

    def shortened(self, max_length: int, weight_hash: str, again: Callable[[], Encoder] | None = None) -> Encoder:
        """Return the same model, with the same weights in memory, that reads fewer tokens of a text.

        Args:
            max_length: the most tokens to read of a text.
            weight_hash: the weight hash of the model with this length, taken before its transformer was converted.
            again: loads this shorter model anew after `release`.
        """
        other = copy.copy(self)
        kept = [*self._model.parameters(), *self._model.buffers(), *vars(self._model).get(QUERY_ROUTE, ())]
        model = copy.deepcopy(self._model, {id(each): each for each in kept})
        model.max_seq_length = other.max_length = max_length
        queries = self._present.queries
        if queries is not None and not queries._static:
            queries = queries.shortened(min(max_length, queries.max_length), queries.weight_hash)
        other._loaded = replace(self._present, model=model, queries=queries)
        other._again = again
        self._together.append(other)
        other.weight_hash = other.former_hash = weight_hash
        other._tokenizing = threading.Lock()
        other._recent, other._recent_lock = {}, threading.Lock()
        cut_to_length(other._model)
        return other

    def keep_for_queries(self, name: str, asked: Mapping[str, Any]) -> None:
        """Let `quick.open_quickly` open this model, loaded by a name and with settings, where it can run it."""
        from ibkd_retrieval.encoders.quick import keep

        keep(self, self._model, self._run, name, asked)

    def __repr__(self) -> str:
        """Return the name, the number of dimensions and the backend configuration in one line."""
        return f"<encoder {self.name}: {self.dim} dimensions, {self.backend} {self.dtype} on {self.device}>"

    def encode(
        self,
        texts: Sequence[str],
        kind: Kind | Literal["queries", "documents"] = "document",
        progress: Task | None = None,
    ) -> NDArray[np.float32]:
        """Encode texts with the model's prompt for their kind.

        Args:
            texts: [n] strings. An empty one gives the vector of the model's special tokens.
            kind: "documents" or "queries", or the singular. It decides the prompt.
            progress: the display. It advances by the texts done, batch by batch.

        Returns:
            Vectors, float32 [n, dim]. Row i is for text i. Inner products order them as the model's own similarity
            does.

        Raises:
            UserError: an item of `texts` is not a string, or the kind is unknown.
        """
        if isinstance(texts, str):
            raise UserError(f"`texts` is one text, {texts!r}: give a list of texts.")
        if kind not in _KINDS:
            raise UserError(f"Unknown kind `{kind}` of texts: use documents or queries.")
        kind = _KINDS[kind]
        if self.remembered_queries and kind == "query" and len(texts) == 1 and isinstance(texts[0], str):
            return self._remembered(texts[0])
        return self._encoded(texts, kind, progress)

    def _remembered(self, query: str) -> NDArray[np.float32]:
        with self._recent_lock:
            found = self._recent.get(query)
        if found is None:
            found = self._encoded([query], "query", None)
        with self._recent_lock:
            self._recent.pop(query, None)
            self._recent[query] = found  # The newest query is dropped last.
            while len(self._recent) > self.remembered_queries:
                del self._recent[next(iter(self._recent))]
        return found.copy()

    def _of(self, kind: Kind) -> Encoder:
        """The encoder of a kind of text: another one for queries, where they have a route of their own."""
        queries = self._present.queries if kind == "query" else None
        return self if queries is None else queries

    def _encoded(self, texts: Sequence[str], kind: Kind, progress: Task | None) -> NDArray[np.float32]:
        if (other := self._of(kind)) is not self:
            return other._encoded(texts, kind, progress)
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for window in self._windows(texts, kind):
            self._encode_window(window, out[window.start : window.start + len(window.lengths)], progress)
        return out

    def _windows(self, texts: Sequence[str], kind: Kind) -> Iterator[TokenWindow]:
        """Yield windows of tokenised texts. The next window is tokenised while this one is encoded."""
        starts = range(0, len(texts), self._window)
        if len(starts) < 2:
            yield from (self._prepare_window(texts, start, kind) for start in starts)
            return
        # The tokenizer uses all cores, and the word lookup uses one.
        at_once = 1 if self._words is None else _threads()
        with ThreadPoolExecutor(at_once, thread_name_prefix="tokenising") as pool:
            under_way: deque[Future[TokenWindow]] = deque()
            for start in starts:
                under_way.append(pool.submit(self._prepare_window, texts, start, kind))
                if len(under_way) > at_once:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

    def prepare(self, texts: Sequence[str], kind: Kind = "document") -> PreparedTexts:
        """Tokenise texts for `encode_prepared`. Another thread may do so while this encoder encodes.

        Raises:
            UserError: an item of `texts` is not a string.
        """
        return PreparedTexts(len(texts), tuple(self._of(kind)._windows(texts, kind)))

    def encode_prepared(self, prepared: PreparedTexts, progress: Task | None = None) -> NDArray[np.float32]:
        """Encode prepared texts into float32 [n, dim], with exactly the bits that `encode` gives."""
        out = np.empty((prepared.count, self.dim), dtype=np.float32)
        for window in prepared.windows:
            self._of(window.kind)._encode_window(
                window, out[window.start : window.start + len(window.lengths)], progress
            )
        return out

    def token_counts(self, texts: Sequence[str], kind: Kind = "document") -> list[int]:
        """How many tokens are read of each text, prompt and special tokens included.

        Raises:
            UserError: an item of `texts` is not a string.
        """
        if (other := self._of(kind)) is not self:
            return other.token_counts(texts, kind)
        if self._run == "whole":
            return self._whole_lengths(texts, kind, 0)
        return [len(ids) for ids in tokenize(self._model, texts, self.prompts[kind])]

    def operations(self, texts: Sequence[str]) -> float:
        """Multiplications and additions in the transformer's matrix products for documents, padding not counted.

        A layer of width h takes 8 h² + 4 h f a token for its linear layers, f wide within, and 4 h n for the attention
        of n tokens.
        """
        if self._static:
            return 0.0
        transformer: Any = self._model[0]
        config = transformer.auto_model.config.get_text_config()
        width, layers = int(config.hidden_size), int(config.num_hidden_layers)
        inner = (getattr(config, name, None) for name in ("intermediate_size", "d_ff", "d_inner"))
        within = int(next(filter(None, inner), 4 * width))
        lengths = np.array(self.token_counts(texts), dtype=np.float64)
        return float(layers * ((8 * width * width + 4 * width * within) * lengths + 4 * width * lengths**2).sum())

    def _prepare_window(self, texts: Sequence[str], start: int, kind: Kind) -> TokenWindow:
        prompt = self.prompts[kind]
        window = texts[start : start + self._window]
        if self._run == "whole":
            return TokenWindow(start, self._whole_lengths(window, kind, start), (), texts=window, kind=kind)
        token_ids: list[NDArray[np.int32]] = []
        lengths: list[int] = []
        # Words looked up are no lists, and the more texts the fewer of them.
        at_once = _TOKENIZED_AT_ONCE if self._words is None else self._window
        for first in range(0, len(window), at_once):
            part = window[first : first + at_once]
            if self._static:
                ids, counts = static_tokens(self._model, part, prompt, self._words, first=start + first)
                token_ids.append(ids)
                lengths += counts.tolist()
                continue
            found = tokenize(self._model, part, prompt, first=start + first)
            lengths += map(len, found)
            # A list of Python integers uses nine times the memory.
            token_ids += [np.array(each, dtype=np.int32) for each in found]
        return TokenWindow(start, lengths, token_ids, self._excluded[kind], kind=kind)

    def _features(self, texts: Sequence[str], kind: Kind, first: int = 0) -> dict[str, Any]:
        """Preprocess texts with sentence-transformers, one thread at a time, because the tokenizer is shared."""
        with self._tokenizing, text_errors(texts, first), quiet_transformers():
            features = self._model.preprocess(list(texts), prompt=self.prompts[kind] or None, task=kind)
        check_ids(self._model, features["input_ids"].amax(dim=1).tolist(), first)
        return features

    def _whole_lengths(self, texts: Sequence[str], kind: Kind, first: int) -> list[int]:
        lengths: list[int] = []
        for begin in range(0, len(texts), _TOKENIZED_AT_ONCE):
            features = self._features(texts[begin : begin + _TOKENIZED_AT_ONCE], kind, first + begin)
            lengths += features["attention_mask"].sum(dim=1).tolist()
        return lengths

    @property
    def batches_at_once(self) -> int:
        """The number of batches in memory at once while many texts are encoded."""
        # The other backends manage their own threads.
        alone = self._static or self._run == "whole"
        return thread_count() if self.backend == "torch" and self.device == "cpu" and not alone else 1

    def _encode_window(self, window: TokenWindow, out: NDArray[np.float32], progress: Task | None) -> None:
        backend = self._backend
        if backend is None:
            out[:] = self._static_vectors(window)
            if progress is not None:
                progress.advance(len(window.lengths))
            return

        def encode(rows: NDArray[np.int64]) -> torch.Tensor:
            with self._reading([window.lengths[row] for row in rows]):
                if self._run == "whole":
                    return self._whole_vectors([window.texts[row] for row in rows], window.kind)
                tokens = pad_ids([window.token_ids[row] for row in rows], self._padding)
                return self._vectors(backend, tokens, window.prompt_length)

        batches = list(token_budget_batches(window.lengths, self.batch_tokens))
        fetching = _Fetching(out)
        several = self.batches_at_once > 1
        # If `progress` raises, the traceback keeps this frame alive, and the generator with it. It is closed, so that
        # it computes no further batches.
        with closing(side_by_side(encode, batches) if several else (encode(rows) for rows in batches)) as vectors:
            for rows, found in zip(batches, vectors, strict=True):
                fetching.take(rows, found)
                if progress is not None:
                    progress.advance(len(rows))
        fetching.finish()

    @contextmanager
    def _reading(self, lengths: Sequence[int]) -> Iterator[None]:
        """Turn an architecture's own error for a batch into a message. Our own forward pass has none.

        Raises:
            UserError: the architecture cannot compute the batch.
        """
        try:
            yield
        except (RuntimeError, IndexError, ValueError) as error:
            if self._run == "lean" or "memory" in str(error):
                raise
            raise UserError(
                f"`{self.name}` cannot read a batch of {len(lengths)} texts of up to {max(lengths)} tokens "
                f"({first_line(error).rstrip('.')}): give a smaller `max_length`, or another model."
            ) from error

    def _static_vectors(self, window: TokenWindow) -> NDArray[np.float32]:
        import torch

        ids = np.concatenate(window.token_ids).astype(np.int64)
        offsets = np.cumsum([0, *window.lengths[:-1]], dtype=np.int64)
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids).to(self._model.device),
            "offsets": torch.from_numpy(offsets).to(self._model.device),
        }
        with torch.inference_mode():
            for module in self._model:
                features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"]
        return vectors.float().cpu().numpy()

    def _whole_vectors(self, texts: Sequence[str], kind: Kind) -> torch.Tensor:
        import torch

        transformer: Any = self._model[0]
        features = self._features(texts, kind)
        features = {k: v.to(self._model.device) if hasattr(v, "to") else v for k, v in features.items()}
        with torch.inference_mode():
            features = transformer(features)
            features[transformer.module_output_name] = features[transformer.module_output_name].float()
            for module in list(self._model)[1:]:
                # A router takes the way for the kind.
                further = {"task": kind} if "task" in getattr(module, "forward_kwargs", ()) else {}
                features = module(features, **further)
        return features["sentence_embedding"]  # type: ignore[no-any-return]

    def _vectors(self, backend: Backend, tokens: PaddedTokens, prompt_length: int) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            features = backend(tokens)
            if prompt_length:
                features["prompt_length"] = prompt_length
            for module in list(self._model)[1:]:
                features = module(features)
        return features["sentence_embedding"]  # type: ignore[no-any-return]


def _threads() -> int:
    import torch

    return torch.get_num_threads()


class _Fetching:
    """Copies vectors into the result. Vectors of a GPU are copied while it computes the next batch."""

    def __init__(self, out: NDArray[np.float32]) -> None:
        self._out = out
        self._under_way: tuple[NDArray[np.int64], torch.Tensor, Any] | None = None

    def take(self, rows: NDArray[np.int64], vectors: torch.Tensor) -> None:
        """Copy `vectors` into `rows`, at once or before `finish` returns."""
        if vectors.device.type != "cuda":
            self._out[rows] = vectors.numpy()
            return
        import torch

        host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        host.copy_(vectors, non_blocking=True)
        copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self.finish()
        self._under_way = rows, host, copied

    def finish(self) -> None:
        """Wait for the pending copy."""
        if self._under_way is not None:
            rows, host, copied = self._under_way
            copied.synchronize()
            self._out[rows] = host.numpy()
            self._under_way = None
