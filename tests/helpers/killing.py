"""Ends work in the middle, as a killed process does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Killed(BaseException):
    """Raised where a process would be killed. No `except Exception` catches it."""


@contextmanager
def killed_at_rename(number: int, error: type[BaseException] = Killed) -> Iterator[None]:
    """Raise `error` in place of the rename of this number, counted from 0, and of every later one."""
    replace, left = os.replace, number

    def failing(source: os.PathLike[str] | str, target: os.PathLike[str] | str) -> None:
        nonlocal left
        if left == 0:
            raise error
        left -= 1
        replace(source, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", failing)
        yield
