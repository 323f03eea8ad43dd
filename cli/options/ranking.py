"""The options of ranking, read from the arguments of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.search.options import RankerOptions


def ranking_options(arguments: Mapping[str, Any]) -> RankerOptions:
    """The options of ranking among the arguments of a command, which has them all by their names."""
    repeatable = {"weights": "weight", "filters": "filter"}
    names = [field.name for field in fields(RankerOptions) if field.name != "search_params"]
    chosen = {name: arguments[repeatable.get(name, name)] for name in names}
    params = SearchParams(**{field.name: arguments[field.name] for field in fields(SearchParams)})
    return RankerOptions(search_params=params, **chosen | {name: tuple(chosen[name] or ()) for name in repeatable})
