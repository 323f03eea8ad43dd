"""`ibkd info`: what an index or a student is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..display.console import print_json, stdout
from ..options.common import INDEXES, MODELS, Json


def info(
    path: Annotated[
        Path | None, typer.Argument(help="Index or model folder.", show_default="all in indexes/ and models/")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Re-check the checksum of every file of an index, or the weights of a student."),
    ] = False,
    json: Json = False,
) -> None:
    """Show what an index or a student is made of, or list those that are here."""
    from ibkd_retrieval.distill.config import RECORD
    from ibkd_retrieval.distill.output.folder import read_student, verify_student
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.indexing.describe import describe

    console = stdout()
    if path is None:
        found = sorted([*INDEXES.glob("*/index.json"), *MODELS.glob(f"*/{RECORD}")])
        if not found:
            raise UserError(f"Nothing in {INDEXES}/ or {MODELS}/ here: start with `ibkd quickstart`.")
        folders = [str(each.parent) for each in found]
        if json:
            print_json({"folders": folders})
            return
        for each in folders:
            console.print(each)
        return
    if (path / RECORD).is_file():
        shown, verified = read_student(path), "weights, modules and tokens are as recorded"
        if verify:
            verify_student(path)
    else:
        verified = "every file is as recorded"
        described = describe(path, verify=verify)
        shown = described.to_json() if json else described.whole
    if json:
        print_json(shown)
        return
    _print(console.print, shown)
    if verify:
        console.print(verified)


def _print(show, values: dict[str, object], indent: str = "") -> None:  # type: ignore[no-untyped-def]
    for key, value in values.items():
        if isinstance(value, dict):
            show(f"{indent}{key}:")
            _print(show, value, indent + "  ")
        else:
            text = value if isinstance(value, str) else _plain(value)
            show(f"{indent}{key}: {text}", soft_wrap=True)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(_plain(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
