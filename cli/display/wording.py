"""Translate the library's messages for the command line: parameters become options, calls become commands.

The library names its parameters in backquotes, as `batch_size` or `pooling="cls"`, and calls of the public API as
`distill(output_space="teacher")`. A name that the running command has no option for stays as it is, so no message
names an option that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

COMMAND_OF_CALL = {
    "append": "index --append",
    "bench_encode": "bench encode",
    "build_index": "index",
    "combine": "index",
    "compare": "compare",
    "datasets": "datasets",
    "delete": "index --delete",
    "describe": "info",
    "describe_folder": "info",
    "distill": "distill",
    "evaluate": "eval",
    "export": "export",
    "import_vectors": "import",
    "open_index": "search",
    "push": "push",
    "serve": "serve",
}
"""The command that does what a function of the public API does."""

_NAME = r"[a-z][a-z0-9_]*"
_VALUE = r"\"[^\"`]*\"|'[^'`]*'|[^`,()]+"
_ARGUMENT = rf"({_NAME})(?:=({_VALUE}))?"
_PARAMETER = re.compile(rf"`({_NAME})(?:=([^`]+))?`")
_CALL = re.compile(rf"`({_NAME})\(((?:{_NAME}=(?:{_VALUE})(?:, )?)*)\)`")

Options = Callable[[str], Mapping[str, str]]
"""From the name of a command to its options by the names of their parameters."""

_options: Options = lambda command: {}  # noqa: E731
_command = ""


def speak_as(command: str, options: Options) -> None:
    """Translate the messages to come for a command: `options` gives the options of any command by parameter."""
    global _command, _options
    _command, _options = command, options


def in_options(message: str) -> str:
    """A message of the library as the running command says it."""
    if "`" not in message:
        return message
    message = _CALL.sub(lambda found: _command_line(*found.groups()), message)
    return _PARAMETER.sub(lambda found: _option(_options(_command), *found.groups()) or found.group(), message)


def _command_line(function: str, arguments: str) -> str:
    command = COMMAND_OF_CALL.get(function)
    if command is None:
        return f"`{function}({arguments})`"
    known = _options(command.partition(" --")[0])
    typed = [_option(known, *found.groups()) or found.group() for found in re.finditer(_ARGUMENT, arguments)]
    return f"`{' '.join(['ibkd', command, *typed])}`"


def _option(known: Mapping[str, str], name: str, value: str | None) -> str | None:
    """An option as it is typed, or None where there is none: a flag for a value of True, quotes only where needed."""
    option = known.get(name)
    if option is None or value is None or value == "True":
        return option
    bare = value.strip("\"'")
    return f"{option} {bare}" if re.fullmatch(r"\S+", bare) else f'{option} "{bare}"'
