"""Semantic textual similarity on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .console import print_table, stdout
from .options import MODELS

if TYPE_CHECKING:
    from ibkd_retrieval.evaluation.sts import Similarity
    from ibkd_retrieval.progress import Progress


def evaluate_similarity(
    model: str | None,
    data: Sequence[Path],
    *,
    device: str,
    dtype: str,
    backend: str,
    pooling: str | None,
    samples: int,
    seed: int,
    json: bool,
    progress: Progress,
) -> None:
    """Correlate a model's cosines with the scores of each set of pairs and print the result.

    Raises:
        UserError: no pairs were named or can be read, or there is no such model.
    """
    from ibkd_retrieval.corpora.sts import read_pairs
    from ibkd_retrieval.distill.model_folder import newest_student
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.evaluation.sts import evaluate_sts

    if not data:
        raise UserError("--task sts needs sentence pairs: name a file or a SentEval folder with --data; repeatable.")
    sets = [read_pairs(path) for path in data]
    name = model or str(newest_student(MODELS))
    encoder = Encoder.load(name, device=device, dtype=dtype, backend=backend, pooling=pooling)
    found = [evaluate_sts(encoder, pairs, samples=samples, seed=seed, progress=progress) for pairs in sets]
    if json:
        from json import dumps

        shown = {"model": name, "sets": {each.name: _as_json(each) for each in found}}
        stdout().print(dumps(shown), markup=False, soft_wrap=True)
        return
    _show(found, name)


def _as_json(similarity: Similarity) -> dict[str, object]:
    interval = similarity.spearman_interval
    return {
        "pairs": len(similarity.scores),
        "spearman": similarity.spearman,
        "spearman_interval": [interval.low, interval.high],
        "pearson": similarity.pearson,
    }


def _show(found: Sequence[Similarity], model: str) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("pairs of")
    for heading in ("pairs", "spearman", "95% interval", "pearson"):
        table.add_column(heading, justify="right")
    for each in found:
        low, high = each.spearman_interval.low, each.spearman_interval.high
        counted = f"{len(each.scores):,}"
        table.add_row(each.name, counted, f"{each.spearman:.4f}", f"[{low:.4f}, {high:.4f}]", f"{each.pearson:.4f}")
    if len(found) > 1:
        mean = [sum(values) / len(found) for values in zip(*((e.spearman, e.pearson) for e in found), strict=True)]
        table.add_row("average", "", f"{mean[0]:.4f}", "", f"{mean[1]:.4f}")
    print_table(table)
    stdout().print(f"{model}: correlation of cosines with people's scores", style="dim", markup=False)
