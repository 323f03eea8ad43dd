"""Semantic textual similarity on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ibkd_retrieval.encoders.autotune.load import load_encoder

from ..display.console import AS_IT_IS, print_table, stdout, write_text
from ..options.common import MODELS

if TYPE_CHECKING:
    from rich.table import Table

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
    form: str,
    output: Path | None,
    progress: Progress,
) -> None:
    """Correlate a model's cosines with the scores of each set of pairs and print the result, or write it to a file.

    Raises:
        UserError: no pairs were named or can be read, or there is no such model.
    """
    from ibkd_retrieval.corpora.sts import read_pairs
    from ibkd_retrieval.encoders.autotune.choice import sample_texts
    from ibkd_retrieval.encoders.autotune.load import newest_student
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.evaluation.scores import told_apart
    from ibkd_retrieval.evaluation.sts import evaluate_sts

    if not data:
        raise UserError("--task sts needs sentence pairs: name a file or a SentEval folder with --data; repeatable.")
    read = [read_pairs(path) for path in data]
    names = told_apart([each.name for each in read], [str(path) for path in data])
    sets = [each._replace(name=called) for each, called in zip(read, names, strict=True)]
    name = model or str(newest_student(MODELS))
    encoder = load_encoder(
        name,
        backend,
        dtype,
        lambda: sample_texts(text for pairs in sets for pair in pairs.pairs for text in (pair.first, pair.second)),
        purpose="documents",
        progress=progress,
        device=device,
        pooling=pooling,
    )
    found = [evaluate_sts(encoder, pairs, samples=samples, seed=seed, progress=progress) for pairs in sets]
    if form == "table" and output is None:
        print_table(_table(found))
        stdout().print(_remark(name), style="dim")
        return
    write_text(_FORMS[form](found, name), output)


def _as_json(similarity: Similarity) -> dict[str, object]:
    interval = similarity.spearman_interval
    return {
        "pairs": len(similarity.scores),
        "spearman": similarity.spearman,
        "spearman_interval": [interval.low, interval.high],
        "pearson": similarity.pearson,
    }


def _json(found: Sequence[Similarity], model: str) -> str:
    from json import dumps

    return dumps({"model": model, "sets": {each.name: _as_json(each) for each in found}}) + "\n"


def _csv(found: Sequence[Similarity], model: str) -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "pairs of", "pairs", "spearman", "low", "high", "pearson"])
    for each in found:
        interval = each.spearman_interval
        counted = [each.name, len(each.scores)]
        writer.writerow([model, *counted, each.spearman, interval.low, interval.high, each.pearson])
    return out.getvalue()


def _latex(found: Sequence[Similarity], model: str) -> str:
    r"""A `booktabs` table: a row per set."""
    from ibkd_retrieval.evaluation.text_tables import latex_escaped

    rows = [rf"{latex_escaped(each.name)} & {each.spearman:.4f} & {each.pearson:.4f} \\" for each in found]
    lines = [
        r"% \usepackage{booktabs}",
        rf"% {model}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & Spearman & Pearson \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _text(found: Sequence[Similarity], model: str) -> str:
    from io import StringIO

    from rich.console import Console

    text = StringIO()
    console = Console(file=text, width=1000, **AS_IT_IS)
    console.print(_table(found))
    console.print(_remark(model), soft_wrap=True)
    return text.getvalue()


_FORMS = {"table": _text, "json": _json, "csv": _csv, "latex": _latex}


def _remark(model: str) -> str:
    return f"{model}: correlation of cosines with people's scores"


def _table(found: Sequence[Similarity]) -> Table:
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
    return table
