"""How options are declared: once for a record, whichever commands take it.

A command takes records, and `grouped` gives it the command line that fills them: one option for each declared field.
The fields of a record of the library are declared in a table, by name; their types and defaults are the record's own.
A record of the command line's own carries the declarations in the annotations of its fields.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from ibkd_retrieval.errors import UserError

ADVANCED = "Advanced"
"""The panel of a help page that holds what is seldom needed; the common options have no panel of their own."""

Declared = Mapping[str, Any]
"""From the fields of a record to their options. A field that is not declared keeps its default."""

Given = tuple[str, ...]
"""The options that the user gave, by the names of their parameters. A command that takes this is told."""


def option(
    does: str,
    *names: str,
    panel: str | None = None,
    default: str | bool | None = None,
    metavar: str | None = None,
    choices: Sequence[str] = (),
    **more: Any,
) -> Any:
    """Declare an option.

    Args:
        does: what the option does.
        names: how it is typed, where that is not its parameter's name.
        panel: the panel of the help page, such as `ADVANCED`.
        default: what the help page says of the default; False says nothing. None shows the value itself.
        metavar: what stands for the value.
        choices: the values it takes: they are shown, in place of `metavar` or in the help, and completed by the
            shell. The library refuses others.
        more: arguments of `typer.Option`.
    """
    if choices:
        does += f" One of {', '.join(choices)}." if metavar else ""
        metavar = metavar or "|".join(choices)
        more["autocompletion"] = _completion(tuple(choices))
    if default is not None:
        more["show_default"] = False
        does += _default_shown(default) if default else ""
    return typer.Option(*names, help=does, metavar=metavar, rich_help_panel=panel, **more)


def flag(help: str, *names: str, panel: str | None = None) -> Any:
    """Declare an option that takes no value and is off unless given."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=" ", show_default=False)


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [each for each in choices if each.startswith(incomplete)]

    return complete


@dataclass(frozen=True)
class Group:
    """The options of a record.

    Attributes:
        parameters: one for each option, with its type, declaration and default.
        make: makes the record of the values, by parameter.
    """

    parameters: tuple[inspect.Parameter, ...]
    make: Callable[[dict[str, Any]], Any]


def group(record: type, declared: Declared | None = None) -> Group:
    """The options of a dataclass, those of the dataclasses among its fields included.

    Args:
        record: the dataclass.
        declared: its options by field. None takes those that its annotations carry.
    """
    hints = get_type_hints(record, include_extras=True)
    parameters: list[inspect.Parameter] = []
    parts: dict[str, Group] = {}
    own: dict[str, bool] = {}
    for each in fields(record):
        kind, how = _parted(hints[each.name])
        if is_dataclass(kind):
            parts[each.name] = group(kind, declared)  # type: ignore[arg-type]
            parameters += parts[each.name].parameters
        elif declared is None or each.name in declared:
            # A tuple is an option that may be repeated: a list, or None where it was not given.
            own[each.name] = is_tuple = get_origin(kind) is tuple
            typed, default = (list[get_args(kind)[0]] | None, None) if is_tuple else (kind, _default(each))  # type: ignore[misc]
            how = how if declared is None else declared[each.name]
            parameters.append(parameter(each.name, Annotated[typed, how], default))

    def make(values: dict[str, Any]) -> Any:
        given = {name: tuple(values[name] or ()) if is_tuple else values[name] for name, is_tuple in own.items()}
        return record(**given, **{name: part.make(values) for name, part in parts.items()})

    return Group(tuple(parameters), make)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes records the signature that typer makes the command line of: one option a field.

    A parameter is a dataclass, `Annotated[RECORD, TABLE]` with the options of a record by field, `Annotated[ANY,
    Group]`, an option as typer has it, or `Given`.
    """
    hints = get_type_hints(command, include_extras=True)
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters, groups, told = [first], dict[str, Group](), list[str]()
    for name, each in inspect.signature(command).parameters.items():
        kind = hints[name]
        found = _group_of(kind)
        if kind == Given:
            told.append(name)
        elif found is not None:
            groups[name] = found
            parameters += found.parameters
        else:
            parameters.append(parameter(name, kind, each.default))

    @functools.wraps(command)
    def run(context: typer.Context, **values: Any) -> None:
        records = {name: each.make(values) for name, each in groups.items()}
        used = {parameter.name for each in groups.values() for parameter in each.parameters}
        rest = {name: value for name, value in values.items() if name not in used}
        command(**rest, **records, **dict.fromkeys(told, given_options(context)))

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    del run.__wrapped__
    return run


def given_options(context: typer.Context) -> Given:
    """The options of a command that the user gave, by the names of its arguments."""
    names = [each.name for each in context.command.params if each.name in context.params]
    return tuple(
        name
        for name in names
        if (source := context.get_parameter_source(name)) is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
    )


def _group_of(kind: Any) -> Group | None:
    if is_dataclass(kind):
        return group(kind)  # type: ignore[arg-type]
    if get_origin(kind) is not Annotated:
        return None
    record, *declared = get_args(kind)
    for each in declared:
        if isinstance(each, Group):
            return each
        if isinstance(each, Mapping):
            return group(record, each)
    return None


_VALUES = {int: "N", float: "NUMBER", str: "TEXT"}
"""What stands for a value of a type, where an option does not say."""


def _default_shown(default: object) -> str:
    """The default at the end of a help text: typer would put it on a line of its own, or in parentheses."""
    return f" [dim]\\[default: {default}][/dim]"


def parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """A parameter of a command: an annotated type, with what stands for its value and its default shown."""
    typed, how = _parted(kind)
    if isinstance(how, OptionInfo):
        how = copy(how)
        stands = [_VALUES[each] for each in _types(typed) if each in _VALUES]
        how.metavar = how.metavar or (stands[0] if stands else None)
        if how.show_default is True and default not in (None, inspect.Parameter.empty) and typed is not bool:
            shown = ", ".join(default) if isinstance(default, list) else default
            how.help, how.show_default = f"{how.help}{_default_shown(shown)}", False
        kind = Annotated[typed, how]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return inspect.Parameter.empty if field.default_factory is MISSING else field.default_factory()


def _types(kind: Any) -> list[Any]:
    """A type and those that it is made of: float in list[float] | None."""
    return [kind, *(part for each in get_args(kind) for part in _types(each))]


def _parted(kind: Any) -> tuple[Any, Any]:
    """A type without and with what is annotated to it: the type itself, and the first annotation."""
    return get_args(kind)[:2] if get_origin(kind) is Annotated else (kind, None)


def at_least(least: int, why: str = "") -> Callable[..., Any]:
    """A callback of an option that refuses a smaller number; `why` ends the sentence."""

    def checked(parameter: typer.CallbackParam, value: int | None) -> int | None:
        if value is not None and value < least:
            raise UserError(f"{max(parameter.opts, key=len)} must be at least {least}, not {value}{why}.")
        return value

    return checked
