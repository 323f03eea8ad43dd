"""Index families: ways to arrange vectors for search. Each has one file and one entry in `FAMILIES`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.families.factory import Factory
from ibkd_retrieval.indexing.families.family import BuiltStructure, Family, Flat, Option
from ibkd_retrieval.indexing.families.hnsw import Hnsw
from ibkd_retrieval.indexing.families.inverted import IvfFlat
from ibkd_retrieval.indexing.families.quantised import IvfPq, RaBitQ, Sq8

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAMILIES", "BuiltStructure", "Family", "Flat", "IvfPq", "Option", "family_named", "family_options"]

FAMILIES: dict[str, Callable[..., Family]] = {
    "flat": Flat,
    "ivf-flat": IvfFlat,
    "ivf-pq": IvfPq,
    "hnsw": Hnsw,
    "sq8": Sq8,
    "rabitq": RaBitQ,
    "factory": Factory,
}


def family_named(name: str, **options: Option) -> Family:
    """The family called `name`, with `options` in place of its own choices.

    Raises:
        UserError: there is no such family, or it has no such option.
    """
    if name not in FAMILIES:
        raise UserError(f"There is no index type {name!r}: choose one of {', '.join(FAMILIES)}.")
    known = [field.name for field in dataclasses.fields(FAMILIES[name])]  # type: ignore[arg-type]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise UserError(
            f"An index of type {name} has no such option as {', '.join(unknown)}: its options are {', '.join(known)}."
        )
    return FAMILIES[name](**options)


def family_options(family: Family) -> dict[str, Option]:
    """The settings of `family` by name."""
    return dataclasses.asdict(family)  # type: ignore[call-overload, no-any-return]
