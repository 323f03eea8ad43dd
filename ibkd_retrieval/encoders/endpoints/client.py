"""Requests to an endpoint: paced, sent again where that may help, and every answer checked.

No message, log or chained error has a text, a key, or what a server said in it: servers repeat what they were sent.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError, WorkFailed, require

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.endpoints.address import Address, EndpointTerms
    from ibkd_retrieval.encoders.protocol import Kind

KEY = "OPENAI_API_KEY"
_UNUSABLE_AGAIN = 2
"""How often a request is sent again after an answer that is cut or holds something else than vectors."""
_KEPT = "what was answered is kept: run the same again with `resume`"
_SPLIT = frozenset({400, 413, 422})
_CODE = re.compile(r"[a-z][a-z0-9_]{0,60}")


class TooMuch(Exception):
    """The endpoint did not answer a request of several texts. They may be too many, or one of them is refused.

    Attributes:
        refusal: the sentence for a request of one text.
    """

    def __init__(self, refusal: Exception) -> None:
        super().__init__("the endpoint did not answer a request")
        self.refusal = refusal


class Answer(NamedTuple):
    """The vectors of a request, float32 [n, dim], not normalised, and the tokens that it counted."""

    vectors: NDArray[np.float32]
    tokens: int


class Client:
    """Asks one endpoint. Several threads may do so at once."""

    def __init__(self, address: Address, terms: EndpointTerms) -> None:
        """Make a client. Nothing is sent.

        Raises:
            MissingPackage: the package openai is not installed.
        """
        require("openai", "An endpoint as a model", "endpoint")
        import openai

        self.address = address
        self._openai = openai
        # At its debug level an older client writes the texts of every request.
        for name in ("openai._base_client", "httpcore", "httpx", "httpx2"):
            logging.getLogger(name).setLevel(logging.INFO)
        self._api = openai.OpenAI(
            base_url=address.url,
            api_key=os.environ.get(KEY) or "none",
            max_retries=terms.retries,
            timeout=terms.timeout,
        )
        self._format: dict[str, Any] = {}
        self._pace = _Pace(terms.requests_per_minute, terms.tokens_per_minute)
        self._answered = False

    def ask(self, texts: Sequence[str], kind: Kind, tokens: int) -> Answer:
        """Send one request.

        Args:
            texts: the texts, none of them empty.
            kind: "query" or "document".
            tokens: about how many tokens that is.

        Raises:
            UserError: the endpoint refuses the key, the model or a text, or its answer is no vectors.
            WorkFailed: it stopped answering.
            TooMuch: it refuses a request of several texts.
        """
        for again in reversed(range(_UNUSABLE_AGAIN + 1)):
            self._pace.wait(tokens)
            try:
                answer = self._sent(texts, kind)
            except (UserError, WorkFailed, TooMuch):
                raise
            except self._openai.APIError as error:
                raise self._refusal(error, texts) from None
            except Exception:  # A body that is cut, or a page in place of JSON: each parser has its own classes.
                if not again:
                    raise self._unusable("no JSON with one vector for each text") from None
                continue
            self._answered = True
            return answer
        raise AssertionError

    def _sent(self, texts: Sequence[str], kind: Kind) -> Answer:
        further: dict[str, Any] = {} if self.address.dimensions is None else {"dimensions": self.address.dimensions}
        if self.address.input_types:
            further["extra_body"] = {"input_type": self.address.input_types[kind]}
        asked = {"model": self.address.model, "input": list(texts), **further}
        try:
            found = self._api.embeddings.create(**asked, **self._format)
        except (self._openai.BadRequestError, self._openai.UnprocessableEntityError):
            if self._answered or self._format:
                raise
            # The client asks for base64, which some servers do not know. The first request shows it.
            self._format = {"encoding_format": "float"}
            found = self._api.embeddings.create(**asked, **self._format)
        items = sorted(found.data, key=lambda item: item.index)
        if [item.index for item in items] != list(range(len(texts))):
            raise ValueError("not one vector for each text")
        lengths = {len(item.embedding) for item in items}
        if len(lengths) != 1 or not min(lengths):
            raise self._unusable("vectors of different lengths")
        vectors = np.array([item.embedding for item in items], dtype=np.float32)
        if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
            raise self._unusable("a vector that is not finite, or zero")
        usage = getattr(found, "usage", None)
        return Answer(vectors, int(getattr(usage, "prompt_tokens", 0) or 0))

    def _unusable(self, what: str) -> UserError:
        return UserError(
            f"The endpoint {self.address} answers with {what}: check the model there, or give another endpoint."
        )

    def _refusal(self, error: Any, texts: Sequence[str]) -> Exception:
        """The sentence for an error that remains after all retries."""
        api, where = self._openai, f"The endpoint {self.address}"
        status = getattr(error, "status_code", None)
        codes = (getattr(error, name, None) for name in ("code", "type"))
        code = next((each for each in codes if _told(each)), None)
        why = f"status {status}{f', {code}' if code else ''}"
        if isinstance(error, api.AuthenticationError | api.PermissionDeniedError):
            key = "the key in" if os.environ.get(KEY) else "a request without a key, for want of"
            return UserError(f"{where} refuses {key} the environment variable {KEY} ({why}): set it to a valid key.")
        if isinstance(error, api.NotFoundError):
            return UserError(f"{where} is not there ({why}): check its path, which often ends in /v1, and the model.")
        if isinstance(error, api.RateLimitError) and code == "insufficient_quota":
            return WorkFailed(f"{where} says that the quota is used up; {_KEPT}.")
        if status in _SPLIT:
            longest = max(map(len, texts))
            refusal = UserError(
                f"{where} refuses a text of {longest:,} characters ({why}): send less of each with "
                "max_characters=NUMBER in the address, or check its other settings."
            )
            return TooMuch(refusal) if len(texts) > 1 else refusal
        if isinstance(error, api.APITimeoutError):
            why = "it takes too long to answer"
        elif isinstance(error, api.APIConnectionError):
            why = "the connection is refused or lost"
        if not self._answered and status is None:
            return UserError(f"No answer from the endpoint {self.address}: {why}; check the address and its server.")
        failed = WorkFailed(
            f"{where} does not answer any more, after {self._api.max_retries} retries ({why}); {_KEPT}."
        )
        # A server that is slow, or gives itself little time, answers a smaller request.
        slow = isinstance(error, api.APITimeoutError) or (status or 0) >= 500
        return TooMuch(failed) if slow and len(texts) > 1 and self._answered else failed


def _told(code: object) -> bool:
    """Whether a server's code for an error is a plain word, which holds no text and no key."""
    return isinstance(code, str) and _CODE.fullmatch(code) is not None


class _Pace:
    """Spaces requests evenly, so that neither their number nor their tokens pass a limit a minute."""

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        self._per_request = 60 / requests if requests else 0.0
        self._per_token = 60 / tokens if tokens else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, tokens: int) -> None:
        """Wait for one's turn, and take it."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + max(self._per_request, self._per_token * tokens)
        time.sleep(turn - now)
