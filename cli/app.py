"""The entry point: registers the commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

# Before faiss or torch load: waiting OpenMP threads that spin take the cores from the other library's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from ibkd_retrieval import __version__
from ibkd_retrieval.errors import UserError, WorkFailed

from .display.console import fail
from .display.examples import epilog_of
from .display.wording import speak_as


def _options_of(command: str) -> dict[str, str]:
    """The options of a command by parameter name. A positional argument is shown as its metavar."""
    found: Any = typer.main.get_command(app)
    for part in command.split():
        found = found.commands[part]
    return {
        each.name: max(each.opts, key=len) if each.opts[0].startswith("-") else each.name.upper()
        for each in found.params
    }


def _answering(command: Callable[..., None], name: str) -> Callable[..., None]:
    """Wrap a command so that its errors become sentences and exit codes: 2 the input was wrong, 1 the work failed.

    Around the command and not around `app()`: typer would take an interrupt or a closed pipe for itself, silently.
    """

    @functools.wraps(command)
    def run(**options: object) -> None:
        speak_as(name, _options_of)
        try:
            command(**options)
            sys.stdout.flush()
        except UserError as error:
            fail(str(error), 2)
        except WorkFailed as error:
            fail(str(error), 1)
        except KeyboardInterrupt:
            kept = " What is finished is kept; run the same command with --resume to go on."
            fail(f"Stopped.{kept if 'resume' in options else ''}", 130)
        except BrokenPipeError:
            # The reader (head, less) has what it wanted.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            fail(f"{error.strerror or error}{where}. What is finished is kept.", 1)

    return run


class _Speaking:
    """What a command and a group of commands have in common: their help option, and how they refuse an option."""

    def get_help_option(self, context: typer.Context) -> Any:
        found = super().get_help_option(context)  # type: ignore[misc]
        for each in (found, *self.params):  # type: ignore[attr-defined]
            if getattr(each, "is_flag", False) or each.name.endswith("_completion"):
                each.metavar = " "  # Nothing stands for the value of a flag.
            if isinstance(each, TyperArgument):
                each.display_type_rich = lambda ctx: ""  # type: ignore[method-assign] # Its name says enough.
        return found

    def parse_args(self, context: typer.Context, args: list[str]) -> Any:
        try:
            return super().parse_args(context, args)  # type: ignore[misc]
        except Exception as error:
            near = getattr(error, "possibilities", None)
            if near:
                error.possibilities = None  # type: ignore[attr-defined]
                error.message += f". Did you mean {' or '.join(near)}?"  # type: ignore[attr-defined]
            raise


class _Command(_Speaking, TyperCommand):  # type: ignore[misc]
    pass


class _Listed(NamedTuple):
    """A command as the page of its group lists it, and where it is."""

    does: str
    place: str
    panel: str | None = None


class _Lazy(Mapping[str, Any]):
    """The commands of a group by name, each made when it is asked for: a help page and a command need no other."""

    def __init__(self, listed: Mapping[str, _Listed], group: str) -> None:
        self._listed, self._group = listed, group

    def __getitem__(self, name: str) -> Any:
        return _made(f"{self._group} {name}".strip(), self._listed[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)


class _Group(_Speaking, TyperGroup):  # type: ignore[misc]
    _for_help = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.listed = BENCH if self.name == "bench" else COMMANDS
        self.commands = _Lazy(self.listed, "" if self.listed is COMMANDS else "bench")  # type: ignore[assignment]

    def format_help(self, context: Any, formatter: Any) -> None:
        self._for_help = True
        try:
            super().format_help(context, formatter)
        finally:
            self._for_help = False

    def list_commands(self, context: Any) -> list[str]:
        return list(self.listed)

    def get_command(self, context: Any, name: str) -> Any:
        if self._for_help:
            return TyperCommand(name, help=self.listed[name].does, rich_help_panel=self.listed[name].panel)
        return super().get_command(context, name)


_MORE = "More commands"
COMMANDS = {
    "quickstart": _Listed(
        "Distil, index, search and compare, on documentation that is on this machine.", "quickstart:quickstart"
    ),
    "distill": _Listed("Distil a teacher into a small student, fine-tune it on pairs, or both.", "distill:distill"),
    "index": _Listed("Encode a corpus and build an index folder, or change one.", "index:index"),
    "search": _Listed("Search an index: one question, a prompt, or a batch of queries.", "search:search"),
    "eval": _Listed("Score an index, run files, or a suite of data sets.", "eval:evaluate"),
    "compare": _Listed("Compare indexes on the same queries: quality, speed and memory.", "compare:compare"),
    "serve": _Listed(
        "Serve indexes over HTTP, with a page to search them, or models as an embeddings endpoint.", "serve:serve"
    ),
    "info": _Listed("List the students and indexes that are here, or describe one.", "info:info", _MORE),
    "datasets": _Listed("List the data sets that have a short name, or show one.", "datasets:datasets", _MORE),
    "export": _Listed("Write an index or a model in another tool's format.", "export:export", _MORE),
    "push": _Listed("Publish a student on the Hugging Face hub.", "push:push", _MORE),
    "import": _Listed("Make an index of vectors that were encoded elsewhere.", "import_vectors:import_vectors", _MORE),
    "bench": _Listed("Measure how fast this machine encodes, and choose the fastest backend.", "", _MORE),
}
"""The commands, in the order of the help page. What each does is the first sentence of its own page too."""
BENCH = {"encode": _Listed("Measure a model in every installed backend and number format.", "bench:bench_encode")}


def _typer(path: str, **settings: Any) -> typer.Typer:
    return typer.Typer(
        epilog=epilog_of(path),
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


@functools.cache
def _made(path: str, listed: _Listed) -> Any:
    """A command, or a group of commands, as typer makes it."""
    if not listed.place:
        made = _typer(path, cls=_Group, name=path, help=listed.does, no_args_is_help=True, add_completion=False)
        made.callback()(lambda: None)
        return typer.main.get_command(made)
    module, _, function = listed.place.partition(":")
    command = getattr(importlib.import_module(f".commands.{module}", __package__), function)
    paragraphs = [" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n")]
    made = _typer(path, add_completion=False)
    made.command(
        path.split()[-1],
        cls=_Command,
        help="\n\n".join(paragraphs),
        epilog=epilog_of(path),
        no_args_is_help=path in ("export", "import"),
    )(_answering(command, path))
    return typer.main.get_command(made)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ibkd-retrieval {__version__}")
        raise typer.Exit


app = _typer(
    "",
    name="ibkd",
    cls=_Group,
    help="Distil a text encoder, index a corpus with the student, search it, and measure what it cost.",
    no_args_is_help=True,
)


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", "-V", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Take what belongs to no command."""


def _open_closed_streams() -> None:
    """Lead standard streams that were closed to nowhere: a file of ours would get the number of one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number, which is this one.
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def main() -> None:
    """Run the command line: 0 done, 1 the work failed, 2 the input was wrong."""
    _open_closed_streams()
    try:
        app(prog_name="ibkd")
    except UserError as error:
        # Of an option that is looked at before its command begins.
        fail(str(error), 2)
    except OSError as error:
        # Of the help or the version, on a full disk.
        fail(f"{error.strerror or error}.", 1)
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
