"""The table of data sets with a short name. Look sets up through `registry`.

Licence notes are short reminders of the makers' statements (for BEIR: appendix E of Thakur et al., arXiv 2104.08663).
The terms are on the page of each set. Instructions are those of Wang et al. (arXiv 2401.00368, appendix), which MTEB
uses too. They tell an instructed encoder its task for the queries.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSet:
    """A data set with a short name.

    Attributes:
        name: the short name.
        corpus: the ir_datasets id of the documents. "" for a set of parts or a set that ir_datasets lacks.
        queries: the ir_datasets id of the evaluation queries and their judgements. "" as for `corpus`.
        metric: the main metric of its literature.
        relevance_level: the lowest grade that counts as relevant for binary metrics.
        split: the evaluation split of a BEIR folder of the set.
        train: the ir_datasets id of judged training queries for the same documents, "" for none.
        dev: the ir_datasets id of judged queries for tuning on the same documents, "" for none.
        instruction: the text of instructed encoders before the queries, "" where the literature has none.
        licence: a reminder of the terms of use.
        parts: the short names of the sets whose average is the figure of this set.
        obtain: how to get a set that ir_datasets lacks.
        queries_are_documents: whether each query is a document of the corpus under its own id. Published
            figures exclude that document from the query's results.
    """

    name: str
    corpus: str = ""
    queries: str = ""
    metric: str = "ndcg@10"
    relevance_level: int = 1
    split: str = "test"
    train: str = ""
    dev: str = ""
    instruction: str = ""
    licence: str = ""
    parts: tuple[str, ...] = ()
    obtain: str = ""
    queries_are_documents: bool = False


_QUERIES_ARE_DOCUMENTS = frozenset({"arguana", "quora"})
_NOT_STATED = "not stated by its makers"
_MSMARCO_TERMS = "non-commercial research only (Microsoft)"
_WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_CLAIM = "Given a claim, retrieve documents that support or refute the claim"
_FORUM = "detailed question descriptions from Stackexchange that are duplicates to the given question"

# Name, splits in ir_datasets (none: the set's own id has the evaluation queries), licence, instruction.
_BEIR: tuple[tuple[str, str, str, str], ...] = (
    ("trec-covid", "", "CORD-19 terms", "Given a query on COVID-19, retrieve documents that answer the query"),
    (
        "nfcorpus",
        "train dev test",
        _NOT_STATED,
        "Given a question, retrieve relevant documents that best answer the question",
    ),
    ("nq", "", "CC BY-SA 3.0", "Given a question, retrieve Wikipedia passages that answer the question"),
    (
        "hotpotqa",
        "train dev test",
        "CC BY-SA 4.0",
        "Given a multi-hop question, retrieve documents that can help answer the question",
    ),
    (
        "fiqa",
        "train dev test",
        _NOT_STATED,
        "Given a financial question, retrieve user replies that best answer the question",
    ),
    ("arguana", "", "CC BY 4.0", "Given a claim, find documents that refute the claim"),
    (
        "webis-touche2020",
        "",
        "CC BY 4.0",
        "Given a question, retrieve detailed and persuasive arguments that answer the question",
    ),
    (
        "quora",
        "dev test",
        _NOT_STATED,
        "Given a question, retrieve questions that are semantically equivalent to the given question",
    ),
    (
        "dbpedia-entity",
        "dev test",
        "CC BY-SA 3.0",
        "Given a query, retrieve relevant entity descriptions from DBPedia",
    ),
    (
        "scidocs",
        "",
        "GPL 3.0",
        "Given a scientific paper title, retrieve paper abstracts that are cited by the given paper",
    ),
    ("fever", "train dev test", "CC BY-SA 3.0", _CLAIM),
    (
        "climate-fever",
        "",
        _NOT_STATED,
        "Given a claim about climate change, retrieve documents that support or refute the claim",
    ),
    (
        "scifact",
        "train test",
        "CC BY-NC 2.0",
        "Given a scientific claim, retrieve documents that support or refute the claim",
    ),
)
# The plain id has the first judgements of Touché, v2 the corrected ones over the same documents.
_CORRECTED = {"webis-touche2020": "beir/webis-touche2020/v2"}

_CQADUPSTACK = (
    *("android", "english", "gaming", "gis", "mathematica", "physics"),
    *("programmers", "stats", "tex", "unix", "webmasters", "wordpress"),
)
_NANO = ("msmarco", *(name for name, *_ in _BEIR if name != "trec-covid"))
_LOTTE = ("writing", "recreation", "science", "technology", "lifestyle")
_LOTTE_TERMS = "Stack Exchange posts, CC BY-SA"

# How BEIR's authors made them: examples/dataset/README.md in github.com/beir-cellar/beir.
_ON_REQUEST = {
    "bioasq": ("BioASQ terms, on registration", "register at bioasq.org and take the documents of task 9a (2020)"),
    "signal1m": ("tweets, under X's terms", "ask Signal AI for the queries and judgements, and fetch the tweets by id"),
    "trec-news": (
        "Washington Post collection, by agreement with NIST",
        "order the collection at trec.nist.gov/data/wapost and take topics and judgements of the 2019 News track",
    ),
    "robust04": (
        "TREC disks 4 and 5, by agreement with NIST",
        "order the disks at trec.nist.gov/data/cd45; queries are the descriptions of the topics",
    ),
}


def _passages(name: str, queries: str, metric: str, level: int = 1, split: str = "test", dev: str = "") -> KnownSet:
    return KnownSet(
        name,
        "msmarco-passage",
        f"msmarco-passage/{queries}",
        metric,
        level,
        split,
        train="msmarco-passage/train/judged",
        dev=dev,
        instruction=_WEB_SEARCH,
        licence=_MSMARCO_TERMS,
    )


def _beir(name: str, splits: str, licence: str, instruction: str) -> KnownSet:
    corpus = _CORRECTED.get(name, f"beir/{name}")
    ids = {split: f"{corpus}/{split}" for split in splits.split()}
    return KnownSet(
        name,
        corpus,
        ids.get("test", corpus),
        train=ids.get("train", ""),
        dev=ids.get("dev", ""),
        instruction=instruction,
        licence=licence,
        queries_are_documents=name in _QUERIES_ARE_DOCUMENTS,
    )


def _one_id(name: str, dataset_id: str, licence: str, instruction: str) -> KnownSet:
    own = name.rpartition("/")[2] in _QUERIES_ARE_DOCUMENTS
    return KnownSet(name, dataset_id, dataset_id, licence=licence, instruction=instruction, queries_are_documents=own)


def _lotte(topic: str, kind: str) -> KnownSet:
    corpus = f"lotte/{topic}/test"
    return KnownSet(f"lotte/{topic}/{kind}", corpus, f"{corpus}/{kind}", metric="success@5", licence=_LOTTE_TERMS)


_INSTRUCTIONS = {"msmarco": _WEB_SEARCH} | {name: instruction for name, _, _, instruction in _BEIR}
_LICENCES = {"msmarco": _MSMARCO_TERMS} | {name: licence for name, _, licence, _ in _BEIR}

# Grade 1 of TREC DL's passages is "related", on the topic without an answer: binary metrics start at 2
# (Craswell et al., Overview of the TREC 2019 Deep Learning Track).
TABLE: tuple[KnownSet, ...] = (
    _passages("msmarco", "dev/small", "mrr@10", split="dev"),
    _passages("msmarco-dev", "dev/judged", "mrr@10", split="dev"),
    _passages("trec-dl-2019", "trec-dl-2019/judged", "ndcg@10", level=2, dev="msmarco-passage/dev/small"),
    _passages("trec-dl-2020", "trec-dl-2020/judged", "ndcg@10", level=2, dev="msmarco-passage/dev/small"),
    *(_beir(*row) for row in _BEIR),
    KnownSet("cqadupstack", licence="Apache 2.0", parts=tuple(f"cqadupstack/{part}" for part in _CQADUPSTACK)),
    *(
        _one_id(f"cqadupstack/{part}", f"beir/cqadupstack/{part}", "Apache 2.0", f"Given a question, retrieve {_FORUM}")
        for part in _CQADUPSTACK
    ),
    KnownSet(
        "beir-msmarco",
        "beir/msmarco",
        "beir/msmarco/dev",
        split="dev",
        train="beir/msmarco/train",
        instruction=_WEB_SEARCH,
        licence=_MSMARCO_TERMS,
    ),
    *(KnownSet(name, licence=licence, obtain=obtain) for name, (licence, obtain) in _ON_REQUEST.items()),
    *(_one_id(f"nano-beir/{name}", f"nano-beir/{name}", _LICENCES[name], _INSTRUCTIONS[name]) for name in _NANO),
    *(
        KnownSet(
            f"lotte-{kind}",
            metric="success@5",
            licence=_LOTTE_TERMS,
            parts=tuple(f"lotte/{topic}/{kind}" for topic in _LOTTE),
        )
        for kind in ("search", "forum")
    ),
    *(_lotte(topic, kind) for kind in ("search", "forum") for topic in (*_LOTTE, "pooled")),
)

SUITE_SETS: dict[str, tuple[str, ...]] = {
    # The out-of-domain average of the literature: MS MARCO, on which encoders are trained, is left out.
    "beir": (*(name for name, *_ in _BEIR), "cqadupstack"),
    "nano-beir": tuple(f"nano-beir/{name}" for name in _NANO),
    "lotte": ("lotte-search", "lotte-forum"),
    "msmarco": ("msmarco", "trec-dl-2019", "trec-dl-2020"),
    "cqadupstack": ("cqadupstack",),
}
