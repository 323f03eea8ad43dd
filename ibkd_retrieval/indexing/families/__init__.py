"""Index families: ways to arrange vectors for search. One file and one entry in `FAMILIES` each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.families.family import BuiltStructure, Family
from ibkd_retrieval.indexing.families.flat import Flat
from ibkd_retrieval.indexing.families.ivf_pq import IvfPq

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAMILIES", "BuiltStructure", "Family", "Flat", "IvfPq", "family_named", "family_options"]

FAMILIES: dict[str, Callable[..., Family]] = {"flat": Flat, "ivf-pq": IvfPq}


def family_named(name: str, **options: int | None) -> Family:
    """The family called `name`, with `options` in place of what it would choose itself.

    Raises:
        UserError: there is no such family, or it has no such option.
    """
    if name not in FAMILIES:
        raise UserError(f"There is no index type {name!r}: choose one of {', '.join(FAMILIES)}.")
    try:
        return FAMILIES[name](**options)
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(FAMILIES[name])) or "none"  # type: ignore[arg-type]
        raise UserError(f"An index of type {name} has no such option ({error}): its options are {known}.") from error


def family_options(family: Family) -> dict[str, int | None]:
    """The settings of `family` by name."""
    return dataclasses.asdict(family)  # type: ignore[call-overload, no-any-return]
