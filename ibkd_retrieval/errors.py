"""Errors a user can act on."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple


class UserError(Exception):
    """The user's input was wrong: one sentence that says what, where, and what to do.

    The command line prints the sentence and exits with code 2; it never shows a traceback for it.
    """


class WorkFailed(Exception):
    """The input was fine and the work still failed: one sentence that says at what and what is kept.

    The command line prints the sentence and exits with code 1.
    """


class MissingPackage(UserError):
    """An optional package is needed: the sentence names the line to type."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs {package}: type `pip install 'ibkd-retrieval[{extra}]'`.")
        self.package = package


class LostProcess(WorkFailed):
    """Another process of a group ended before the work was done. Its own error says why, if it has one."""


def require(package: str, purpose: str, extra: str) -> None:
    """Check that a package is installed.

    Raises:
        MissingPackage: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingPackage(package, purpose, extra)


class Failure(NamedTuple):
    """An error of another process, on its way to the process that reports it.

    Attributes:
        kind: "user", "system" or "work": which class of error it is.
        text: what it says.
        number: the error number of a "system" error.
    """

    kind: str
    text: str
    number: int | None = None

    @classmethod
    def of(cls, error: Exception, doing: str) -> Failure:
        """What an error says that ended `doing`."""
        if isinstance(error, UserError):
            return cls("user", str(error))
        if isinstance(error, WorkFailed):
            return cls("work", str(error))
        if isinstance(error, OSError) and error.errno is not None:
            where = f": {error.filename}" if error.filename else ""
            return cls("system", f"{error.strerror}{where}", error.errno)
        return cls("work", f"{doing} failed with {type(error).__name__}: {error}")

    def at(self, where: str) -> Failure:
        """The same, with where it happened."""
        return self._replace(text=f"{where}: {self.text}")

    def error(self) -> Exception:
        """The error to raise."""
        if self.kind == "user":
            return UserError(self.text)
        return OSError(self.number, self.text) if self.kind == "system" else WorkFailed(self.text)


def option_named(name: str) -> str:
    """An option as it is typed, for sentences: `--batch-size` for `batch_size`."""
    return f"--{name.replace('_', '-')}"


def first_line(error: Exception) -> str:
    """The first line of what an error says, "" where it says nothing: libraries go on with pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""


def reason_of(error: Exception) -> str:
    """Return the first line of a library's message without its full stop, or the class of the error."""
    said = first_line(error)
    return said.rstrip(".") if said else type(error).__name__
