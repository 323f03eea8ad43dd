"""`ibkd datasets`: the data sets with a short name, and which of them are on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..display.console import print_json, print_table, stdout
from ..options.declare import flag, grouped, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibkd_retrieval.corpora.catalog.descriptions import SetDescription


@grouped
def datasets(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Short name of a data set; all are listed unless given.", show_default=False
        ),
    ] = None,
    suite: Annotated[
        str | None, option("List the sets of a suite: beir, nano-beir, lotte, msmarco, ...", metavar="SUITE")
    ] = None,
    json: Annotated[bool, flag("Print one JSON object.", "--json")] = False,
) -> None:
    """List the data sets that have a short name, or show one.

    Nothing is fetched.
    """
    from ibkd_retrieval.corpora.catalog.descriptions import SUITES, describe
    from ibkd_retrieval.corpora.catalog.descriptions import datasets as described_sets
    from ibkd_retrieval.corpora.irds import home
    from ibkd_retrieval.errors import UserError

    if name is not None and suite is not None:
        raise UserError(f"{name} and --suite {suite} were both given: name a data set or a suite.")
    console = stdout()
    if name is not None:
        described = describe(name)
        if json:
            print_json(described.as_json())
            return
        facts = [f"  {label}: {value}" for label, value in described.facts()]
        for line in (described.known.name, *facts, *_commands(described)):
            console.print(line, soft_wrap=True)
        return
    sets = described_sets(suite)
    if json:
        print_json({"home": str(home()), "suites": list(SUITES), "sets": [each.as_json() for each in sets]})
        return
    _print_list(sets)
    remarks = [f"suites, for --suite: {', '.join(SUITES)}"] if suite is None else []
    remarks.append(f"on disk: d documents, q queries with judgements, in {home()}; `ibkd datasets NAME` shows more")
    for remark in remarks:
        console.print(remark, style="dim", soft_wrap=True)


def _print_list(sets: Sequence[SetDescription]) -> None:
    from rich.table import Table

    from ibkd_retrieval.corpora.catalog.descriptions import counted

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for heading in ("documents", "queries"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    table.add_column("level", justify="right", no_wrap=True)
    table.add_column("on disk", no_wrap=True)
    table.add_column("licence", no_wrap=True, overflow="ellipsis")
    for each in sets:
        known = each.known
        table.add_row(
            f"{known.name} ({len(known.parts)} parts)" if known.parts else known.name,
            counted(each.documents),
            counted(each.queries),
            known.metric,
            str(known.relevance_level),
            each.kept,
            known.licence,
        )
    print_table(table)


def _commands(described: SetDescription) -> list[str]:
    """The commands that use a set."""
    known = described.known
    if known.obtain:
        place = f"FOLDER/{known.name}"
        return [f"ibkd index --corpus {place} --model MODEL", f"ibkd eval --queries {place} --metric {known.metric}"]
    if known.parts:
        return [f"ibkd datasets {part}" for part in known.parts[:1]]
    commands = [
        f"ibkd index --corpus {described.corpus_name} --model MODEL",
        f"ibkd eval --queries {known.name} --metric {known.metric}",
    ]
    if known.train:
        commands.insert(0, f"ibkd distill --corpus {described.corpus_name} --queries {known.train}")
    return commands
