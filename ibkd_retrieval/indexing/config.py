"""The configuration of an index and of its search, as frozen records that convert to and from JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.endpoints.address import EndpointTerms
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.json_io import decode, encode

if TYPE_CHECKING:
    from ibkd_retrieval.indexing.families import Family
    from ibkd_retrieval.indexing.format.manifest import EncoderRecord


@dataclass(frozen=True)
class SearchParams:
    """Search parameters of an index. None takes the index's default. An exact index has none.

    Attributes:
        nprobe: number of inverted lists visited.
        refine: candidates rescored exactly per result. 0 keeps the scores of the codes.
        ef_search: size of the candidate list of an HNSW graph.

    Example:
        >>> SearchParams(nprobe=16).to_json()
        {'nprobe': 16, 'refine': None, 'ef_search': None}
        >>> SearchParams.from_json({"nprobe": 16})
        SearchParams(nprobe=16, refine=None, ef_search=None)
    """

    nprobe: int | None = None
    refine: int | None = None
    ef_search: int | None = None

    @property
    def is_exact(self) -> bool:
        """Whether no parameter is set."""
        return self == SearchParams()

    def to_json(self) -> dict[str, int | None]:
        """The fields, as JSON holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SearchParams:
        """The record of a JSON object. Missing fields are None.

        Raises:
            UserError: a field is unknown or not an integer.
        """
        try:
            return decode(cls, value)
        except ValueError as error:
            raise UserError(f"These are not search parameters ({error}): give nprobe, refine or ef_search.") from error


@dataclass(frozen=True)
class StructureConfig:
    """How vectors are arranged for search. Options that are None are chosen by the index type.

    Attributes:
        type: "flat" (exact), "ivf-pq", "ivf-flat", "hnsw", "sq8", "rabitq" or "factory" (approximate). None is the
            type of a build that is resumed, "factory" with `factory`, a choice by trial with `recall` alone, and
            "flat" otherwise.
        factory: a faiss factory string, as in "OPQ48,IVF4096,PQ48x4fs".
        recall: share of the exact ten nearest documents to find, above 0 and at most 1.
        memory_per_vector: most bytes that a vector may take in memory, for the choice by trial.
        latency: most milliseconds that a query may take, for the choice by trial.
        lists: number of inverted lists.
        subquantisers: number of sub-quantisers, for "ivf-pq".
        bits: bits of a code, for "ivf-pq" (4 or 8) and "rabitq".
        nprobe: inverted lists that a search visits by default.
        refine: candidates per result that a search rescores exactly by default.
        ef_search: size of the candidate list of a graph search by default, for "hnsw".
        parts: files to keep a structure of inverted lists in. None is one, or as many as `memory` requires.
    """

    type: str | None = None
    factory: str | None = None
    recall: float | None = None
    memory_per_vector: int | None = None
    latency: float | None = None
    lists: int | None = None
    subquantisers: int | None = None
    bits: int | None = None
    nprobe: int | None = None
    refine: int | None = None
    ef_search: int | None = None
    parts: int | None = None

    def family(self, resumed: Path | None = None) -> Family:
        """The index type with its options.

        Args:
            resumed: the folder of a resumed build. Its type is used if no type is given.

        Raises:
            UserError: there is no such type, it has no such option, or a bound is given without `recall`.
        """
        from ibkd_retrieval.indexing.building.plan import begun_family
        from ibkd_retrieval.indexing.families import family_named
        from ibkd_retrieval.indexing.families.auto import Wanted

        bounds = {name: getattr(self, name) for name in ("memory_per_vector", "latency")}
        options = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        options = {name: value for name, value in options.items() if name not in ("type", "parts", *bounds)}
        if self.type is None and self.recall is not None and set(options) == {"recall"}:
            return Wanted(float(self.recall), self.memory_per_vector, self.latency)
        bounding = [f"`{name}`" for name, value in bounds.items() if value is not None]
        if bounding:
            raise UserError(
                f"{' and '.join(bounding)} can only bound the choice of a type by trial: give `recall` with it, and "
                "neither `type` nor options of one."
            )
        if resumed is not None and self.type is None and not options:
            begun = begun_family(resumed)
            if begun is not None:
                return begun
        return family_named(self.type or ("factory" if "factory" in options else "flat"), **options)


@dataclass(frozen=True)
class EncodingConfig:
    """How the documents are encoded.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32", "bfloat16", "float16" or "int8".
        backend: "auto", "torch", "onnx" or "openvino".
        pooling: "mean", "cls" or "lasttoken", in place of the folder's own.
        max_length: tokens to read of a text. None is the model's own limit.
        dim: leading dimensions to keep of a vector. None keeps all.
        query_prompt: text put before every query that will be asked. None is the model's own.
        document_prompt: text put before every document. None is the model's own.
        batch_tokens: most tokens in a batch, padding counted. None is 4,096 (65,536 on a GPU), less in little memory.
        workers: encoder processes. None is this process alone, or with `cluster` as many as there is room for.
        cluster: a Ray cluster that does the work: "auto" for the one that this machine belongs to, or its HOST:PORT.
        worker_cpus: cores of a process on a cluster.
        memory: most memory to take, such as "2GB" or "512MB". None is a quarter of the machine's.
        shard_size: documents in a shard. None is 8,192, less in little memory, more above 245 million documents.
        price: for an endpoint: dollars per million tokens, for the estimate of the cost.
        yes: for an endpoint: agree to the estimated cost. False asks where somebody can answer, and else refuses.
        requests_per_minute: for an endpoint: most requests a minute. None is no limit.
        tokens_per_minute: for an endpoint: most tokens a minute. None is no limit.
    """

    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    pooling: str | None = None
    max_length: int | None = None
    dim: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    batch_tokens: int | None = None
    workers: int | None = None
    cluster: str | None = None
    worker_cpus: int | None = None
    memory: str | None = None
    shard_size: int | None = None
    price: float | None = None
    yes: bool = False
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    @property
    def endpoint(self) -> EndpointTerms:
        """What may be spent on an endpoint, and how fast."""
        return EndpointTerms(self.price, self.yes, self.requests_per_minute, self.tokens_per_minute)

    def like(self, encoder: EncoderRecord) -> EncodingConfig:
        """The same configuration, with options that are not given taken from an index's encoder."""
        return dataclasses.replace(
            self,
            dtype=encoder.dtype if self.dtype == "auto" else self.dtype,
            backend=encoder.backend if self.backend == "auto" else self.backend,
            pooling=self.pooling or encoder.pooling,
            max_length=self.max_length or encoder.max_length or None,
            dim=self.dim or encoder.dim,
            query_prompt=encoder.prompts.get("query") if self.query_prompt is None else self.query_prompt,
            document_prompt=encoder.prompts.get("document") if self.document_prompt is None else self.document_prompt,
        )

    def computing_as(self, encoder: EncoderRecord | None) -> EncodingConfig:
        """The same configuration, with options that are not given taken from a begun build."""
        if encoder is None or (self.backend, self.dtype) != ("auto", "auto"):
            return self
        return dataclasses.replace(self, backend=encoder.backend, dtype=encoder.dtype)


STRUCTURE = frozenset(each.name for each in dataclasses.fields(StructureConfig))
ENCODING = frozenset(each.name for each in dataclasses.fields(EncodingConfig))

PROMPTS = frozenset({"query_prompt", "document_prompt"})

USES: dict[str, frozenset[str]] = {
    "build_index": STRUCTURE | ENCODING | {"vectors"},
    "append": ENCODING,
    "combine": STRUCTURE | {"vectors", "device"},
    "import_vectors": STRUCTURE | {"vectors", "device", "dtype", "pooling", "max_length", *PROMPTS},
    "delete": frozenset(),
}
"""The options that each job accepts. All others are refused."""


def refuse_unused(job: str, given: Iterable[str], used: Collection[str]) -> None:
    """Refuse options that a job does not accept.

    Args:
        job: the job's name in the message.
        given: the options that were given.
        used: the options that the job accepts.

    Raises:
        UserError: names the others.
    """
    unused = [f"`{name}`" for name in given if name not in used]
    if unused:
        raise UserError(
            f"{', '.join(unused)} cannot be used with `{job}`: leave {'it' if len(unused) == 1 else 'them'} out."
        )


@dataclass(frozen=True)
class IndexConfig:
    """Every choice for an index.

    Attributes:
        structure: how vectors are arranged for search.
        encoding: how documents are encoded.
        vectors: how vectors are stored: "float32", "float16" or "int8". None is "float32", or for an index made from
            another one, as they are stored there.

    Example:
        >>> config = IndexConfig.of(type="ivf-pq", nprobe=16, batch_tokens=8192)
        >>> config.structure.nprobe, config.encoding.batch_tokens
        (16, 8192)
        >>> IndexConfig.from_json(config.to_json()) == config
        True
    """

    structure: StructureConfig = field(default_factory=StructureConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    vectors: str | None = None

    @classmethod
    def of(cls, config: IndexConfig | None = None, job: str = "build_index", /, **options: Any) -> IndexConfig:
        """A configuration from options by name, whichever of the records holds them.

        Args:
            config: the values of options that are not given. None is the defaults.
            job: a key of `USES`, what the options are for.
            options: fields of `StructureConfig`, `EncodingConfig` and of this record.

        Raises:
            UserError: there is no such option, or the job has no use for it.
        """
        known = STRUCTURE | ENCODING | {"vectors"}
        for name in options:
            if name not in known:
                raise UserError(f"An index has no option `{name}`: its options are {', '.join(sorted(known))}.")
        refuse_unused(job, options, USES[job])
        config = config or cls()
        given = {name: value for name, value in options.items() if name in STRUCTURE}
        structure = dataclasses.replace(config.structure, **given)
        given = {name: value for name, value in options.items() if name in ENCODING}
        encoding = dataclasses.replace(config.encoding, **given)
        return cls(structure, encoding, options.get("vectors", config.vectors))

    def to_json(self) -> dict[str, Any]:
        """The configuration as a JSON object."""
        return encode(self)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> IndexConfig:
        """The configuration of a JSON object. Missing options have their defaults.

        Raises:
            UserError: a value is of another type.
        """
        try:
            return decode(cls, value)
        except ValueError as error:
            raise UserError(f"This is not a configuration of an index ({error}): correct it.") from error
