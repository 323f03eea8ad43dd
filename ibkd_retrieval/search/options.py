"""How an index is ranked: the choices, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams


@dataclass(frozen=True)
class RankerOptions:
    """How to rank the documents of an index.

    Attributes:
        engine: "dense" (vectors), or "bm25" or "lucene" (words).
        hybrid: fuse both, by "rrf" (ranks) or "sum" (scores).
        weights: of the fusion, dense first; none for equal ones.
        tune: judged queries to find the weights of `hybrid="sum"` on.
        rerank: a cross-encoder that orders the best results anew.
        rerank_depth: results a query that it reads.
        rerank_max_length: tokens it reads of query and text; its own limit if None.
        model: another place of the encoder that made the index.
        query_model: a student in that encoder's vector space.
        recall: share of the exact ten nearest documents to find; instead of `search_params`.
        filters: conditions on documents, all of which must hold.
    """

    engine: str = "dense"
    hybrid: str | None = None
    weights: tuple[float, ...] = ()
    tune: str | None = None
    rerank: str | None = None
    rerank_depth: int = 100
    rerank_max_length: int | None = None
    model: str | None = None
    query_model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    pooling: str | None = None
    search_params: SearchParams = field(default_factory=SearchParams)
    recall: float | None = None
    filters: tuple[str, ...] = ()
    exclude_self: bool = False

    @property
    def lexical_engine(self) -> str:
        """What searches words where anything does: BM25 unless another is asked for."""
        return "bm25" if self.engine == "dense" else self.engine


def check_ranking(options: RankerOptions, indexes: int = 1) -> None:
    """Refuse what no index of any kind can be ranked by, before any is opened or made.

    Args:
        options: how to rank.
        indexes: how many are searched together.

    Raises:
        UserError: an option is unknown or out of range, or does not go with another.
    """
    if options.engine != "dense":
        from ibkd_retrieval.search.lexical import ENGINES

        if options.engine not in ENGINES:
            raise UserError(f"Unknown engine `{options.engine}`: use dense, {' or '.join(ENGINES)}.")
    if options.hybrid is not None:
        from ibkd_retrieval.search.hybrid import METHODS
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
    of_vectors = (options.query_model, options.recall, *params.to_json().values())
    if options.engine != "dense" and options.hybrid is None and any(value is not None for value in of_vectors):
        raise UserError(
            f"`engine={options.engine}` searches words alone: leave out `query_model`, `recall`, `nprobe`, `refine` "
            "and `ef_search`, or give `hybrid`."
        )
    if options.model is not None and options.query_model is not None:
        raise UserError("Give `model` (the index's own encoder) or `query_model` (a student of it), not both.")
