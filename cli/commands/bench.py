"""`ibkd bench`: encoding speed on this machine, and the best backend and number format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..display.console import print_json, print_table, stdout
from ..options.common import CORPUS_HELP, Device, MaxLength, Output, Pooling
from ..options.declare import grouped, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ibkd_retrieval.encoders.autotune.benchmark import Speed


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and on which texts."""

    model: Annotated[
        str | None,
        option("Encoder: folder or hub name.", metavar="MODEL", default="the newest student in models/"),
    ] = None
    corpus: Annotated[str, option(CORPUS_HELP, metavar="CORPUS")] = "pydocs"
    documents: Annotated[
        int,
        option("Documents of the corpus to encode in each run; over and over until all cores have several batches."),
    ] = 64
    rounds: Annotated[int, option("Runs of each, in turn; medians are shown.")] = 5
    max_length: MaxLength = None
    pooling: Pooling = None
    device: Device = "auto"


@grouped
def bench_encode(asked: BenchOptions, shown: Output) -> None:
    """Measure a model in every installed backend and number format.

    The best is remembered: `ibkd index`, `search`, `eval`, `compare` and `serve` use it (--backend auto).
    """
    import ibkd_retrieval as ibkd
    from ibkd_retrieval.indexing.faiss_binding import device_there

    progress = shown.progress
    device = device_there(asked.device, progress)
    found = ibkd.bench_encode(**{**vars(asked), "device": device}, progress=progress)
    if shown.json:
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
