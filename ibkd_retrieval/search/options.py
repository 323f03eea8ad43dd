"""The ranking options, and the checks of their combinations."""

from __future__ import annotations

from dataclasses import dataclass, field

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams


@dataclass(frozen=True)
class RankerOptions:
    """How to rank the documents of an index.

    Attributes:
        engine: "dense" (vectors), or "bm25" or "lucene" (words).
        language: language of the words, by name or ISO 639-1 code.
        hybrid: fusion of dense and lexical search, by "rrf" (ranks) or "sum" (scores).
        weights: fusion weights, dense first. Empty is equal weights.
        tune: judged queries on which the weights of `hybrid="sum"` are tuned.
        rerank: a cross-encoder that reranks the best results.
        rerank_depth: results per query that are reranked.
        rerank_max_length: maximum number of tokens of query and text. None is the cross-encoder's own limit.
        model: another folder of the encoder that made the index.
        query_model: a student in that encoder's vector space. It encodes the queries.
        query_vectors: a file or folder of vectors of queries. They are looked up by id or by text, and no model is
            loaded.
        device: "auto", "cpu", "cuda" or "cuda:N", for index and models.
        dtype: number format of the models' computation.
        backend: backend of the query encoder. "auto" is the best one measured on this machine.
        pooling: pooling of a plain transformers encoder.
        search_params: search parameters. Those that are None are the index's own defaults.
        recall: target recall of the exact ten nearest documents, instead of `search_params`.
        filters: conditions on documents. All must hold.
        exclude_self: whether to leave out the document that has the query's id.
        cluster: a Ray cluster that searches by vectors: "auto" for the one that this machine belongs to, or its
            HOST:PORT. Its nodes see the index folder. Best for many queries at once.
        exact_merge: on a cluster, whether candidates of all parts of a structure are merged before they are refined,
            as they are in one process.
    """

    engine: str = "dense"
    language: str = "english"
    hybrid: str | None = None
    weights: tuple[float, ...] = ()
    tune: str | None = None
    rerank: str | None = None
    rerank_depth: int = 100
    rerank_max_length: int | None = None
    model: str | None = None
    query_model: str | None = None
    query_vectors: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    pooling: str | None = None
    search_params: SearchParams = field(default_factory=SearchParams)
    recall: float | None = None
    filters: tuple[str, ...] = ()
    exclude_self: bool = False
    cluster: str | None = None
    exact_merge: bool = False

    @property
    def lexical_engine(self) -> str:
        """The engine of lexical search. The default is BM25."""
        return "bm25" if self.engine == "dense" else self.engine


def check_ranking(options: RankerOptions, indexes: int = 1) -> None:
    """Check the ranking options before an index is opened or built.

    Args:
        options: the ranking options.
        indexes: number of indexes that are searched together.

    Raises:
        UserError: an option is unknown, out of range, or conflicts with another.
    """
    if options.engine != "dense":
        from ibkd_retrieval.search.lexical import ENGINES

        if options.engine not in ENGINES:
            raise UserError(f"Unknown engine `{options.engine}`: use dense, {' or '.join(ENGINES)}.")
    if options.language != "english":
        from ibkd_retrieval.search.lexical.languages import check_language

        check_language(options.language)
        if options.engine == "dense" and options.hybrid is None:
            raise UserError('`language` is that of words: give `engine="bm25"` or `hybrid` too, or leave it out.')
    if options.hybrid is not None:
        from ibkd_retrieval.search.ranker import METHODS
        from ibkd_retrieval.search.runs.fusion import checked_weights

        if options.hybrid not in METHODS:
            raise UserError(f"Unknown fusion `{options.hybrid}`: give `hybrid` as {' or '.join(METHODS)}.")
        if options.weights:
            checked_weights(options.weights, 2)
    elif options.weights:
        raise UserError('`weights` can only be used with a fusion: give `hybrid="rrf"` or `hybrid="sum"` too.')
    if indexes > 1 and (options.hybrid is not None or options.engine != "dense"):
        raise UserError(
            "Several indexes can be searched together by their vectors only: leave out `engine` and `hybrid`."
        )
    params = options.search_params
    if options.recall is not None and params != SearchParams():
        raise UserError("`recall` chooses `nprobe`, `refine` and `ef_search`: give it or them, not both.")
    if options.rerank is None and (options.rerank_depth, options.rerank_max_length) != (100, None):
        raise UserError("`rerank_depth` and `rerank_max_length` are for `rerank=MODEL`: give that too, or neither.")
    if options.rerank is not None:
        from ibkd_retrieval.search.rerank import check_depth

        check_depth(options.rerank_depth)
    of_vectors = (options.query_model, options.query_vectors, options.recall, *params.to_json().values())
    if options.engine != "dense" and options.hybrid is None and any(value is not None for value in of_vectors):
        raise UserError(
            f"`engine={options.engine}` searches words alone: leave out `query_model`, `query_vectors`, `recall`, "
            "`nprobe`, `refine` and `ef_search`, or give `hybrid`."
        )
    if options.exact_merge and options.cluster is None:
        raise UserError("`exact_merge` says how a cluster searches: give `cluster` too, or leave it out.")
    if options.cluster is not None and options.engine != "dense" and options.hybrid is None:
        raise UserError(
            f"A cluster searches by vectors, and `engine={options.engine}` by words: leave out `cluster`, or give "
            "`hybrid`."
        )
    if options.model is not None and options.query_model is not None:
        raise UserError("Give `model` (the index's own encoder) or `query_model` (a student of it), not both.")
    if options.query_vectors is not None and (options.model or options.query_model) is not None:
        raise UserError("`query_vectors` takes the place of a model: leave out `model` and `query_model`.")
