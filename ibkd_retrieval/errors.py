"""Errors a user can act on."""


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
