"""Options are declared once for a record, and a command gets records."""

import importlib
import inspect
from dataclasses import dataclass, field
from typing import Annotated

import typer
from typer.testing import CliRunner

from ibkd_cli.options.declare import Given, flag, grouped, option


@dataclass(frozen=True)
class Inner:
    depth: int = 3


@dataclass(frozen=True)
class Library:
    """A record of the library: it knows nothing of options."""

    name: str = "x"
    weights: tuple[float, ...] = ()
    inner: Inner = field(default_factory=Inner)
    hidden: int = 7


@dataclass(frozen=True)
class Own:
    words: Annotated[tuple[str, ...], typer.Argument(help="Words.")] = ()
    loud: Annotated[bool, flag("Shout.", "--loud")] = False


TABLE = {
    "name": option("A name.", choices=("x", "yes")),
    "weights": option("Weights.", "--weight"),
    "depth": option("Depth."),
}


def run(*args):
    got = []

    @grouped
    def command(library: Annotated[Library, TABLE], own: Own, given: Given) -> None:
        got.append((library, own, given))

    app = typer.Typer(add_completion=False)
    app.command()(command)
    answer = CliRunner().invoke(app, [str(each) for each in args])
    return got[0] if got else answer.output


def test_without_options_a_command_gets_the_records_defaults():
    assert run() == (Library(), Own(), ())


def test_options_reach_the_record_that_has_them_and_what_was_given_is_told():
    options = ("a", "--weight", 1, "--weight", "0.5", "b", "--depth", 9, "--loud", "--name", "yes")
    library, own, given = run(*options)
    assert library == Library("yes", (1.0, 0.5), Inner(9), 7)
    assert own == Own(("a", "b"), True)
    assert given == ("name", "weights", "depth", "words", "loud")


def test_help_shows_choices_and_what_stands_for_a_value_and_no_field_that_is_not_declared():
    shown = run("--help")
    assert "x|yes" in shown
    assert "--depth" in shown
    assert "hidden" not in shown
    assert "<" not in shown.replace("<list[str]>", "").replace("<bool>", "")


def test_no_command_has_more_than_six_parameters():
    from ibkd_cli.app import BENCH, COMMANDS

    for each in (*COMMANDS.values(), *BENCH.values()):
        if each.place:
            module, _, function = each.place.partition(":")
            command = inspect.unwrap(getattr(importlib.import_module(f"ibkd_cli.commands.{module}"), function))
            source = inspect.getclosurevars(command).nonlocals["command"]
            assert len(inspect.signature(source).parameters) <= 6, each.place
