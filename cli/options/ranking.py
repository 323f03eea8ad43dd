"""The options of ranking, read from the arguments of a command, and indexes opened by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.search.options import RankerOptions

if TYPE_CHECKING:
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.search.api import Index


def ranking_options(arguments: Mapping[str, Any]) -> RankerOptions:
    """The options of ranking among the arguments of a command, which has them all by their names."""
    names = [field.name for field in fields(RankerOptions) if field.name != "search_params"]
    chosen = {name: arguments[name] for name in names}
    chosen |= {name: tuple(chosen[name] or ()) for name in ("weights", "filters")}
    params = SearchParams(**{field.name: arguments[field.name] for field in fields(SearchParams)})
    return RankerOptions(search_params=params, **chosen)


def open_tuned(given: Sequence[Sequence[Path] | None], options: RankerOptions, progress: Progress) -> list[Index]:
    """Open indexes with their models, weights tuned where that was asked for; None is the newest index."""
    from ibkd_retrieval.evaluation.evaluate_index import with_tuned_weights
    from ibkd_retrieval.search.api import open_index
    from ibkd_retrieval.search.open import index_folder

    paths = [each or [index_folder(None, progress)] for each in given]
    known: dict[str, Any] = {}
    options = with_tuned_weights([folder for path in paths for folder in path], options, known, progress).options
    return [open_index(path, config=options, known=known, progress=progress).load() for path in paths]
