"""A comparison as `ibkd compare` would find it, made up but consistent: means are those of the values, and so on."""

from __future__ import annotations

import numpy as np

from ibkd_retrieval.encoders.device import Environment
from ibkd_retrieval.evaluation.compare.records import (
    Agreement,
    Average,
    Bar,
    BatchRate,
    Cost,
    EncoderFigures,
    Example,
    Histogram,
    IndexGigabytes,
    Latency,
    MetricContrast,
    MetricScore,
    PeakMemory,
    Percentiles,
    PerQuery,
    RankedDocument,
    Sizes,
    Throughput,
)
from ibkd_retrieval.evaluation.compare.report import (
    ComparisonReport,
    DataSetReport,
    SystemRecord,
    SystemResult,
    TradeoffPoint,
)
from ibkd_retrieval.evaluation.significance import bootstrap_means, percentiles, randomisation_test
from ibkd_retrieval.indexing.config import SearchParams

METRICS = ("ndcg@10", "mrr@10", "recall@100")
# name, encoder, dims, family, quality kept, milliseconds to encode and to search, bytes a document in memory
SYSTEMS = (
    ("all-mpnet-base-v2 flat", "all-mpnet-base-v2", 768, "flat", 1.0, 52.0, 1.2, 3072.0),
    ("all-mpnet-base-v2 ivf-pq", "all-mpnet-base-v2", 768, "ivf-pq", 0.99, 52.5, 0.8, 117.0),
    ("student flat", "models/student", 384, "flat", 0.97, 8.6, 0.7, 1536.0),
    ("student ivf-pq", "models/student", 384, "ivf-pq", 0.955, 8.5, 0.5, 69.0),
    ("student hnsw", "models/student", 384, "hnsw", 0.966, 8.7, 0.3, 1810.0),
    ("student 128 flat", "models/student at 128", 128, "flat", 0.92, 8.5, 0.4, 512.0),
    ("student 128 ivf-pq", "models/student at 128", 128, "ivf-pq", 0.9, 8.6, 0.4, 37.0),
    ("paraphrase-MiniLM-L3-v2 flat", "paraphrase-MiniLM-L3-v2", 384, "flat", 0.84, 4.4, 0.7, 1536.0),
    ("paraphrase-MiniLM-L3-v2 ivf-pq", "paraphrase-MiniLM-L3-v2", 384, "ivf-pq", 0.83, 4.3, 0.6, 69.0),
    ("potion-retrieval-32M flat", "potion-retrieval-32M", 512, "flat", 0.78, 0.2, 0.9, 2048.0),
    ("potion-retrieval-32M ivf-pq", "potion-retrieval-32M", 512, "ivf-pq", 0.77, 0.2, 0.6, 85.0),
    ("potion-retrieval-32M sq8", "potion-retrieval-32M", 512, "sq8", 0.779, 0.2, 0.5, 512.0),
)
DATA_SETS = ("scifact", "nfcorpus", "cranfield", "cisi", "vaswani", "fiqa", "arguana", "trec-covid")


def sample_comparison(
    systems=4, data_sets=1, queries=60, seed=0, names=None, query_text=None, quality=None, values=None, timed=True,
    slower=1.0, larger=1.0, scanned=(), bars=(), metrics=METRICS,
):  # fmt: skip
    """Build a comparison.

    Args:
        systems: how many of `SYSTEMS`, the first of which is the baseline.
        data_sets: how many of `DATA_SETS`.
        queries: in each data set.
        seed: of the values.
        names: of the systems, instead of theirs.
        query_text: of every query, instead of one that differs.
        quality: kept by each system, instead of theirs.
        values: function of (system number, the baseline's values, metric number) to a system's values.
        timed: with throughput, peak memory and cost.
        slower: factor on the times of all but the baseline.
        larger: factor on their sizes.
        scanned: numbers of the systems whose indexes hold nothing in memory.
        bars: to carry.
        metrics: names.
    """
    rows = [list(row) for row in SYSTEMS[:systems]]
    for number, row in enumerate(rows):
        row[0] = names[number] if names else row[0]
        row[4] = quality[number] if quality else row[4]
        if number:
            row[5], row[6], row[7] = row[5] * slower, row[6] * slower, row[7] * larger
        if number in scanned:
            row[7] = 0.0
    rng = np.random.default_rng(seed)
    reports = tuple(_data_set(name, rows, metrics, queries, query_text, values, rng) for name in DATA_SETS[:data_sets])
    baseline = rows[0][0]
    averages = {}
    for row in rows:
        averages[row[0]] = {}
        for metric in metrics:
            means, first = (
                np.mean([report.systems[name].scores[metric].mean for report in reports]) for name in (row[0], baseline)
            )
            kept = float(means / first) if first else None
            spread = None if kept is None else (kept - 0.01, kept + 0.01)
            averages[row[0]][metric] = Average(float(means), kept, (1.0, 1.0) if row is rows[0] else spread)
    packages = {"ibkd-retrieval": "0.1.0", "torch": "2.13.0", "faiss-cpu": "1.15.1", "numpy": "2.4.6"}
    return ComparisonReport(
        created="2026-11-23T19:00:00Z",
        command="ibkd compare --index indexes/teacher --index indexes/student --queries scifact --output report",
        seed=seed,
        confidence=0.95,
        bootstrap_samples=200,
        environment=Environment("Linux x86_64", "AMD EPYC 7763", 4, 2, None, "3.12.4", packages),
        baseline=baseline,
        metrics=tuple(metrics),
        systems=tuple(_system(row, timed) for row in rows),
        data_sets=reports,
        averages=averages,
        bars=tuple(bars),
    )


def missed_bar(system="student flat"):
    return Bar(
        "ndcg@10", 0.99, system, 0.97, False, f"{system} keeps 97.0 % of ndcg@10, below the bar of 99 %", "teacher"
    )


def _system(row, timed):
    name, encoder, dims, family, _, encode, _, memory = row
    sizes = {str(n): IndexGigabytes(n * memory * 1.2 / 1e9, n * memory / 1e9) for n in (8_841_823, 1_000_000_000)}
    return SystemRecord(
        name=name,
        encoder=EncoderFigures(
            encoder,
            f"hash of {encoder}",
            dims,
            11_700_000,
            int(encode * 1.6e6),
            int(encode * 8e6),
            256,
            "float32",
            "cpu",
        ),
        family=family,
        settings=SearchParams(),
        throughput=Throughput(2000 / encode, 1900 / encode, 2050 / encode, 256, 3) if timed else None,
        peak_memory=PeakMemory(int(4e8 + encode * 9e6), 280_000_000, None, "scifact", 20) if timed else None,
        cost=Cost(3600 * 1000 / encode, sizes, "scifact") if timed else None,
    )


def _data_set(name, rows, metrics, queries, query_text, values, rng):
    ids = tuple(f"q{number}" for number in range(queries))
    columns = {}
    first = np.clip(rng.beta(1.4, 0.8, (queries, len(metrics))), 0, 1).round(4)
    for number, row in enumerate(rows):
        if values is not None:
            found = np.stack([values(number, first[:, m], m) for m in range(len(metrics))], axis=1)
        else:
            moved = (rng.random(first.shape) < 0.5) * rng.normal(0, 0.15, first.shape)
            found = first if number == 0 else np.clip((first + moved) * row[4], 0, 1).round(4)
        columns[row[0]] = found
    baseline = rows[0][0]
    texts = {each: query_text or f"What does {name} say about question {each}?" for each in ids}
    return DataSetReport(
        name=name,
        corpus=name,
        fingerprint="0123456789abcdef",
        documents=5183,
        queries=queries,
        query_source=f"{name}/test",
        systems={row[0]: _result(row, rows[0], columns, metrics, name, rng) for row in rows},
        per_query=PerQuery(
            ids,
            {
                each: {metric: tuple(column[:, m].tolist()) for m, metric in enumerate(metrics)}
                for each, column in columns.items()
            },
        ),
        examples=tuple(
            example for row in rows[1:] for example in _examples(row[0], baseline, columns, ids, texts, metrics[0])
        ),
    )


def _result(row, first_row, columns, metrics, data_set, rng):
    name, _, _, family, _, encode, search, memory = row
    ours, first = columns[name], columns[first_row[0]]
    both = bootstrap_means(np.concatenate([ours, first], axis=1), 200, 0)
    scores, contrasts = {}, {}
    for m, metric in enumerate(metrics):
        mean, base = float(ours[:, m].mean()), float(first[:, m].mean())
        mine, theirs = both[:, m], both[:, len(metrics) + m]
        ratio = percentiles(mine / theirs, 0.95) if theirs.min() > 0 else None
        scores[metric] = MetricScore(mean, percentiles(mine, 0.95), mean / base if base else None, ratio)
        if row is not first_row:
            test = randomisation_test(ours[:, m], first[:, m], 999, 0)
            change = ours[:, m] - first[:, m]
            contrasts[metric] = MetricContrast(
                test.difference, percentiles(mine - theirs, 0.95), test.p_value, test.p_value, test.p_value,
                test.permutations, test.exact,
                *(int(which.sum()) for which in (change > 0, change == 0, change < 0)),
            )  # fmt: skip
    times = rng.lognormal(np.log(encode + search), 0.12, 300)
    edges = np.geomspace(0.2, 200, 61)
    counts, _ = np.histogram(times, edges)
    p50 = encode + search
    total = Percentiles(p50, 1.3 * p50, 1.6 * p50, (0.97 * p50, 1.04 * p50))
    part = [Percentiles(p, 1.3 * p, 1.6 * p, (0.97 * p, 1.04 * p)) for p in (encode, search)]
    base_p50 = first_row[5] + first_row[6]
    curve = ()
    if family != "flat":
        steps = (1, 2, 4, 8, 16, 32, 64, 128)
        recalls = 1 - np.exp(-0.75 * np.arange(1, 9) ** (0.8 if family == "ivf-pq" else 1.1))
        curve = tuple(
            TradeoffPoint(
                None if family == "hnsw" else step, step if family == "hnsw" else None, float(recall),
                0.05 + step * 0.01, float(recall) * scores[metrics[0]].mean,
            )
            for step, recall in zip(steps, recalls, strict=True)
        )  # fmt: skip
    return SystemResult(
        index=f"{data_set}-{family}",
        factory="Flat" if family == "flat" else "IVF72,PQ48",
        search=SearchParams() if family == "flat" else SearchParams(nprobe=16, refine=4),
        missing_queries=0,
        scores=scores,
        contrasts=contrasts,
        recall_against_exact={"10": 1.0, "100": 1.0} if family == "flat" else {"10": 0.97, "100": 0.94},
        agreement=Agreement(1.0, 1.0) if row is first_row else Agreement(0.72, 0.68),
        latency_ms=Latency(*part, total, 300, Histogram(tuple(edges.tolist()), tuple(counts.tolist()))),
        batch_queries_per_second=BatchRate(3000 / encode, 2900 / encode, 3100 / encode, 32),
        sizes=Sizes(int(5183 * memory * 1.2), int(5183 * memory), memory * 1.2, memory),
        gains={
            "query_total_p50": base_p50 / p50,
            **({"index_memory_bytes": first_row[7] / memory} if memory and first_row[7] else {}),
        },
        gain_spread={"query_total_p50": (0.95 * base_p50 / p50, 1.05 * base_p50 / p50)},
        tradeoff_curve=curve,
    )


def _examples(name, baseline, columns, ids, texts, metric):
    change = columns[name][:, 0] - columns[baseline][:, 0]
    order = np.argsort(change, kind="stable")
    chosen = [n for n in order[:5] if change[n] < 0] + [n for n in order[::-1][:5] if change[n] > 0]
    for n in chosen:
        found = tuple(
            RankedDocument(
                f"d{rank}", f"Document {rank} on {ids[n]}" if rank % 2 else "", "A passage that says one thing. " * 6,
                0.9 - rank / 10, (None, 0, 1, None, 2)[rank - 1],
            )
            for rank in range(1, 6)
        )  # fmt: skip
        yield Example(
            name, ids[n], texts[ids[n]], metric, float(columns[baseline][n, 0]), float(columns[name][n, 0]),
            {baseline: found, name: found[1:] + found[:1]},
        )  # fmt: skip
