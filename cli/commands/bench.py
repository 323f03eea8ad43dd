"""`ibkd bench`: encoding speed on this machine, and the best backend and number format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..display.console import print_json, print_table, reporter, stdout
from ..options.common import CORPUS_HELP, Device, Json, MaxLength, Pooling, Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ibkd_retrieval.encoders.autotune.benchmark import Speed


def bench_encode(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Encoder: folder or hub name.", show_default="the newest student in models/"
        ),
    ] = None,
    corpus: Annotated[str, typer.Option(metavar="CORPUS", help=CORPUS_HELP)] = "pydocs",
    documents: Annotated[
        int,
        typer.Option(
            help="Documents of the corpus to encode in each run; over and over until all cores have several batches."
        ),
    ] = 64,
    rounds: Annotated[int, typer.Option(help="Runs of each, in turn; medians are shown.")] = 5,
    max_length: MaxLength = None,
    pooling: Pooling = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a model in every installed backend and number format, and say which is best here; it is remembered.

    `ibkd index`, `search`, `eval` and `compare` then take it by themselves (--backend auto).
    """
    from ibkd_retrieval.encoders.autotune.benchmark import bench_encode as measure
    from ibkd_retrieval.indexing.gpu import device_there

    progress = reporter(quiet)
    found = measure(
        model,
        corpus,
        documents=documents,
        rounds=rounds,
        max_length=max_length,
        pooling=pooling,
        device=device_there(device, progress),
        progress=progress,
    )
    if json:
        print_json(found.to_json())
        return
    print_table(_table(found.configs))
    stdout().print(_legend(), soft_wrap=True)
    for choice in found.choices.values():
        stdout().print(choice.reason, soft_wrap=True)
    stdout().print(
        "`ibkd index --backend auto`, the default, takes these from now on for this model on this machine.",
        soft_wrap=True,
    )


def _legend() -> str:
    from ibkd_retrieval.encoders.autotune.benchmark import SHORT_TOKENS
    from ibkd_retrieval.encoders.autotune.choice import LEAST_COSINE, MEAN_COSINE

    return (
        f"short ones: the first {SHORT_TOKENS} tokens of each document. Queries: of so many tokens, one at a time, the "
        f"median. Cosine: to the first row's vectors; taken is what has at least {MEAN_COSINE} on average and "
        f"{LEAST_COSINE} for every text. Of peak: of what a large matrix product of that format reaches here."
    )


def _table(found: Sequence[Speed]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    lengths = sorted(found[0].queries)
    queries = (f"query of {n}" for n in lengths)
    heads = ("documents/s", "short ones/s", *queries, "95 % within", "mean cosine", "least", "of peak")
    for head in heads:
        table.add_column(head, justify="right")
    for speed in found:
        share = speed.share_of_peak
        table.add_row(
            str(speed.config),
            f"{speed.long_per_second:,.1f}",
            f"{speed.short_per_second:,.1f}",
            *(f"{speed.queries[n].p50:.2f} ms" for n in lengths),
            " / ".join(f"{speed.queries[n].p95:.2f}" for n in lengths) + " ms",
            f"{speed.mean_cosine:.5f}",
            f"{speed.least_cosine:.5f}",
            "" if share is None else f"{share:.0%}",
        )
    return table
