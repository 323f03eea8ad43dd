"""`open_index`: the public function that opens an index with its encoder. `Index`: the opened index."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing import api
from ibkd_retrieval.progress import Progress, as_progress
from ibkd_retrieval.search.open import Stored, aimed, index_folder, open_stored, query_encoder, ranker_over
from ibkd_retrieval.search.options import RankerOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ibkd_retrieval.corpora.records import QuerySet
    from ibkd_retrieval.corpora.spec import Source
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.encoders.protocol import TextEncoder
    from ibkd_retrieval.indexing.describe import IndexDescription
    from ibkd_retrieval.indexing.format.manifest import IndexManifest
    from ibkd_retrieval.search.hits import Hits
    from ibkd_retrieval.search.ranker import Ranker
    from ibkd_retrieval.search.runs import Run

P = ParamSpec("P")
PathLike = str | os.PathLike[str]


def open_index(
    path: PathLike | Sequence[PathLike] | None = None,
    *,
    model: str | Path | TextEncoder | None = None,
    config: RankerOptions | None = None,
    known: dict[str, Any] | None = None,
    progress: bool | Progress = False,
    **options: Any,
) -> Index:
    """Open an index folder for search. Its encoder is loaded at the first text query.

    Args:
        path: the folder, the result of `build_index`, or the address of an index in an object store
            (`s3://BUCKET/NAME`), which is downloaded into the cache folder first. Several folders of one encoder are
            searched as one index. None is the newest in `indexes/`.
        model: the index's own encoder, or its present folder. None is the folder recorded when indexing.
        config: default options, which `options` override.
        known: loaded encoders by weight hash. New ones are added, so that indexes of one encoder share it.
        progress: receives progress reports. True shows bars.
        options: fields of `RankerOptions` by name, such as `query_model`, `search_params`, `hybrid="rrf"`,
            `filters=["year>=1990"]`, `rerank` or `device`.

    Returns:
        The index.

    Raises:
        UserError: the index is missing or damaged, or an option is unknown or conflicts with another.

    Example:
        >>> import tempfile
        >>> from ibkd_retrieval.indexing.api import import_vectors
        >>> folder = tempfile.mkdtemp()
        >>> made = import_vectors([[1.0, 0.0], [0.0, 1.0]], folder, ids=["a", "b"])
        >>> index = open_index(folder)
        >>> len(index)
        2
        >>> import numpy as np
        >>> run = index.search_batch(np.array([[0.9, 0.1]]), k=1)
        >>> run["0"]
        {'a': 0.8999999761581421}
    """
    allowed = {field.name for field in fields(RankerOptions)}
    for name in options:
        if name not in allowed:
            raise UserError(f"A search has no option `{name}`: its options are {', '.join(sorted(allowed))}.")
    shown = as_progress(progress)
    loaded = None if model is None or isinstance(model, str | Path) else model
    given: dict[str, Any] = options | {name: tuple(options[name]) for name in ("filters", "weights") if name in options}
    chosen = replace(config or RankerOptions(), **given)
    if model is not None and loaded is None:
        chosen = replace(chosen, model=str(model))
    path = getattr(path, "folder", path)
    several = path is not None and not isinstance(path, str | os.PathLike)
    paths: Iterable[Any] = path if several else [index_folder(None if path is None else Path(path), shown)]  # type: ignore[assignment, arg-type]
    folders = [index_folder(Path(getattr(each, "folder", each)), shown) for each in paths]
    if not folders:
        raise UserError("`path` is an empty list: name at least one index folder.")
    from ibkd_retrieval.indexing.faiss_binding import device_there

    chosen = replace(chosen, device=device_there(chosen.device, shown))
    return Index(folders, chosen, encoder=loaded, known=known, progress=shown)


class Index:
    """An index opened for search. Get one from `open_index`.

    Attributes:
        folders: the index folder, or several that are searched as one index.
        options: the ranking options.
        known: loaded encoders by weight hash.
        progress: receives progress reports.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        options: RankerOptions,
        *,
        encoder: TextEncoder | None = None,
        known: dict[str, Any] | None = None,
        progress: Progress,
    ) -> None:
        self.folders = tuple(folders)
        self.options = options
        self._given = encoder
        self.known: dict[str, Any] = {} if known is None else known
        self.progress = progress
        if encoder is not None:
            self.known[encoder.weight_hash] = encoder
        self._open()

    def _open(self) -> None:
        self._stored: list[Stored] = open_stored(self.folders, self.options, self.progress)
        self._rankers: dict[bool, Ranker] = {}
        self._single: Ranker | None = None

    @property
    def folder(self) -> Path:
        """The index folder. It is the first one if there are several."""
        return self.folders[0]

    def __len__(self) -> int:
        """The number of documents that are not deleted. Filters do not change it."""
        return sum(len(each.index) for each in self._stored)

    @cached_property
    def name(self) -> str:
        """A short name of the index. It includes the ranking method unless that is vectors only."""
        options = self.options
        parts = ["+".join(folder.resolve().name for folder in self.folders)]
        parts += [Path(each).name for each in (options.query_model, options.query_vectors) if each is not None]
        if options.hybrid is not None:
            parts.append(f"{options.hybrid}-{options.lexical_engine}")
        elif options.engine != "dense":
            parts.append(options.engine)
        if options.rerank is not None:
            parts.append(Path(options.rerank).name)
        return "_".join("-".join(parts).split()) or "ibkd"

    @property
    def encoder(self) -> Encoder:
        """The query encoder. It is loaded at first use."""
        encoder: Encoder = query_encoder(self._stored[0].index, self.options, self.known, self.progress)
        return encoder

    @property
    def ranker(self) -> Ranker:
        """The ranker of the index. Its models are loaded at first use."""
        return self._ranker(self.options.exclude_self)

    @property
    def encoders(self) -> tuple[Any, ...]:
        """The encoders that are loaded."""
        return tuple(self.known.values())

    @property
    def manifest(self) -> IndexManifest:
        """The manifest of the index folder. It is the first one if there are several."""
        return self._stored[0].index.manifest

    def load(self, *, single: bool = False) -> Index:
        """Load the models now, and not at the first text query.

        Args:
            single: load what `search` needs, and not what `search_batch` does. It is often faster.
        """
        _ = self._ranker_of_one() if single else self.ranker
        return self

    def _ranker(self, exclude_self: bool) -> Ranker:
        if exclude_self not in self._rankers:
            options = replace(self.options, exclude_self=exclude_self)
            self._rankers[exclude_self] = ranker_over(self._stored, options, self.known, self.progress)
        return self._rankers[exclude_self]

    def _ranker_of_one(self) -> Ranker:
        """The ranker of single questions: the one of the index if its models are loaded, else one that opens faster."""
        if self.options.exclude_self in self._rankers:
            return self.ranker
        if self._single is None:
            from ibkd_retrieval.encoders.query_encoder import QueryEncoder

            known = dict(self.known)
            self._single = ranker_over(self._stored, self.options, known, self.progress, single=True)
            self.known |= {key: each for key, each in known.items() if not isinstance(each, QueryEncoder)}
        return self._single

    def search(self, text: str, k: int = 10) -> Hits:
        """Find the best documents for one query, at most k.

        Raises:
            UserError: the query is empty, k is below 1, or the encoder cannot be loaded.

        Example:
            >>> import tempfile
            >>> from ibkd_retrieval.indexing.api import import_vectors
            >>> texts = {"a": "a red apple", "b": "a grey stone"}
            >>> folder = tempfile.mkdtemp()
            >>> made = import_vectors([[1.0, 0.0], [0.0, 1.0]], folder, ids=list(texts), corpus=texts)
            >>> open_index(folder, engine="bm25").search("which apple", k=1)
            <1 of 2 documents in ... ms for 'which apple'>
              1  ...  a
                 a red apple
        """
        from ibkd_retrieval.search.hits import Hits

        ranker = self._ranker_of_one()
        began = time.perf_counter()
        hits = tuple(hit.read() for hit in ranker.search(text, k))
        milliseconds = 1000 * (time.perf_counter() - began)
        return Hits(text, hits, str(self.folder), len(self), milliseconds)

    def search_batch(
        self,
        queries: Source | NDArray[np.floating[Any]] | None = None,
        k: int = 1000,
        *,
        ids: Sequence[str] | None = None,
        exclude_self: bool | None = None,
        tag: str | None = None,
        progress: bool | Progress | None = None,
    ) -> Run:
        """Find the k best documents for each of many queries.

        Args:
            queries: a data set's name, a file, `Query` records, dicts or texts (`open_queries`), or an array of query
                vectors [n, dim]. None is the queries of the file `query_vectors` in `options`.
            k: number of results.
            ids: query ids of the vectors [n]. None is "0", "1", ...
            exclude_self: whether to leave out the document that has the query's id. None follows `options`, and is True
                for data sets whose queries are documents of the corpus, as in ArguAna.
            tag: name of the system in the run. None is `name`.
            progress: receives progress reports of this search. None is that of the index.

        Raises:
            UserError: there are no such queries, one is empty, an id appears twice, or k is below 1.
        """
        import numpy as np

        shown = self.progress if progress is None else as_progress(progress)
        tag = self.name if tag is None else tag
        if isinstance(queries, np.ndarray):
            return self._search_vectors(queries, ids, k, bool(exclude_self or self.options.exclude_self), tag, shown)
        if ids is not None:
            raise UserError("`ids` are those of query vectors: give texts with theirs, as a dict from ids to texts.")
        from ibkd_retrieval.corpora.spec import open_queries
        from ibkd_retrieval.search.runs.run_metadata import RunOrigin

        asked = self._given_queries() if queries is None else open_queries(queries, progress=shown)
        if exclude_self is None and asked.queries_are_documents and not self.options.exclude_self:
            shown.say(f"The queries of {asked.name} are documents: a query's own document is left out.")
        own = self.options.exclude_self or asked.queries_are_documents
        own = own if exclude_self is None else exclude_self
        ranker = self._ranker(own)
        began = time.perf_counter()
        run = ranker.search_batch(asked.queries, k, shown, tag=tag)
        origin = RunOrigin(
            self.folders, replace(self.options, exclude_self=own), k, asked.name, time.perf_counter() - began
        )
        return replace(run, origin=origin)

    def _given_queries(self) -> QuerySet:
        """The queries of the file of query vectors.

        Raises:
            UserError: none is given, or words are searched too and it holds no texts.
        """
        from ibkd_retrieval.search.query_vectors import given_vectors

        options = self.options
        if options.query_vectors is None:
            raise UserError("There are no `queries`: name some, or give `query_vectors`.")
        given = given_vectors(options.query_vectors, self._stored[0].index, self.known)
        if not given.texts and (options.hybrid is not None or options.rerank is not None):
            raise UserError(
                f"{given.name} holds no texts of queries: leave out `hybrid` and `rerank`, or give `queries`."
            )
        return given.queries

    def _search_vectors(
        self,
        vectors: NDArray[np.floating[Any]],
        ids: Sequence[str] | None,
        k: int,
        exclude_self: bool,
        tag: str,
        progress: Progress,
    ) -> Run:
        from ibkd_retrieval.corpora.records import Query
        from ibkd_retrieval.search.ranker import check_queries, without_own
        from ibkd_retrieval.search.searcher import VectorSearcher, check_one_encoder, merged

        options = self.options
        if options.engine != "dense" or options.hybrid is not None or options.rerank is not None:
            raise UserError("Vectors can be searched by vectors only: leave out `engine`, `hybrid` and `rerank`.")
        names = [str(number) for number in range(len(vectors))] if ids is None else [str(each) for each in ids]
        if vectors.ndim != 2 or len(names) != len(vectors):
            raise UserError(
                f"`queries` has shape {vectors.shape} and there are {len(names)} `ids`: give an array [n, dim], and an "
                "id for each row or none."
            )
        check_queries([Query(name, "") for name in names], k, empty=True)
        check_one_encoder([each.index for each in self._stored])
        found: Run | None = None
        depth = k + 1 if exclude_self else k
        for each in self._stored:
            searcher = VectorSearcher(aimed(each.index, options), options.search_params, each.allowed)
            run = searcher.run(names, vectors, depth, progress, tag)
            found = run if found is None else merged(found, run, depth)
        assert found is not None
        return without_own(found, k) if exclude_self else found

    def add(self, corpus: Source, **options: Any) -> IndexDescription:
        """Encode documents and add them to the index.

        Args:
            corpus: a name, a path, or the documents (`open_corpus`). Without `replace`, their ids must not be in the
                index.
            options: options of `append`, such as `replace=True`, `since="updated"` or `batch_tokens`.

        Raises:
            UserError: several indexes are searched as one, or an id is taken.
        """
        model = self.options.model if self._given is None else self._given
        made = api.append(self._only(), corpus, model, **{"progress": self.progress, **options})
        self._open()
        return made

    def delete(self, ids: Iterable[str] | Path) -> IndexDescription:
        """Delete documents by id. All are deleted, or none.

        Args:
            ids: the ids, or the path of a file that lists them.

        Raises:
            UserError: several indexes are searched as one, or the index does not hold an id.
        """
        made = api.delete(self._only(), ids)
        self._open()
        return made

    def _only(self) -> Path:
        if len(self.folders) > 1:
            raise UserError("Several indexes are searched as one: open the one that is to be changed.")
        return self.folder

    def describe(self) -> IndexDescription:
        """A description of the index. It is of the first one if there are several."""
        from ibkd_retrieval.indexing.describe import IndexDescription

        return IndexDescription(self.folder, self.manifest)

    def __repr__(self) -> str:
        return repr(self.describe())

    def _repr_html_(self) -> str:
        return self.describe()._repr_html_()


def _opened(make: Callable[P, IndexDescription]) -> Callable[P, Index]:
    """A function that makes an index as `make` does, and opens it with the encoder that is already loaded."""

    @wraps(make)
    def make_and_open(*args: P.args, **kwargs: P.kwargs) -> Index:
        made = make(*args, **kwargs)
        return open_index(made.folder, model=made.encoder)

    return make_and_open


build_index = _opened(api.build_index)
combine = _opened(api.combine)
import_vectors = _opened(api.import_vectors)
