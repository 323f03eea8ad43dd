"""A model behind an endpoint, as an encoder: batches, a watch over the model's identity, and what was paid for."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.endpoints.address import Address, EndpointTerms
from ibkd_retrieval.encoders.endpoints.client import Client, TooMuch
from ibkd_retrieval.encoders.endpoints.cost import tokens_of
from ibkd_retrieval.encoders.endpoints.identity import (
    PROBE,
    SAME,
    Known,
    check_used,
    folder_of,
    hash_of,
    recognise,
    settings_of,
)
from ibkd_retrieval.encoders.endpoints.paid import PaidVectors, key_of
from ibkd_retrieval.encoders.prompts import word_on_prompts
from ibkd_retrieval.encoders.protocol import PreparedTexts, TokenWindow
from ibkd_retrieval.encoders.tokens import has_lone_surrogate
from ibkd_retrieval.encoders.weights import ParameterCount
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import Kind
    from ibkd_retrieval.progress import Progress, Task

_FIRST_TEXTS, _MOST_TEXTS = 8, 128
"""In the first request, and in later ones. The number follows the time that an answer takes."""
_FAST, _SLOW = 4.0, 15.0
"""Seconds of an answer that make requests larger and smaller."""
_MOST_TOKENS = 50_000
"""In a request, which OpenAI limits to 2,048 texts and 300,000 tokens."""
_MEASURED = 100
"""Texts from which the speed of an endpoint is told."""
_UNWATCHED = 32
"""Queries that may be sent without a text of the probe among them."""


class EndpointEncoder(Encoder):
    """A model behind an endpoint. Its vectors are brought to unit length.

    Every request for documents carries a text of the probe, whose vector tells when the model has changed.

    Attributes:
        terms: what may be spent, and how fast.
        tokens: the tokens that the endpoint has counted so far.
    """

    def __init__(
        self, client: Client, terms: EndpointTerms, *, query_prompt: str, document_prompt: str, dim: int | None
    ) -> None:
        """Ask for the vectors of the probe, which tell the length of a vector and the identity of the model."""
        self._client, self.terms = client, terms
        self.name = str(client.address)
        self.device, self.dtype, self.backend = "cpu", "float32", "endpoint"
        self.pooling, self.max_length = None, 0
        self.prompts = {"query": query_prompt, "document": document_prompt}
        self.parameters = ParameterCount(embedding=0, transformer=0)
        self.model_bytes, self.batch_tokens = 0, _MOST_TOKENS
        self.remembered_queries = 0
        self._recent: dict[str, NDArray[np.float32]] = {}
        self._recent_lock = threading.Lock()
        self._lock = threading.Lock()
        self._most, self._unwatched, self._turn = _FIRST_TEXTS, 0, 0
        self.tokens, self._texts, self._seconds = 0, 0, 0.0
        self._paid: PaidVectors | None = None
        try:
            self._probe = self._asked(list(PROBE), "document")
        except TooMuch:
            self._probe = np.concatenate([self._asked([text], "document") for text in PROBE])
        self._whole = self._probe.shape[1]
        if dim is not None and dim > self._whole:
            raise UserError(
                f"`dim` is {dim}, and the vectors of {self.name} have {self._whole} dimensions: give that or less."
            )
        self.dim = self.width = dim or self._whole
        self._folder = folder_of(client.address, self.prompts)
        settings = settings_of(client.address, self.prompts)
        settings += "" if self.dim == self._whole else f" cut to {self.dim}"
        known = Known(self._folder)
        self.weight_hash = self.former_hash = known.recognise(hash_of(self._probe, settings))
        known.remember(self.weight_hash, client.address.url)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        terms: EndpointTerms | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        dim: int | None = None,
        recorded: str | None = None,
        of: Literal["", "teacher_"] = "",
        progress: Progress | None = None,
        **settings: Any,
    ) -> Self:
        """Open a model by its address.

        Args:
            name: `http://HOST/v1#MODEL`, with settings as `Address` has them.
            terms: the cost that is agreed to, and the pace.
            query_prompt: the text put before every query.
            document_prompt: the text put before every document.
            dim: the leading dimensions to keep of a vector.
            recorded: the weight hash of an index or a student that names this endpoint. The model must be that one.
                An endpoint that was not used here before is refused: the record may be a stranger's, and the queries
                and the key would be sent to it.
            of: the beginning of the names of the parameters, for messages.
            progress: receives a word on prompts that may be missing.
            settings: those of `Encoder.load` that are for models which run here. They are refused unless they are the
                usual ones.

        Raises:
            UserError: the address is wrong, nothing answers there, it refuses, or a setting is for other models.
            MissingPackage: the package openai is not installed.
        """
        address = Address.parse(name)
        usual: dict[str, tuple[Any, ...]] = {"dtype": ("auto", "float32"), "backend": ("auto", "torch", "endpoint")}
        if wrong := [name for name, value in settings.items() if value not in usual.get(name, (None,))]:
            raise UserError(
                f"{', '.join(f'`{of}{name}`' for name in wrong)} is for a model that runs here, and {address} is an "
                "endpoint: leave it out; max_characters=NUMBER in the address limits what is sent of a text."
            )
        prompts = {"query": query_prompt or "", "document": document_prompt or ""}
        if recorded is not None:
            check_used(address)
        word = word_on_prompts(address.model, prompts.values(), known=True, of=of) if not address.input_types else None
        if word is not None and progress is not None:
            progress.say(word)
        terms = terms or EndpointTerms()
        encoder = cls(
            Client(address, terms),
            terms,
            query_prompt=prompts["query"],
            document_prompt=prompts["document"],
            dim=dim,
        )
        recognise(encoder, recorded or "")
        return encoder

    def keep_paid(self) -> Self:
        """Write every vector to the user's cache as it arrives, and ask for none that is there. Returns itself."""
        self._paid = PaidVectors(self._folder / self.weight_hash[:16], self.dim)
        return self

    @property
    def texts_per_second(self) -> float:
        """The texts that a second of waiting for answers brought, 0 where there were few."""
        return self._texts / max(self._seconds, 1e-9) if self._texts >= _MEASURED else 0.0

    @property
    def input_types(self) -> Mapping[str, str]:
        """What the endpoint is told of a text, by its kind. Empty for nothing."""
        return self._client.address.input_types

    @property
    def layers(self) -> None:
        """None: an endpoint does not tell."""
        return None

    @property
    def held_bytes(self) -> int:
        """No weights are in memory."""
        return 0

    def release(self) -> None:
        """There is nothing to free."""

    @property
    def batches_at_once(self) -> int:
        """Nothing is in memory for a batch."""
        return 1

    def for_sentences(self) -> EndpointEncoder:
        """Return the same model without prompts."""
        other = copy.copy(self)
        other.prompts = {"query": "", "document": ""}
        other._recent, other._recent_lock = {}, threading.Lock()
        return other

    def token_counts(self, texts: Sequence[str], kind: Kind = "document") -> list[int]:
        """About how many tokens are read of each text.

        Raises:
            UserError: an item of `texts` is not a string, or has a lone surrogate.
        """
        return [tokens_of(text) for text in self._as_sent(texts, kind)]

    def operations(self, texts: Sequence[str]) -> float:
        """None are done here."""
        return 0.0

    def prepare(self, texts: Sequence[str], kind: Kind = "document") -> PreparedTexts:
        """Keep the texts for `encode_prepared`: the endpoint tokenises.

        Raises:
            UserError: an item of `texts` is not a string, or has a lone surrogate.
        """
        return PreparedTexts(
            len(texts), (TokenWindow(0, self.token_counts(texts, kind), (), texts=tuple(texts), kind=kind),)
        )

    def encode_prepared(self, prepared: PreparedTexts, progress: Task | None = None) -> NDArray[np.float32]:
        """Encode prepared texts into float32 [n, dim]."""
        (window,) = prepared.windows
        return self._encoded(window.texts, window.kind, progress)

    def _as_sent(self, texts: Sequence[str], kind: Kind) -> list[str]:
        """Texts with their prompt as they are sent.

        Raises:
            UserError: one is not a string, or has a lone surrogate.
        """
        sent: list[str] = []
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise UserError(f"Text {number:,} is a {type(text).__name__}: give strings.")
            sent.append(self._client.address.as_sent(self.prompts[kind] + text))
            if has_lone_surrogate(sent[-1]):
                raise UserError(f"Text {number:,} holds a lone surrogate: replace it before encoding.")
        return sent

    def _encoded(self, texts: Sequence[str], kind: Kind, progress: Task | None) -> NDArray[np.float32]:
        sent = self._as_sent(texts, kind)
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        told = self.input_types.get(kind, "")
        keys = [key_of(text, told) for text in sent] if self._paid is not None else []
        missing = list(range(len(sent))) if self._paid is None else self._paid.get(keys, out)
        if progress is not None and len(missing) < len(sent):
            progress.advance(len(sent) - len(missing))

        def fill(places: list[int]) -> None:
            try:
                vectors = self._watched([sent[place] for place in places], kind)
            except TooMuch as error:
                if len(places) == 1:  # With a text of the probe.
                    raise error.refusal from None
                half = len(places) // 2
                with self._lock:
                    self._most = max(1, min(self._most, half))
                fill(places[:half])
                fill(places[half:])
                return
            out[places] = vectors
            with self._lock:
                if self._paid is not None:
                    self._paid.add([keys[place] for place in places], vectors)
                if progress is not None:
                    progress.advance(len(places), f"{self.tokens:,} tokens")

        self._side_by_side(fill, self._batches(sent, missing))
        return out

    def _batches(self, sent: Sequence[str], places: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        tokens = 0
        for place in places:
            more = tokens_of(sent[place])
            if batch and (len(batch) == self._most or tokens + more > _MOST_TOKENS):
                yield batch
                batch, tokens = [], 0
            batch.append(place)
            tokens += more
        if batch:
            yield batch

    def _side_by_side(self, fill: Callable[[list[int]], None], batches: Iterator[list[int]]) -> None:
        """Fill all batches. After an error no request is sent any more, and those under way are waited for."""
        taking, stopped = threading.Lock(), threading.Event()

        def work() -> None:
            while not stopped.is_set():
                with taking:
                    batch = next(batches, None)
                if batch is None:
                    return
                try:
                    fill(batch)
                except BaseException:
                    stopped.set()
                    raise

        with ThreadPoolExecutor(self.terms.at_once, thread_name_prefix="endpoint") as pool:
            workers = [pool.submit(work) for _ in range(self.terms.at_once)]
            try:
                for each in workers:
                    each.result()
            finally:
                stopped.set()

    def _watched(self, texts: list[str], kind: Kind) -> NDArray[np.float32]:
        """Ask for vectors [n, dim], with a text of the probe among the texts unless they are a few queries.

        Raises:
            UserError: the model has changed.
        """
        with self._lock:
            self._unwatched += len(texts)
            watched = kind == "document" or self._unwatched > _UNWATCHED
            if watched:
                self._unwatched, self._turn = 0, (self._turn + 1) % len(PROBE)
            turn = self._turn
        if not watched:
            return self._cut(self._fitting(self._asked(texts, kind)))
        # The input type of a query would change the vector of the probe. A query is watched by a request of its own.
        if self.input_types and kind == "query":
            self._check(self._asked([PROBE[turn]], "document")[0], turn)
            return self._cut(self._fitting(self._asked(texts, kind)))
        vectors = self._asked([*texts, PROBE[turn]], kind)
        self._check(vectors[-1], turn)
        return self._cut(vectors[:-1])

    def _asked(self, texts: list[str], kind: Kind) -> NDArray[np.float32]:
        """Ask for unit vectors [n, whole dim], in one request."""
        began = time.perf_counter()
        answer = self._client.ask(texts, kind, sum(map(tokens_of, texts)))
        seconds = time.perf_counter() - began
        with self._lock:
            self.tokens += answer.tokens
            self._texts += len(texts)
            self._seconds += seconds
            if seconds > _SLOW:
                self._most = max(1, min(self._most, len(texts) // 2))
            elif seconds < _FAST and len(texts) >= self._most:
                self._most = min(_MOST_TEXTS, 2 * self._most)
        lengths = np.linalg.norm(answer.vectors.astype(np.float64), axis=1, keepdims=True)
        unit: NDArray[np.float32] = (answer.vectors / lengths).astype(np.float32)
        return unit

    def _check(self, vector: NDArray[np.float32], turn: int) -> None:
        if self._fitting(vector[None])[0] @ self._probe[turn] < SAME:
            raise UserError(
                f"The endpoint {self.name} has changed its model: a fixed text has another vector than when this run "
                "began. Nothing of the new one was taken; go on when the former model is back, or begin anew."
            )

    def _fitting(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if vectors.shape[1] != self._whole:
            raise UserError(
                f"The endpoint {self.name} now gives vectors of {vectors.shape[1]} dimensions, and gave {self._whole} "
                "before: it has changed its model; go on when the former one is back, or begin anew."
            )
        return vectors

    def _cut(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.dim == self._whole:
            return vectors
        cut = vectors[:, : self.dim].copy()
        cut /= np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return cut
