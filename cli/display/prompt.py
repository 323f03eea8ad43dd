"""Questions typed at a prompt, with a history that outlasts the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibkd_retrieval.progress import Progress

KEPT = 1000


def history_file() -> Path:
    """Where the questions of earlier prompts are kept: below XDG_STATE_HOME, or ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local/state") / "ibkd" / "search-history"


def typed_questions(progress: Progress) -> Iterator[str]:
    """Each line typed, until an empty one, the end of input or an interrupt."""
    # Without a terminal behind it, standard output is for results alone.
    prompt = "search> " if sys.stdout.isatty() else ""
    with _history(progress):
        while True:
            if not prompt:
                print("search> ", end="", file=sys.stderr, flush=True)  # noqa: T201
            try:
                text = input(prompt).strip()
            except (EOFError, KeyboardInterrupt):
                print(file=sys.stderr)  # noqa: T201
                return
            if not text:
                return
            yield text


@contextmanager
def _history(progress: Progress) -> Iterator[None]:
    """Read the history now and add to it at the end; where that fails, say so and go on without."""
    try:
        import readline
    except ImportError:  # Python without it: lines can be typed, not edited.
        yield
        return
    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
    except OSError as error:
        progress.say(f"questions are not kept for next time ({error.strerror}: {path})")
        yield
        return
    readline.set_history_length(KEPT)
    earlier = readline.get_current_history_length()
    try:
        yield
    finally:
        # Appended, so that of two prompts at a time neither loses what the other was asked.
        readline.append_history_file(readline.get_current_history_length() - earlier, str(path))
