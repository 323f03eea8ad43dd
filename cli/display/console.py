"""Terminal output: progress bars and messages on standard error, results on standard output."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from ibkd_retrieval.progress import About

from .wording import in_options

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType
    from rich.table import Table

    from ibkd_retrieval.progress import Progress, Task


AS_IT_IS: Any = {"markup": False, "emoji": False, "highlight": False}
"""Settings of a console that takes no part of a name or a text for an instruction."""


# Controls but tabs and line ends, and changes of direction: a name or a text may hold what a terminal obeys.
_OBEYED = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")


def harmless(text: str) -> str:
    """A text with what a terminal would obey shown as the escape that Python writes for it."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def fail(sentence: str, code: int) -> NoReturn:
    """Print one sentence to standard error and leave."""
    print(f"ibkd: {harmless(in_options(sentence))}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


def stdout() -> Console:
    """Where results go."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            # rich would end with 1 for a reader that has seen enough; the entry point knows it for no failure.
            raise BrokenPipeError

        def print(self, *objects: Any, **settings: Any) -> None:
            super().print(*(harmless(each) if isinstance(each, str) else each for each in objects), **settings)

    return Output(**AS_IT_IS, soft_wrap=not sys.stdout.isatty())


def print_table(table: Table) -> None:
    """Print a table, cut to the terminal's width; in a pipe or a file, as wide as it is."""
    console = stdout()
    if not console.is_terminal:
        console.width = 1000
    console.print(table)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    import json

    write_text(json.dumps(value) + "\n", None)


def write_text(text: str, output: Path | None) -> None:
    """Write to a file, whole or not at all, or to standard output; a program reads what is written, to the letter."""
    if output is None:
        sys.stdout.write(text)
        return
    from ibkd_retrieval.files import atomic_write

    with atomic_write(output) as file:
        file.write(text.encode("utf-8"))


def reporter(quiet: bool) -> Progress:
    """Bars on a terminal, a line now and then in a log file, nothing when quiet."""
    from ibkd_retrieval.progress import SILENT

    return SILENT if quiet else _Terminal()


_MOST_PARTS = 4
"""The parts of a command that `took` names; the others are summed."""


class _Terminal:
    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, **AS_IT_IS)
        self._began = time.monotonic()
        self._spent: dict[str, float] = {}
        self._open = 0

    def took(self) -> str:
        """Where the time went, in a sentence: the jobs that took longest, and the rest."""
        whole = time.monotonic() - self._began
        longest = sorted(self._spent.items(), key=lambda each: -each[1])[:_MOST_PARTS]
        parts = [f"{seconds:.0f} s {title[:1].lower()}{title[1:]}" for title, seconds in longest if seconds >= 0.5]
        named = sum(seconds for _, seconds in longest if seconds >= 0.5)
        if whole - named >= 0.5:
            parts.append(f"{whole - named:.0f} s loading and the rest")
        return f"took {whole:.0f} s" + (f": {', '.join(parts)}" if named else "")

    def say(self, message: str) -> None:
        self._console.print(harmless(in_options(message)), style="dim", soft_wrap=True)

    def confirm(self, question: str) -> bool | None:
        """The answer of a person to a question, None where there is none to ask."""
        if not (sys.stdin.isatty() and self._console.is_terminal):
            return None
        self._console.print(f"{harmless(in_options(question))} [y/N] ", end="", soft_wrap=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        began = time.monotonic()
        self._open += 1
        try:
            yield from self._shown(title, total, unit, done)
        finally:
            self._open -= 1
            if not self._open:  # A job within another is part of that.
                self._spent[title] = self._spent.get(title, 0.0) + time.monotonic() - began

    def _shown(self, title: str, total: int | None, unit: str, done: int) -> Iterator[Task]:
        if not self._console.is_terminal:
            yield from self._lines(title, total, unit, done)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.text import Text

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.fields[of]} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )

        class WithNote(Progress):
            def get_renderables(self) -> Iterator[RenderableType]:
                # A line of its own: beside the bar, a long note leaves no room for the figures.
                yield from super().get_renderables()
                for task in self.tasks:
                    if task.fields["note"]:
                        yield Text(f"  {task.fields['note']}", style="dim")

        with WithNote(*columns, console=self._console) as progress:
            of = f"{total:,}" if total is not None else "?"
            identity = progress.add_task(title, total=total, completed=done, unit=unit, of=of, note="", rate="")

            class Bar:
                def advance(self, count: int = 1, note: str = "") -> None:
                    task = progress.tasks[0]
                    elapsed = task.elapsed or 0.0
                    rate = (task.completed + count - done) / elapsed if elapsed > 0.5 else 0.0
                    shown = _speed(rate, unit)
                    progress.update(identity, advance=count, rate=shown, note=note or task.fields["note"])

            yield Bar()
            task = progress.tasks[0]
            if task.total is None or isinstance(total, About):
                # What was not known is now.
                progress.update(identity, total=task.completed, of=f"{task.completed:,.0f}")

    def _lines(self, title: str, total: int | None, unit: str, done: int) -> Iterator[Task]:
        """For output that is not a terminal: a line every ten seconds and one at the end."""
        console = self._console
        began = last = time.monotonic()
        count_now, note_now = done, ""

        def line(ended: bool = False) -> None:
            elapsed = time.monotonic() - began
            rate = (count_now - done) / elapsed if elapsed > 0.1 else 0.0
            left = f", {(total - count_now) / rate:.0f} s left" if total and rate and count_now < total else ""
            left = "" if ended else left
            is_known = total is not None and not (ended and isinstance(total, About))
            of = f"/{total:,}" if is_known else ""
            speed = f", {_speed(rate, unit)}" if rate else ""
            note = f" · {note_now}" if note_now else ""
            console.print(f"{title}: {count_now:,}{of} {unit} in {elapsed:.0f} s{speed}{left}{note}", soft_wrap=True)

        class Lines:
            def advance(self, count: int = 1, note: str = "") -> None:
                nonlocal last, count_now, note_now
                count_now += count
                note_now = note or note_now
                if time.monotonic() - last >= 10 and count_now != total:  # The last line comes at the end.
                    last = time.monotonic()
                    line()

        yield Lines()
        line(ended=True)


def _speed(rate: float, unit: str) -> str:
    """How fast a job goes, "" where that is not known; below one a second, how long one takes."""
    if not rate:
        return ""
    return f"{rate:,.0f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit.removesuffix('s')}"
