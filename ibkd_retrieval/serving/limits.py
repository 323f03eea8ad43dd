"""What a server takes at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ibkd_retrieval.errors import UserError

# A character outside the basic plane takes twelve bytes as a pair of JSON escapes, and as many percent-encoded.
_LONGEST_CHARACTER = 12
_REST_OF_REQUEST = 8192


@dataclass(frozen=True)
class Limits:
    """Bounds on single requests and on what is under way together.

    Attributes:
        query: characters of a query.
        k: results a query.
        batch: queries encoded and searched together.
        waiting: queries that wait for the batch before them to end; further ones are turned away.
        connections: open at a time, idle ones included.
        seconds: to read a request's body, and to answer it.
    """

    query: int = 1000
    k: int = 100
    batch: int = 32
    waiting: int = 128
    connections: int = 512
    seconds: float = 10.0

    def __post_init__(self) -> None:
        """Refuse bounds that would refuse everything.

        Raises:
            UserError: a bound is not above 0.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UserError(f"The limit of a server's `{field.name}` must be above 0, not {value}.")

    @property
    def request_bytes(self) -> int:
        """Of a request's body, and of its first line with its headers: room for the longest query however written."""
        return _LONGEST_CHARACTER * self.query + _REST_OF_REQUEST
