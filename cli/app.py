"""The entry point: registers the commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

# Before faiss or torch load: waiting OpenMP threads that spin take the cores from the other library's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import typer

from ibkd_retrieval import __version__
from ibkd_retrieval.errors import UserError, WorkFailed

from .commands.bench import bench_encode
from .commands.compare import compare
from .commands.datasets import datasets
from .commands.distill import distill
from .commands.eval import evaluate
from .commands.export import export
from .commands.import_vectors import import_vectors
from .commands.index import index
from .commands.info import info
from .commands.quickstart import quickstart
from .commands.search import search
from .commands.serve import serve
from .display.console import fail
from .display.wording import speak_as
from .ranks import across_ranks


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


app = typer.Typer(
    name="ibkd",
    help="Distil a text encoder, index a corpus with the student, search it, and measure what it cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ibkd-retrieval {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """Take what belongs to no command."""


for name, command in (
    ("quickstart", quickstart),
    ("distill", across_ranks(distill)),
    ("index", index),
    ("search", search),
    ("eval", evaluate),
    ("compare", compare),
    ("serve", serve),
    ("datasets", datasets),
    ("info", info),
    ("export", export),
    ("import", import_vectors),
):
    app.command(name, no_args_is_help=name in ("export", "import"))(_answering(command, name))
bench = typer.Typer(help="Measure what this machine reaches.", no_args_is_help=True)
bench.command("encode")(_answering(bench_encode, "bench encode"))
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line: 0 done, 1 the work failed, 2 the input was wrong."""
    try:
        app()
    except UserError as error:
        # Of an option that is looked at before its command begins.
        fail(str(error), 2)
