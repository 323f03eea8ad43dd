"""`ibkd datasets`: the data sets that go by a short name, and what is on disk of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..display.console import print_json, print_table, stdout
from ..options.common import Json

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.catalog.known_sets import KnownSet
    from ibkd_retrieval.corpora.catalog.registry import SetDescription


def datasets(
    name: Annotated[
        str | None, typer.Argument(help="A data set's short name: show all that is known of it.", show_default="all")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(metavar="SUITE", help="List the sets of a suite: beir, nano-beir, lotte, msmarco, ...")
    ] = None,
    json: Json = False,
) -> None:
    """List the data sets that go by a short name, or show one. Nothing is fetched."""
    from ibkd_retrieval.corpora.catalog.registry import describe, known_set
    from ibkd_retrieval.corpora.catalog.suites import SUITES
    from ibkd_retrieval.corpora.irds import home
    from ibkd_retrieval.errors import UserError

    if name is not None and suite is not None:
        raise UserError(f"{name} and --suite {suite} were both given: name a data set or a suite.")
    console = stdout()
    if name is not None:
        described = describe(known_set(name), home())
        if json:
            print_json(_as_json(described))
            return
        for line in _lines(described):
            console.print(line, soft_wrap=True)
        return
    sets = [describe(known, home()) for known in _listed(suite)]
    if json:
        shown = {"home": str(home()), "suites": list(SUITES), "sets": [_as_json(each) for each in sets]}
        print_json(shown)
        return
    _print_list(sets)
    remarks = [f"suites, for --suite: {', '.join(SUITES)}"] if suite is None else []
    remarks.append(f"on disk: d documents, q queries with judgements, in {home()}; `ibkd datasets NAME` shows more")
    for remark in remarks:
        console.print(remark, style="dim", soft_wrap=True)


def _listed(suite: str | None) -> list[KnownSet]:
    from ibkd_retrieval.corpora.catalog.registry import KNOWN_SETS
    from ibkd_retrieval.corpora.catalog.suites import named_suite

    if suite is not None:
        return [KNOWN_SETS[member.name] for member in named_suite(suite)]
    parts = {part for known in KNOWN_SETS.values() for part in known.parts}
    return [known for known in KNOWN_SETS.values() if known.name not in parts]


def _print_list(sets: list[SetDescription]) -> None:
    from rich.table import Table

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
            _count(each.documents),
            _count(each.queries),
            known.metric,
            str(known.relevance_level),
            _on_disk(each),
            known.licence,
        )
    print_table(table)


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _on_disk(described: SetDescription) -> str:
    of = len(described.known.parts)
    kept = (("d", described.documents_on_disk), ("q", described.queries_on_disk))
    return " ".join(f"{letter} {count}/{of}" if of else letter for letter, count in kept if count)


def _as_json(described: SetDescription) -> dict[str, object]:
    import dataclasses

    shown = dataclasses.asdict(described)
    return {**shown.pop("known"), **shown}


def _lines(described: SetDescription) -> list[str]:
    """All that is known of one set, with the commands that use it."""
    from ibkd_retrieval.corpora.catalog.on_disk import folder_bytes, kept_folder
    from ibkd_retrieval.corpora.irds import home

    known = described.known
    told: list[tuple[str, str]] = []
    if known.corpus:
        folder = kept_folder(known, home())
        kept = [
            what
            for what, there in (
                ("documents", described.documents_on_disk),
                ("queries and judgements", described.queries_on_disk),
            )
            if there
        ]
        told += [
            ("documents", f"{_count(described.documents)} (ir_datasets {known.corpus})"),
            ("queries", f"{_count(described.queries)} (ir_datasets {known.queries})"),
            ("judgements", _count(described.judgements)),
            ("train", known.train),
            ("dev", known.dev),
            ("on disk", f"{' and '.join(kept) or 'nothing'}; {folder_bytes(folder):,} bytes in {folder}"),
        ]
    elif known.parts:
        told += [
            ("documents", _count(described.documents)),
            ("queries", _count(described.queries)),
            ("judgements", _count(described.judgements)),
            ("on disk", _on_disk(described) or "nothing"),
            ("parts, averaged", ", ".join(known.parts)),
        ]
    told += [
        ("metric", known.metric),
        ("relevance level", str(known.relevance_level)),
        ("licence", known.licence),
        ("instruction", known.instruction),
        ("how to get it", known.obtain),
    ]
    return [known.name, *(f"  {label}: {value}" for label, value in told if value), *_commands(known)]


def _commands(known: KnownSet) -> list[str]:
    from ibkd_retrieval.corpora.catalog.registry import find_known

    if known.obtain:
        place = f"FOLDER/{known.name}"
        return [f"ibkd index --corpus {place} --model MODEL", f"ibkd eval --queries {place} --metric {known.metric}"]
    if known.parts:
        return [f"ibkd datasets {part}" for part in known.parts[:1]]
    same_documents = find_known(known.corpus) or known
    commands = [
        f"ibkd index --corpus {same_documents.name} --model MODEL",
        f"ibkd eval --queries {known.name} --metric {known.metric}",
    ]
    if known.train:
        commands.insert(0, f"ibkd distill --corpus {same_documents.name} --queries {known.train}")
    return commands
