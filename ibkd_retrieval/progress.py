"""How the library tells its caller what it is doing, without printing anything itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class About(int):
    """A number that is estimated. It is shown with a tilde.

    Example:
        >>> f"{About(5183):,}"
        '~5,183'
    """

    def __format__(self, how: str) -> str:
        return f"~{int(self):{how}}"


class Task(Protocol):
    """One running job of a known or unknown number of steps."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Report `count` more steps done; `note` replaces the text beside the bar."""


class Progress(Protocol):
    """Where jobs report to. The command line shows bars; the library's default shows nothing."""

    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> AbstractContextManager[Task]:
        """Start a job of `total` steps counted in `unit`, `done` of them before this run.

        `total` is None where it is not known, and an `About` where it is estimated.
        """

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


class Bars:
    """Progress bars by tqdm, on a terminal or in a notebook; remarks are printed above the bar."""

    @contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        """Show a bar, as `Progress.task` says."""
        from tqdm.auto import tqdm

        with tqdm(desc=title, total=total, unit=f" {unit}", initial=done, dynamic_ncols=True) as bar:

            class Bar:
                def advance(self, count: int = 1, note: str = "") -> None:
                    bar.update(count)
                    if note:
                        bar.set_postfix_str(note)

            yield Bar()

    def say(self, message: str) -> None:
        """Print a remark to standard error, as `Progress.say` says."""
        import sys

        from tqdm.auto import tqdm

        tqdm.write(message, file=sys.stderr)


def as_progress(wanted: bool | Progress) -> Progress:
    """What a function of the public API reports to: True is bars, False is nothing, else the object itself.

    Example:
        >>> as_progress(False) is SILENT
        True
    """
    if isinstance(wanted, bool):
        return Bars() if wanted else SILENT
    return wanted
