"""The checks of numbers that the settings of both stages share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from ibkd_retrieval.errors import UserError, option_named

LEAST = {
    "steps": 1,
    "batch_size": 2,
    "accumulate": 1,
    "max_length": 2,
    "eval_every": 0,
    "checkpoint_every": 1,
    "patience": 0,
}
"""The least that settings of either stage may be."""


def check_numbers(
    settings: object,
    least: Mapping[str, int],
    *,
    above_0: Iterable[str] = (),
    from_0: Iterable[str] = (),
    option: Callable[[str], str] = option_named,
) -> None:
    """Refuse numbers outside their range.

    Args:
        settings: their fields are looked at.
        least: of each field named, its smallest value.
        above_0: fields that are finite numbers above 0.
        from_0: fields that are finite numbers from 0 up.
        option: what the user calls a field.

    Raises:
        UserError: names the option.
    """
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise UserError(f"{option(name)} is {getattr(settings, name)}: give at least {smallest}.")
    for name in above_0:
        if not 0 < getattr(settings, name) < math.inf:
            raise UserError(f"{option(name)} is {getattr(settings, name)}: give a number above 0.")
    for name in from_0:
        if not 0 <= getattr(settings, name) < math.inf:
            raise UserError(f"{option(name)} is {getattr(settings, name)}: give a number from 0 up.")


def check_patience(patience: int, eval_every: int) -> None:
    """Refuse to count looks where there is but one.

    Raises:
        UserError: it is so.
    """
    if patience and not eval_every:
        raise UserError("--patience counts looks at the dev set, of which there is one: give --eval-every too.")
