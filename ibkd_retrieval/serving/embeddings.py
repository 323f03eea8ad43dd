"""An embeddings endpoint in the form of OpenAI's API: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse, Response

from ibkd_retrieval.serving.answering import MicroBatcher, can_share_encoders, names_apart, thread_sharer
from ibkd_retrieval.serving.limits import EMBEDDINGS_PATH, Limits
from ibkd_retrieval.serving.waiting import answer_of, json_response

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.encoders.protocol import Kind
    from ibkd_retrieval.progress import Progress

MODELS_PATH = "/v1/models"
_KINDS: dict[str, Kind] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
}
_InputType = Literal["query", "search_query", "document", "passage", "search_document"]


_SAMPLE = (
    "which river has the most boats?",
    "A river, and the boats on it.",
    "bread and cheese",
    "the bank of a river",
)
"""Texts to measure on."""


_FEW = 16
"""Texts whose answer is written faster than another thread is called."""


class EmbeddingsRequest(BaseModel):
    """Texts to encode.

    Attributes:
        input: one text or a list of texts. Token ids are refused: they belong to another tokenizer.
        model: the name of a served model, as `/v1/models` lists it.
        encoding_format: "float" for lists of numbers, "base64" for little-endian float32 bytes.
        dimensions: the length to cut vectors to. They are normalised again.
        input_type: "query" or "document". It decides the prompt of the model.
        user: ignored.
    """

    input: str | list[str]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    input_type: _InputType = "document"
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        items = value if isinstance(value, list) else [value]
        if any(not isinstance(item, str) for item in items):
            # LangChain's client sends token ids unless told otherwise.
            raise PydanticCustomError(
                "text", "Send texts, not token ids (check_embedding_ctx_length=False in langchain-openai)"
            )
        if not all(items):
            raise PydanticCustomError("text", "An empty text has no vector: leave it out")
        return value


class _Work(NamedTuple):
    encoder: Encoder
    kind: Kind
    texts: list[str]


@dataclass(frozen=True)
class _Encoded:
    """The vectors of one request, [n, dim], and the number of tokens read."""

    vectors: NDArray[np.float32]
    tokens: int


def load_served(
    names: Sequence[str], *, backend: str, dtype: str, progress: Progress, **settings: Any
) -> dict[str, Encoder]:
    """Load encoders under the names that clients give: the last parts of their paths, where those differ.

    Args:
        names: models, by folder or hub name.
        backend: "auto", "torch", "onnx" or "openvino".
        dtype: "auto" or a number format.
        progress: receives the progress.
        settings: further arguments of `Encoder.load`.

    Raises:
        UserError: there is no such model, or one was given twice.
    """
    from ibkd_retrieval.encoders.autotune.load import load_encoder

    known_as = names_apart([Path(name) for name in names])
    progress.say(f"Loading {', '.join(names)}.")
    encoders = [
        load_encoder(name, backend, dtype, lambda: list(_SAMPLE), purpose="queries", progress=progress, **settings)
        for name in names
    ]
    return dict(zip(known_as, encoders, strict=True))


class EmbeddingsService:
    """Encodes the texts of concurrent requests in shared batches."""

    def __init__(self, encoders: Mapping[str, Encoder], limits: Limits) -> None:
        """Start the thread that encodes."""
        self.encoders, self.limits = encoders, limits
        self.batcher = MicroBatcher(
            _encode_all,
            max_batch=limits.batch,
            max_waiting=limits.waiting,
            workers=2 if can_share_encoders(encoders.values()) else 1,
            begin=thread_sharer(),
        )

    async def warm_up(self) -> None:
        """Encode once with each model, which loads what is loaded at first use."""
        for encoder in self.encoders.values():
            await asyncio.wrap_future(self.batcher.submit(_Work(encoder, "document", ["warm up"])))

    async def embeddings(self, request: EmbeddingsRequest) -> Response:
        """Answer `/v1/embeddings`."""
        encoder = self.encoders.get(request.model)
        if encoder is None:
            known = ", ".join(self.encoders)
            raise HTTPException(404, f"No model {request.model!r} is served here: use one of {known}.")
        if request.dimensions is not None and request.dimensions > encoder.dim:
            raise HTTPException(
                422, f"dimensions: vectors of {request.model} have {encoder.dim}: ask for as many or fewer."
            )
        texts = [request.input] if isinstance(request.input, str) else request.input
        if not 1 <= len(texts) <= self.limits.inputs:
            raise HTTPException(422, f"input: {len(texts):,} texts: send 1 to {self.limits.inputs:,} a request.")
        work = _Work(encoder, _KINDS[request.input_type], texts)
        late = f"Encoding did not end within {self.limits.seconds:g} seconds: send fewer texts, or ask again later."
        encoded = await answer_of(self.batcher, work, self.limits, waiting="requests", late=late)
        if len(texts) <= _FEW:
            return _answer(request, encoded)
        return await asyncio.to_thread(_answer, request, encoded)

    async def models(self) -> Response:
        """Answer `/v1/models`."""
        listed = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "ibkd-retrieval",
                "dimensions": encoder.dim,
                "max_input_tokens": encoder.max_length or None,
            }
            for name, encoder in self.encoders.items()
        ]
        return JSONResponse({"object": "list", "data": listed})


def add_embeddings(app: FastAPI, service: EmbeddingsService, responses: dict[int | str, dict[str, Any]]) -> None:
    """Add the routes to an application."""

    async def embeddings(request: EmbeddingsRequest) -> Response:
        return await service.embeddings(request)

    app.add_api_route(EMBEDDINGS_PATH, embeddings, methods=["POST"], responses=responses, summary="Encode texts")
    app.add_api_route(MODELS_PATH, service.models, summary="The models that are served")


def _encode_all(work: Sequence[_Work]) -> list[_Encoded]:
    """Encode the texts of several requests, those for one model and kind in one call."""
    places: dict[tuple[int, Kind], list[int]] = {}
    for place, item in enumerate(work):
        places.setdefault((id(item.encoder), item.kind), []).append(place)
    done: dict[int, _Encoded] = {}
    for (_, kind), members in places.items():
        encoder = work[members[0]].encoder
        prepared = encoder.prepare([text for place in members for text in work[place].texts], kind)
        vectors = encoder.encode_prepared(prepared)
        lengths = np.concatenate([np.asarray(window.lengths) for window in prepared.windows])
        start = 0
        for place in members:
            end = start + len(work[place].texts)
            done[place] = _Encoded(vectors[start:end], int(lengths[start:end].sum()))
            start = end
    return [done[place] for place in range(len(work))]


def _answer(request: EmbeddingsRequest, encoded: _Encoded) -> Response:
    vectors = encoded.vectors
    if request.dimensions is not None and request.dimensions < vectors.shape[1]:
        vectors = vectors[:, : request.dimensions].copy()
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    shown: list[Any] = (
        [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
        if request.encoding_format == "base64"
        else list(vectors)
    )
    return json_response(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(shown)],
            "model": request.model,
            "usage": {"prompt_tokens": encoded.tokens, "total_tokens": encoded.tokens},
        }
    )
