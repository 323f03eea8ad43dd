"""`ibkd info`: what an index or a student is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..display.console import print_json, print_table, stdout
from ..options.declare import flag, grouped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from ibkd_retrieval.distill.inventory import Listed


@grouped
def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Index or model folder; all in indexes/ and models/ unless given.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool,
        flag("Re-check the checksum of every file of an index, or the weights of a student.", "--verify"),
    ] = False,
    json: Annotated[bool, flag("Print one JSON object.", "--json")] = False,
) -> None:
    """List the students and indexes that are here, or describe one."""
    import ibkd_retrieval as ibkd
    from ibkd_retrieval.errors import UserError

    if path is not None:
        found = ibkd.describe_folder(path, verify=verify)
        if json:
            print_json(found.to_json())
            return
        _print_facts(stdout().print, found.facts)
        if found.verified:
            stdout().print(found.verified)
        return
    listed = ibkd.inventory()
    if not listed:
        raise UserError("Nothing in indexes/ or models/ here: start with `ibkd quickstart`.")
    if json:
        print_json({"folders": [each.folder for each in listed], "found": [each.to_json() for each in listed]})
        return
    print_table(_table(listed))


def _table(listed: Sequence[Listed]) -> Table:
    from rich.table import Table

    from ibkd_retrieval.evaluation.formatting import size

    table = Table(box=None, pad_edge=False)
    table.add_column("folder", overflow="fold")
    table.add_column("documents", justify="right", no_wrap=True)
    table.add_column("dim", justify="right", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("made", no_wrap=True)
    for each in listed:
        of = f"student of {each.model}" if each.kind == "student" and each.model else each.model or "vectors only"
        table.add_row(
            each.folder,
            "" if each.documents is None else f"{each.documents:,}",
            "" if each.dim is None else f"{each.dim:,}",
            each.type,
            of,
            size(each.bytes).replace("\N{NO-BREAK SPACE}", " "),
            each.created[:16].replace("T", " "),
        )
    return table


def _print_facts(show: Callable[..., None], values: dict[str, object], indent: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            show(f"{indent}{key}:")
            _print_facts(show, value, indent + "  ")
        else:
            text = value if isinstance(value, str) else _plain(value)
            show(f"{indent}{key}: {text}", soft_wrap=True)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(_plain(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
