"""Wait for a batcher's answer and write it, and tell a client over HTTP where there will be none."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ibkd_retrieval.serving.answering import Closed, MicroBatcher, QueueFull, R, T
from ibkd_retrieval.serving.limits import Limits


def json_response(content: Any) -> Response:
    """An answer of JSON types and arrays of numpy."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


async def answer_of(batcher: MicroBatcher[T, R], item: T, limits: Limits, *, waiting: str, late: str) -> R:
    """Submit an item, and wait for its result within the time limit.

    Args:
        batcher: works on the item.
        item: what to work on.
        limits: the time limit, and the number of items that may wait.
        waiting: what waits where the queue is full, in the plural.
        late: the sentence for a client whose answer does not come in time.

    Raises:
        HTTPException: 429 where the queue is full, 503 where the server stops or the answer is late.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            return await asyncio.wrap_future(batcher.submit(item))
    except QueueFull:
        full = f"{limits.waiting:,} {waiting} wait already: ask again in a second."
        raise HTTPException(429, full, {"Retry-After": "1"}) from None
    except Closed:
        raise HTTPException(503, "The server is stopping.", {"Retry-After": "5"}) from None
    except TimeoutError:
        raise HTTPException(503, late, {"Retry-After": "5"}) from None
