"""The address of an endpoint's model, and what a run may spend on it. Nothing here loads a library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

from ibkd_retrieval.errors import UserError

_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_FORM = "http://HOST/v1#MODEL"
_SETTINGS = ("dimensions", "input_type", "max_characters")


def is_endpoint(name: object) -> bool:
    """Whether the name of a model is the address of an endpoint.

    Example:
        >>> is_endpoint("https://api.openai.com/v1#text-embedding-3-small"), is_endpoint("models/mine")
        (True, False)
    """
    return isinstance(name, str) and _SCHEME.match(name) is not None


@dataclass(frozen=True)
class Address:
    """An endpoint's model, with what is sent along and decides its vectors.

    Attributes:
        url: the base of the API, such as `https://api.openai.com/v1`.
        model: the model's name there.
        dimensions: the length of the vectors that the endpoint is asked for. None leaves it out.
        input_types: what the endpoint is told of a text, by "query" and "document". Empty leaves it out.
        max_characters: the most characters that are sent of a text. None sends all of it.

    Example:
        >>> address = Address.parse("http://localhost:8000/v1?dimensions=256&input_type=query,passage#e5-small")
        >>> address.url, address.model, address.dimensions, address.input_types["document"]
        ('http://localhost:8000/v1', 'e5-small', 256, 'passage')
        >>> str(address)
        'http://localhost:8000/v1?dimensions=256&input_type=query,passage#e5-small'
    """

    url: str
    model: str
    dimensions: int | None = None
    input_types: Mapping[str, str] = field(default_factory=dict)
    max_characters: int | None = None

    @classmethod
    def parse(cls, name: str) -> Address:
        """Read `http://HOST/v1?SETTINGS#MODEL`. No message repeats a part of it that may hold a key.

        Raises:
            UserError: it has no host or model, holds a key, or a setting is unknown or no number.
        """
        try:
            parts = urlsplit(name)
            host = parts.hostname
            _ = parts.port
        except ValueError:
            host = None
        if not host:
            raise UserError(f"The address of the endpoint names no host: give it as `{_FORM}`.")
        if "@" in parts.netloc:
            raise UserError(
                f"The address of the endpoint at {host} holds a name or a key: leave it out, and set the environment "
                "variable OPENAI_API_KEY."
            )
        if not parts.fragment:
            raise UserError(f"The address of the endpoint at {host} names no model: give it as `{_FORM}`.")
        settings = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := [name for name in settings if name not in _SETTINGS]:
            raise UserError(
                f"The address of the endpoint at {host} has {len(unknown)} settings that are not known: use "
                f"{', '.join(_SETTINGS)}; a key belongs into the environment variable OPENAI_API_KEY."
            )
        url = f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"
        types = settings.get("input_type")
        return cls(
            url,
            parts.fragment,
            _whole(settings, "dimensions", host),
            {} if types is None else _types(types, host),
            _whole(settings, "max_characters", host),
        )

    @property
    def settings(self) -> str:
        """What is sent along, as the address spells it. "" for nothing."""
        types = ",".join(self.input_types[kind] for kind in ("query", "document") if self.input_types)
        given = {"dimensions": self.dimensions, "input_type": types or None, "max_characters": self.max_characters}
        return urlencode({name: value for name, value in given.items() if value is not None}, safe=",")

    def as_sent(self, text: str) -> str:
        """A text with its prompt as it is sent. Every endpoint that is known refuses an empty one."""
        return text[: self.max_characters] or " "

    def __str__(self) -> str:
        return f"{self.url}{'?' if self.settings else ''}{self.settings}#{self.model}"


def _whole(settings: Mapping[str, str], name: str, host: str) -> int | None:
    value = settings.get(name)
    if value is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,6}", value, re.ASCII):
        raise UserError(f"The address of the endpoint at {host} has {name} that is no whole number above zero.")
    return int(value)


def _types(value: str, host: str) -> dict[str, str]:
    names = value.split(",")
    if len(names) != 2 or not all(re.fullmatch(r"[A-Za-z_.-]+", each) for each in names):
        raise UserError(
            f"The address of the endpoint at {host} has an input_type that is no pair: give the names for queries and "
            "documents, such as query,document."
        )
    return {"query": names[0], "document": names[1]}


@dataclass(frozen=True)
class EndpointTerms:
    """What a run may spend on an endpoint, and how fast.

    Attributes:
        price: dollars per million tokens, for the estimate. None shows tokens alone.
        yes: whether the cost is agreed to. False asks where there is someone to ask, and otherwise refuses.
        requests_per_minute: the most requests a minute. None sets no limit.
        tokens_per_minute: the most tokens a minute, by the estimate. None sets no limit.
        timeout: seconds that an answer may take.
        retries: how often a request is sent again after 408, 409, 429, 5xx, a time-out or a lost connection.
        at_once: requests under way at the same time.
    """

    price: float | None = None
    yes: bool = False
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 120.0
    retries: int = 6
    at_once: int = 4

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is outside its range.
        """
        if self.price is not None and not 0 <= self.price < 1e6:
            raise UserError(f"`price` is {self.price}: give dollars per million tokens, from 0 up.")
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"`{name}` is {value}: give a number above 0.")
