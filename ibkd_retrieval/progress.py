"""How the library tells its caller what it is doing, without printing anything itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running job of a known or unknown number of steps."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Report `count` more steps done; `note` replaces the text beside the bar."""


class Progress(Protocol):
    """Where jobs report to. The command line shows bars; the library's default shows nothing."""

    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> AbstractContextManager[Task]:
        """Start a job of `total` steps (None: not known) counted in `unit`, `done` of them before this run."""

    def say(self, message: str) -> None:
        """Pass on one line the user should see: a default chosen, a fallback and its cost."""


class _SilentTask:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


class _Silent:
    @contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        yield _SilentTask()

    def say(self, message: str) -> None:
        pass


SILENT: Progress = _Silent()
