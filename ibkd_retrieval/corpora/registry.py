"""The data sets this toolkit knows by a short name: where their text is and how they are scored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSet:
    """A data set with a short name.

    Attributes:
        name: its short name.
        corpus: ir_datasets id of the documents.
        queries: ir_datasets id of the evaluation queries and their judgements.
        metric: the metric its literature reports first.
        relevance_level: lowest grade that counts as relevant for binary metrics.
    """

    name: str
    corpus: str
    queries: str
    metric: str = "ndcg@10"
    relevance_level: int = 1


_CQADUPSTACK = (
    *("android", "english", "gaming", "gis", "mathematica", "physics"),
    *("programmers", "stats", "tex", "unix", "webmasters", "wordpress"),
)
_BEIR_WITH_TEST = ("dbpedia-entity", "fever", "fiqa", "hotpotqa", "nfcorpus", "quora", "scifact")
_BEIR_WITHOUT_SPLITS = ("arguana", "climate-fever", "nq", "scidocs", "trec-covid")

# Grade 1 of TREC DL's passages is "related", on the topic without an answer: binary metrics start at 2
# (Craswell et al., Overview of the TREC 2019 Deep Learning Track).
_KNOWN = (
    KnownSet("msmarco", "msmarco-passage", "msmarco-passage/dev/small", metric="mrr@10"),
    KnownSet("trec-dl-2019", "msmarco-passage", "msmarco-passage/trec-dl-2019/judged", relevance_level=2),
    KnownSet("trec-dl-2020", "msmarco-passage", "msmarco-passage/trec-dl-2020/judged", relevance_level=2),
    *(KnownSet(name, f"beir/{name}", f"beir/{name}/test") for name in _BEIR_WITH_TEST),
    *(KnownSet(name, f"beir/{name}", f"beir/{name}") for name in _BEIR_WITHOUT_SPLITS),
    *(KnownSet(f"cqadupstack/{name}", f"beir/cqadupstack/{name}", f"beir/cqadupstack/{name}") for name in _CQADUPSTACK),
    KnownSet("webis-touche2020", "beir/webis-touche2020/v2", "beir/webis-touche2020/v2"),
    KnownSet("beir-msmarco", "beir/msmarco", "beir/msmarco/dev"),
)

KNOWN_SETS: dict[str, KnownSet] = {known.name: known for known in _KNOWN}


def find_known(spec: str) -> KnownSet | None:
    """The data set with this short name or, failing that, the first whose documents have this ir_datasets id."""
    return KNOWN_SETS.get(spec) or next((known for known in _KNOWN if known.corpus == spec), None)


def relevance_level_of(dataset_id: str) -> int:
    """The lowest relevant grade for an ir_datasets id: 2 for TREC Deep Learning passages, else 1."""
    return 2 if dataset_id.startswith("msmarco-passage") and "/trec-dl-" in dataset_id else 1


def main_metric(spec: str) -> str:
    """The metric to report first for a corpus or queries spec; nDCG@10 where nothing else is known."""
    known = find_known(spec)
    if known is None and spec.startswith("msmarco-passage") and "/trec-dl-" not in spec:
        return "mrr@10"
    return known.metric if known else "ndcg@10"
