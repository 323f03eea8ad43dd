"""`ibkd compare`: teacher against student, in quality, time and memory."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..display.comparison import print_comparison
from ..display.console import print_json
from ..options.common import QUERIES_HELP, Computation, Output, QrelsThreshold, QueryFields, judgements, seed_option
from ..options.declare import ADVANCED, grouped, option


@dataclass(frozen=True)
class CompareOptions:
    """What is compared, on what, and by what."""

    index: Annotated[
        tuple[str, ...],
        option(
            "Index folder; repeat, the others are compared with the first. Settings: name, nprobe, refine, ef-search, "
            "query-model (a student that searches this index), sweep=no. Indexes of several corpora are compared "
            "corpus by corpus and averaged.",
            metavar="INDEX[,SETTING=VALUE...]",
        ),
    ] = ()
    queries: Annotated[
        tuple[str, ...],
        option(
            f"{QUERIES_HELP} Repeatable. Those without judgements are compared by how alike the answers are. "
            "`documents` makes questions of titles or first sentences.",
            metavar="QUERIES",
            default="those of each corpus",
        ),
    ] = ()
    qrels: Annotated[
        tuple[str, ...],
        option("Judgements: a TREC, BEIR, CSV, TSV, JSONL or parquet file; one for each --queries.", metavar="QRELS"),
    ] = ()
    metrics: Annotated[
        tuple[str, ...],
        option(
            "Metric, such as ndcg@10. Repeatable; figures show the first.",
            "--metric",
            default="ndcg@10, mrr@10, recall@100",
            metavar="METRIC",
        ),
    ] = ()
    judge: Annotated[
        str | None,
        option(
            "A cross-encoder, or a strong encoder, that grades the first ten results. Its figures are an opinion.",
            default="none",
            metavar="MODEL",
        ),
    ] = None
    output: Annotated[Path | None, option("Folder for the report.", default="none", metavar="FOLDER")] = None
    fail_under: Annotated[
        tuple[str, ...],
        option(
            "Exit with 1 if a system keeps less than this share of the baseline's score, as in ndcg@10=0.97.",
            metavar="METRIC=SHARE",
        ),
    ] = ()
    sweep: Annotated[
        tuple[str, ...],
        option(
            "Compare each index cut to these lengths, and as these types too; nothing is encoded. Repeatable.",
            metavar="dims=N,...|type=T,...",
            panel=ADVANCED,
        ),
    ] = ()
    baseline: Annotated[
        str | None,
        option(
            "For --fail-under: an earlier report.json that holds the scores to keep a share of.",
            metavar="REPORT[,system=NAME]",
            default="the first --index",
            panel=ADVANCED,
        ),
    ] = None
    rounds: Annotated[int, option("How often every timing is taken.", panel=ADVANCED)] = 8
    peak_memory: Annotated[
        bool,
        option(
            "Load each system in a process of its own and measure the memory it takes.", panel=ADVANCED, metavar=" "
        ),
    ] = True
    k: Annotated[int, option("Results a query, for metrics without a cutoff.", "--k", "-k", panel=ADVANCED)] = 1000
    seed: Annotated[int, seed_option(ADVANCED)] = 0
    qrels_threshold: QrelsThreshold = None


@grouped
def compare(asked: CompareOptions, fields: QueryFields, computing: Computation, shown: Output) -> None:
    """Compare indexes on the same queries: quality, speed and memory.

    The first index is the reference: the report says what each other one keeps of its quality, and what it saves.
    """
    from ibkd_retrieval.errors import WorkFailed
    from ibkd_retrieval.evaluation.compare.compare import compare as compare_indexes
    from ibkd_retrieval.files import require_writable

    progress = shown.progress
    if asked.output is not None:
        require_writable(asked.output / "report.json")
    fields.refuse_without_queries(asked.queries)
    alike = ("metrics", "sweep", "fail_under", "baseline", "rounds", "peak_memory", "judge", "k", "seed")
    found = compare_indexes(
        asked.index,
        [fields.queries(each, progress) for each in asked.queries] or None,
        qrels=judgements(asked.qrels, asked.qrels_threshold, progress) or None,
        **{name: getattr(asked, name) for name in alike},
        **vars(computing),
        command=shlex.join(["ibkd", *sys.argv[1:]]),
        progress=progress,
    )
    if asked.output is not None:
        found.save(asked.output, progress)
    shown.say_where_time_went()
    if shown.json:
        print_json(found.to_json())
    else:
        print_comparison(found)
    failed = [bar.why for bar in found.bars if not bar.passed]
    if failed:
        raise WorkFailed(" ".join(failed))
