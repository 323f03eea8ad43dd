"""Open index folders with their rankers: encoders, lexical engines, fusion and rerankers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ibkd_retrieval.encoders.autotune.load import load_encoder
from ibkd_retrieval.encoders.endpoints.identity import recognise
from ibkd_retrieval.files import INDEXES
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.progress import SILENT
from ibkd_retrieval.search.options import RankerOptions, check_ranking

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.indexing.format.manifest import IndexManifest
    from ibkd_retrieval.indexing.index import StoredIndex
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.search.ranker import Ranker
    from ibkd_retrieval.search.searcher import Searcher


def say_loading(indexes: Mapping[Path, IndexManifest], progress: Progress) -> None:
    """Say which indexes, by folder, are loaded now. Loading takes seconds."""
    for folder, made in indexes.items():
        progress.say(f"loading {folder}: {made.document_count:,} documents, model {made.encoder.called}")


def index_folder(given: Path | None, progress: Progress) -> Path:
    """The folder of the given index, or the newest of this folder's own, which a message names.

    An index in an object store is downloaded first (`indexing.remote`).

    Those of a suite, which lie one level deeper, and of the quickstart are taken only if there are no others.
    """
    from ibkd_retrieval.indexing.format.manifest import finished_indexes
    from ibkd_retrieval.indexing.remote import local_folder

    if given is not None:
        return local_folder(given, progress)
    found = finished_indexes(INDEXES)
    own = [each for each in found if each[0].parent == INDEXES and not each[0].name.startswith("quickstart-")]
    folder, made = (own or found)[0]
    progress.say(
        f"index {folder} (the newest in {INDEXES}/: {made.document_count:,} documents, made "
        f"{made.created[:16].replace('T', ' ')} UTC; name another with `index`)"
    )
    return folder


def open_searcher(
    folder: Path,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    pooling: str | None = None,
    search_params: SearchParams | None = None,
    query_model: str | None = None,
    known: dict[str, Encoder] | None = None,
    progress: Progress = SILENT,
) -> Searcher:
    """Open an index with the encoder it was built with, or with `model`.

    Args:
        folder: the index folder.
        model: another folder of the same encoder.
        device: the device of the query encoder.
        dtype: number format of the encoder. "auto" is the fastest on this hardware.
        backend: backend of the encoder. "auto" is the best one measured on this machine for queries.
        pooling: pooling of a plain transformers encoder.
        search_params: search parameters. None is the index's own defaults.
        query_model: a student in the encoder's vector space, which encodes the queries instead.
        known: loaded encoders by weight hash. New ones are added.
        progress: receives a message on the backend, unless it is the plain one.
    """
    options = RankerOptions(
        model=model,
        query_model=query_model,
        device=device,
        dtype=dtype,
        backend=backend,
        pooling=pooling,
        search_params=search_params or SearchParams(),
    )
    (opened,) = open_stored([folder], options, progress)
    return _searcher(opened, query_encoder(opened.index, options, {} if known is None else known, progress), options)


class Computing(NamedTuple):
    """How encoders run: options with the same names as in `RankerOptions`."""

    device: str
    dtype: str
    backend: str


def cut_encoder(folder: Path, dim: int, known: dict[str, Encoder], computing: Computing) -> Encoder:
    """The encoder of an index with the leading `dim` dimensions only. It is added to `known`."""
    from ibkd_retrieval.encoders.autotune.choice import sample_texts
    from ibkd_retrieval.indexing.index import open_index

    index = open_index(folder)
    made_by = index.manifest.encoder
    if dim == made_by.dim and made_by.weight_hash in known:
        return known[made_by.weight_hash]
    encoder = load_encoder(
        made_by.name,
        computing.backend,
        computing.dtype,
        lambda: sample_texts(document.content for document in index.documents()),
        purpose="queries",
        progress=SILENT,
        device=computing.device,
        pooling=made_by.pooling,
        max_length=made_by.max_length or None,
        dim=dim,
        query_prompt=made_by.prompts.get("query"),
        document_prompt=made_by.prompts.get("document"),
        recorded=made_by.weight_hash,
    )
    known[encoder.weight_hash] = encoder
    return encoder


def open_ranker(
    folders: Sequence[Path],
    options: RankerOptions,
    *,
    known: dict[str, Encoder] | None = None,
    progress: Progress = SILENT,
) -> Ranker:
    """Open indexes with the ranker that the options describe.

    Args:
        folders: the index folders. Several indexes of one encoder are merged by score.
        options: the ranking options.
        known: loaded encoders by weight hash. New ones are added.
        progress: receives progress reports of filters and lexical indexes.

    Raises:
        UserError: an option is unknown or conflicts with another, no document passes the filters, an index or a model
            cannot be opened, or they do not match.
    """
    opened = open_stored(folders, options, progress)
    return ranker_over(opened, options, {} if known is None else known, progress)


@dataclass(frozen=True)
class Stored:
    """An opened index folder, and the rows that may be found: bool [n], or None for all."""

    index: StoredIndex
    allowed: NDArray[np.bool_] | None


def open_stored(folders: Sequence[Path], options: RankerOptions, progress: Progress) -> list[Stored]:
    """Check the options, open index folders, and find the documents that pass the filters. No model is loaded."""
    # faiss is loaded before torch: the first of them decides how the threads of OpenMP wait.
    from ibkd_retrieval.indexing.index import open_index

    check_ranking(options, len(folders))
    # On a GPU only if one is asked for: queries alone seldom repay the copy of the index.
    device = "cpu" if options.device == "auto" else options.device
    if options.cluster is None:
        indexes = [open_index(folder, device=device, progress=progress) for folder in folders]
    else:
        indexes = [_on_cluster(folder, options.cluster, options.exact_merge) for folder in folders]
    masks: Sequence[NDArray[np.bool_] | None] = [None] * len(indexes)
    if options.filters:
        from ibkd_retrieval.search.filters import allowed_rows

        masks = allowed_rows(indexes, options.filters, progress)
    return [Stored(index, mask) for index, mask in zip(indexes, masks, strict=True)]


def _on_cluster(folder: Path, address: str, exact_merge: bool) -> StoredIndex:
    """Open an index that the nodes of a cluster search. Its vectors, and all parts but the first, are not loaded."""
    from ibkd_retrieval.cluster import Cluster
    from ibkd_retrieval.indexing.cluster_search import NodeSearch
    from ibkd_retrieval.indexing.index import open_index

    index = open_index(folder, memory_limit=0)
    return index.on_nodes(NodeSearch(Cluster(address), folder, index.manifest, exact_merge=exact_merge))


def ranker_over(
    opened: Sequence[Stored],
    options: RankerOptions,
    known: dict[str, Encoder],
    progress: Progress,
    *,
    single: bool = False,
) -> Ranker:
    """Make the ranker of opened indexes. Its models are loaded.

    Args:
        opened: the indexes.
        options: the ranking options.
        known: loaded encoders by weight hash. New ones are added.
        progress: receives progress reports.
        single: whether queries come one by one, so that a `QueryEncoder` will do.
    """
    ranker = _first_stage(opened, options, known, progress, single)
    if options.rerank is None:
        return ranker
    from ibkd_retrieval.search.rerank import Reranker

    return Reranker.load(
        ranker,
        [each.index for each in opened],
        options.rerank,
        depth=options.rerank_depth,
        max_length=options.rerank_max_length,
        device=options.device,
        # Cross-encoders run in torch, which has no int8.
        dtype="auto" if options.dtype == "int8" else options.dtype,
    )


def _first_stage(
    opened: Sequence[Stored], options: RankerOptions, known: dict[str, Encoder], progress: Progress, single: bool
) -> Ranker:
    """The ranker of the first stage: by vectors, by words, or both, and without the query itself if asked."""
    if options.hybrid is not None:
        from ibkd_retrieval.search.ranker import HybridSearcher

        # Each leaves out the query itself, whose high score would set the scale of the scores that are fused.
        rankers = [
            _first_stage(opened, replace(options, hybrid=None, engine=engine), known, progress, single)
            for engine in ("dense", options.lexical_engine)
        ]
        return HybridSearcher(rankers, options.hybrid, options.weights or None)
    if options.engine == "dense":
        ranker = _by_vectors(opened, options, known, progress, single)
    else:
        from ibkd_retrieval.search.lexical import open_lexical

        (only,) = opened
        ranker = open_lexical(
            only.index, options.lexical_engine, language=options.language, allowed=only.allowed, progress=progress
        )
    if not options.exclude_self:
        return ranker
    from ibkd_retrieval.search.ranker import ExcludingSelf

    return ExcludingSelf(ranker)


def _by_vectors(
    opened: Sequence[Stored], options: RankerOptions, known: dict[str, Encoder], progress: Progress, single: bool
) -> Ranker:
    """The ranker by vectors, over one index or several."""
    from ibkd_retrieval.search.searcher import MergedSearcher, check_one_encoder

    check_one_encoder([each.index for each in opened])
    from ibkd_retrieval.encoders.quick import load_quickly

    encoder = query_encoder(opened[0].index, options, known, progress, load_quickly if single else load_encoder)
    searchers = [_searcher(each, encoder, options) for each in opened]
    return searchers[0] if len(searchers) == 1 else MergedSearcher(searchers)


def query_encoder(
    index: StoredIndex,
    options: RankerOptions,
    known: dict[str, Any],
    progress: Progress,
    loader: Callable[..., Any] = load_encoder,
) -> Any:
    """The query encoder of an index. It is loaded unless known, and a student is checked to fit the index.

    `loader` is `load_encoder`, or `load_quickly` for queries that come one by one.
    """
    made_by = index.manifest.encoder
    named = (options.query_model, options.query_vectors, options.model)
    if named == (None, None, None) and made_by.weight_hash in known:
        return known[made_by.weight_hash]
    if options.query_vectors is not None:
        from ibkd_retrieval.search.query_vectors import given_vectors

        return given_vectors(options.query_vectors, index, known)
    if options.query_model is None:
        made_by.refuse_unnamed(index.folder)
        if options.model is None:
            made_by.refuse_moved(index.folder)
    from ibkd_retrieval.encoders.autotune.choice import sample_texts
    from ibkd_retrieval.indexing.importing.formats import vectors_digest

    load = partial(
        loader,
        backend=options.backend,
        dtype=options.dtype,
        sample=lambda: sample_texts(document.content for document in index.documents()),
        purpose="queries",
        progress=progress,
        device=options.device,
    )
    if options.query_model is None:
        whole = partial(
            load,
            options.model or made_by.name,
            recorded=made_by.weight_hash if options.model is None else None,
            pooling=options.pooling or made_by.pooling,
            max_length=made_by.max_length or None,
            query_prompt=made_by.prompts.get("query"),
            document_prompt=made_by.prompts.get("document"),
        )
        # An index may hold the leading dimensions of its encoder's vectors only.
        encoder = whole(dim=index.manifest.dim if options.model is None else None)
        if encoder.dim > index.manifest.dim:
            encoder = whole(dim=index.manifest.dim)
        from ibkd_retrieval.encoders.weights import recognise_former  # brings numpy, which no help page needs

        recognise(encoder, made_by.weight_hash)
        recognise_former(encoder, made_by.former_hash, index.sample, f"The index {index.folder}", progress.say)
    else:
        # A student's maximum length is that of its own folder, not that of the index's encoder.
        encoder = load(options.query_model, pooling=options.pooling)
        from ibkd_retrieval.search.query_space import check_query_model

        check_query_model(Path(options.query_model), encoder, index.manifest, lambda: vectors_digest(index))
    known[encoder.weight_hash] = encoder
    return encoder


def _searcher(opened: Stored, encoder: Encoder, options: RankerOptions) -> Searcher:
    from ibkd_retrieval.search.searcher import Searcher

    return Searcher(
        aimed(opened.index, options),
        encoder,
        search_params=options.search_params,
        other_encoder=options.query_model is not None or options.query_vectors is not None,
        allowed=opened.allowed,
    )


def aimed(index: StoredIndex, options: RankerOptions) -> StoredIndex:
    """The index with the search parameters for the requested recall, if any."""
    return index if options.recall is None else index.aimed_at(options.recall)
