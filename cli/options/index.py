"""The options of `ibkd index` and `ibkd import`: the choices for an index, and the jobs that use them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import USES, IndexConfig, refuse_unused

from .common import COMPUTATION, COMPUTING, SPENDING, on_cluster
from .declare import ADVANCED, Given, option

STRUCTURED = f"{ADVANCED}: the index type"
RESOURCES = f"{ADVANCED}: memory and processes"

CHOICES: dict[str, Any] = {
    "type": option(
        "Index type: flat is exact, the others are smaller or faster and approximate.",
        default="flat; resumed, what it was",
        metavar="TYPE",
        choices=("flat", "ivf-pq", "ivf-flat", "hnsw", "sq8", "rabitq", "factory"),
    ),
    "recall": option(
        "Share of the exact ten nearest to find. Without --type, a trial chooses the type.",
        panel=STRUCTURED,
        metavar="SHARE",
    ),
    "memory_per_vector": option(
        "For --recall: most memory that a vector may take during a search.", panel=STRUCTURED, metavar="BYTES"
    ),
    "latency": option("For --recall: most time that a query may take.", panel=STRUCTURED, metavar="MILLISECONDS"),
    "factory": option("A faiss factory string, as in OPQ48,IVF4096,PQ48x4fs.", panel=STRUCTURED, metavar="STRING"),
    "vectors": option(
        "How exact vectors are stored: float16 is half the bytes and int8 a quarter; both round.",
        panel=STRUCTURED,
        default="float32",
        choices=("float32", "float16", "int8"),
    ),
    "lists": option("Inverted lists.", panel=STRUCTURED, default="by the number of documents"),
    "subquantisers": option(
        "For ivf-pq: parts of a vector that are compressed one by one.", panel=STRUCTURED, default="dimensions / 4"
    ),
    "bits": option("Bits for each part, for ivf-pq (4 or 8) and rabitq.", panel=STRUCTURED),
    "nprobe": option("Inverted lists that a search visits by default.", panel=STRUCTURED, default="measured"),
    "refine": option(
        "Candidates per result that a search scores exactly by default.", panel=STRUCTURED, default="measured"
    ),
    "ef_search": option(
        "Size of the candidate list of a search in an hnsw graph, by default.", panel=STRUCTURED, default="measured"
    ),
    "parts": option(
        "Files to keep inverted lists in, which can be searched on several machines.",
        panel=STRUCTURED,
        default="1, or as many as --memory requires",
    ),
    "dim": option(
        "Leading dimensions to keep of a vector, for students of `ibkd distill --dims`.",
        panel=COMPUTING,
        default="all",
    ),
    **COMPUTATION,
    "batch_tokens": option(
        "Most tokens in one batch, padding counted.",
        panel=COMPUTING,
        default="4096 (65536 on a GPU), less in little memory",
    ),
    "workers": option(
        "Encoder processes. They share the cores, or are spread over the GPUs.",
        panel=RESOURCES,
        default="1; on a cluster, as many as it has room for",
    ),
    **on_cluster(RESOURCES),
    "memory": option(
        "Most memory to take, such as 2GB or 512MB. Inverted lists that need more are kept in parts.",
        panel=RESOURCES,
        default="a quarter of the machine's",
        metavar="SIZE",
    ),
    "shard_size": option(
        "Documents in a shard. A killed run loses only unfinished shards.",
        panel=RESOURCES,
        default="8192, less in little memory",
    ),
    **SPENDING,
}
"""The choices for an index, by the fields of `IndexConfig`."""


Indexing = Annotated[IndexConfig, CHOICES]
"""The choices for an index that is built."""
_TYPES_TO_IMPORT = option(
    "flat is exact, ivf-pq is compressed and refined with the exact vectors.",
    default="flat; resumed, what it was",
    choices=("flat", "ivf-pq"),
)
_IMPORTED = ("vectors", "pooling", "max_length", "query_prompt", "document_prompt", "device", "dtype")
Importing = Annotated[IndexConfig, {"type": _TYPES_TO_IMPORT} | {name: CHOICES[name] for name in _IMPORTED}]
"""The choices for an index of vectors that exist."""

_ALWAYS = {"output", "json", "quiet"}


class Job(NamedTuple):
    """A job that an option asks for.

    Attributes:
        does: what it does, for a sentence.
        uses: every option that it has a use for.
        needs: the options that it cannot do without, and what they name.
    """

    does: str
    uses: Collection[str]
    needs: Mapping[str, str]


_RUNS = {"resume", "overwrite"}
_APPENDED = {"replace", "since"}
JOBS = {
    "from_": Job("makes a new index", USES["combine"] | _RUNS, {}),
    "merge": Job("makes a new index", USES["combine"] | _RUNS, {"output": "its folder"}),
    "append": Job(
        "adds the documents of a corpus to a finished index",
        USES["append"] | _RUNS | _APPENDED | {"corpus", "model", "id_field", "text_field", "title_field"},
        {"output": "the index", "corpus": "the corpus"},
    ),
    "delete": Job("changes a finished index", USES["delete"], {"output": "the index"}),
}


def chosen_job(given: Given) -> str | None:
    """The job that the options ask for; None for a build.

    Raises:
        UserError: they contradict each other, or one that is needed is missing.
    """
    jobs = [name for name in JOBS if name in given]
    if len(jobs) > 1:
        raise UserError(f"{' and '.join(f'`{name}`' for name in jobs)} are different jobs: give one of them.")
    if not jobs:
        alone = [f"`{name}`" for name in sorted(_APPENDED) if name in given]
        if alone:
            raise UserError(f"{' and '.join(alone)} can only be used with `append`: give that too.")
        return None
    job = JOBS[jobs[0]]
    refuse_unused(jobs[0], given, {jobs[0], *job.uses, *_ALWAYS})
    for name, what in job.needs.items():
        if name not in given:
            raise UserError(f"`{jobs[0]}` {job.does}: name {what} with `{name}`.")
    return jobs[0]
