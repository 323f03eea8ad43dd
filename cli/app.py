"""The entry point: gathers the commands and turns errors into sentences and exit codes."""

from __future__ import annotations

import os
import sys

# Before faiss or torch load: waiting OpenMP threads that spin take the cores from the other library's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import typer

from ibkd_retrieval.errors import UserError, WorkFailed

from .compare import compare
from .console import fail
from .distill import distill
from .eval import evaluate
from .export import export
from .index import index
from .info import info
from .quickstart import quickstart
from .search import search

app = typer.Typer(
    name="ibkd",
    help="Distil a text encoder, index a corpus with the student, search it, and measure what it cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for name, command in (
    ("quickstart", quickstart),
    ("distill", distill),
    ("index", index),
    ("search", search),
    ("eval", evaluate),
    ("compare", compare),
    ("info", info),
    ("export", export),
):
    app.command(name, no_args_is_help=name == "export")(command)


def main() -> None:
    """Run the command line: 0 done, 1 the work failed, 2 the input was wrong."""
    try:
        app()
    except UserError as error:
        fail(str(error), 2)
    except WorkFailed as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("Stopped. What is finished is kept; run the same command with --resume to go on.", 130)
    except BrokenPipeError:
        # The reader (head, less) has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(
            f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}. What is finished is kept.", 1
        )
