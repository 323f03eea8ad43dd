"""The options of ranking, read from the arguments of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ibkd_retrieval.search.options import RankerOptions


def ranking_options(arguments: Mapping[str, Any]) -> RankerOptions:
    """The options of ranking among the arguments of a command, which has them all by their names."""
    repeatable = {"weights": "weight", "filters": "filter"}
    chosen = {field.name: arguments[repeatable.get(field.name, field.name)] for field in fields(RankerOptions)}
    return RankerOptions(**chosen | {name: tuple(chosen[name] or ()) for name in repeatable})
