"""Opens a finished index and searches it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.memory import machine_memory
from ibkd_retrieval.indexing.cluster_search import QUERIES_AT_ONCE, NodeSearch
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.contents import IndexContents
from ibkd_retrieval.indexing.faiss_binding import (
    MOST_RESULTS,
    blas_threshold,
    is_on_gpu,
    load_faiss,
    read_for_search,
    read_structure_file,
    to_gpu,
)
from ibkd_retrieval.indexing.families.family import check_recall
from ibkd_retrieval.indexing.families.parts import open_parts
from ibkd_retrieval.indexing.families.search_params import (
    inner_index,
    is_graph,
    list_count,
    params_for,
    search_structure,
    takes_selector,
)
from ibkd_retrieval.indexing.families.trial import reaches
from ibkd_retrieval.indexing.format.integrity import Unchanged, damaged, read_consistently, verify_files
from ibkd_retrieval.indexing.format.manifest import IndexManifest
from ibkd_retrieval.indexing.vectors.exact import Found, scan, search_array, with_ties_by_row
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors
from ibkd_retrieval.progress import SILENT, Progress

EXACT_ALLOWED_ROWS = 20_000
"""Maximum number of allowed rows for which a filtered search is exact."""

_HARDER = 4
"""Factor by which nprobe grows when a query has too few results."""

_EF_SEARCH_STEPS = (10, 20, 40, 80, 160, 320, 640)


class StoredIndex(IndexContents):
    """An index folder opened for search. Get one from `open_index`.

    Attributes:
        is_scanned: whether every search reads all vectors from their files.
        defaults: search parameters that a search leaves open. They are adapted to the number of results.
        queries_at_once: how many queries of a batch are best searched by one call. None leaves it to the caller.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, structure: Any) -> None:
        super().__init__(folder, manifest)
        self.defaults = manifest.search
        self._structure = structure
        self.is_scanned = structure is None
        self.queries_at_once: int | None = None
        self._nodes: NodeSearch | None = None
        if manifest.search.refine:
            self._vectors.check_maps()  # Now, and not at the first search.

    @property
    def memory_bytes(self) -> int:
        """Memory of the faiss structure, equal to its size on disk. 0 if the files are scanned."""
        if self.is_scanned:
            return 0
        return self.manifest.structure_bytes or 4 * self.manifest.dim * self.manifest.rows

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        search_params: SearchParams | None = None,
        *,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found:
        """Find the k documents of largest inner product for each query.

        Args:
            vectors: queries [q, dim].
            k: number of results.
            search_params: the search parameters. `defaults` fill what they leave open, adapted to k
                (`families.search_params.params_for`). A query that finds fewer than k results visits more lists.
            allowed: bool [n], True for rows that may be found. Up to `EXACT_ALLOWED_ROWS` rows are compared exactly.
                Beyond that, an approximate index visits more lists, in proportion to the rows filtered out.

        Returns:
            Scores float32 [q, k], not increasing, and rows int64 [q, k]. Where fewer than k are found, rows end in
            -1 and scores in -inf. An exact index orders equal scores by row.

        Raises:
            UserError: the vectors have another dimension than the index or are not finite, k is not positive, or the
                index has no such search parameter.
        """
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        allowed = self.findable(allowed)
        given = search_params or SearchParams()
        self._check(queries, k, given)
        blas_threshold(self.manifest.dim)
        # faiss allocates k results for each query, so k is limited to the number of rows.
        left = self.manifest.rows if allowed is None else int(np.count_nonzero(allowed))
        found = min(k, left)
        if not left:
            scores = np.empty((len(queries), 0), dtype=np.float32)
            rows = np.empty((len(queries), 0), dtype=np.int64)
        elif allowed is not None and left <= EXACT_ALLOWED_ROWS:
            candidates = np.flatnonzero(allowed)
            scores, places = search_array(queries, self._vectors.gather(candidates), found)
            rows = candidates[places]
        elif self._must_scan(found, allowed) or (self._nodes and self.manifest.search.is_exact):
            scores, rows = self._scan(queries, found, allowed)
        elif self.manifest.search.is_exact:
            scores, rows = self._search_flat(queries, found, left, allowed)
        else:
            scores, rows = self._search_structure(queries, found, given, left, allowed)
        zero = ~queries.any(axis=1)
        if zero.any():
            # All documents score the same for a zero query. Searches of 4-bit codes find none then.
            scores[zero] = 0
            rows[zero] = np.arange(found) if allowed is None else np.flatnonzero(allowed)[:found]
        scores[rows < 0] = -np.inf
        if found < k:
            scores = np.pad(scores, ((0, 0), (0, k - found)), constant_values=-np.inf)
            rows = np.pad(rows, ((0, 0), (0, k - found)), constant_values=-1)
        return scores, rows

    def on_nodes(self, nodes: NodeSearch) -> StoredIndex:
        """The same index, searched on the nodes of a cluster."""
        spread = copy(self)
        spread._nodes, spread.queries_at_once = nodes, QUERIES_AT_ONCE
        return spread

    def exactly(self) -> StoredIndex:
        """The same index with exact search, which reads all stored vectors."""
        exact = copy(self)
        exact._structure, exact.is_scanned = None, True
        return exact

    def search_params(self, k: int, given: SearchParams | None = None) -> SearchParams:
        """The search parameters in force for `k` results, if the caller passes `given`.

        Raises:
            UserError: the index has no such search parameter.
        """
        given = given or SearchParams()
        self._check_search_params(given)
        if self.manifest.search.is_exact or self.is_scanned:
            return SearchParams()
        rows = self.manifest.rows
        return params_for(self._structure, self.defaults, given, min(k, rows), rows, max(1, len(self)))

    def search_params_grid(self) -> tuple[SearchParams, ...]:
        """Search parameters from fast to thorough, each twice the one before. Empty if there are none."""
        if self.manifest.search.is_exact or self.is_scanned:
            return ()
        lists = list_count(self._structure)
        if lists is not None:
            steps = [2**power for power in range(lists.bit_length()) if 2**power < lists]
            return tuple(SearchParams(nprobe=nprobe) for nprobe in (*steps, lists))
        if is_graph(self._structure):
            return tuple(SearchParams(ef_search=kept) for kept in _EF_SEARCH_STEPS)
        return ()

    def defaults_for(self, recall: float) -> SearchParams:
        """The fastest measured search parameters that reach `recall`@10 against exact search, with a margin.

        Raises:
            UserError: `recall` is not in (0, 1], or no measured search parameters reach it.
        """
        check_recall(recall)
        if self.manifest.search.is_exact:
            return SearchParams()
        own = [point for point in self.manifest.operating_points if point.structure is None]
        good = [point for point in own if reaches(point, recall)]
        if good:
            return min(good, key=lambda point: point.milliseconds).search_params
        best = max((point.recall_at_10 for point in own), default=None)
        known = (
            "no setting of it was measured"
            if best is None
            else f"the best measured finds {best:.4g} of sampled documents' neighbours, which promises "
            f"{max(0.0, 2 * best - 1):.4g} for questions"
        )
        raise UserError(
            f"The index in {self.folder} is not known to reach a recall of {recall:g} ({known}): ask for less, or make "
            "it anew with a higher `recall` or with `type='flat'`."
        )

    def aimed_at(self, recall: float) -> StoredIndex:
        """The same index, with `defaults_for(recall)` as its defaults.

        Raises:
            UserError: as `defaults_for` does.
        """
        aimed = copy(self)
        aimed.defaults = self.defaults_for(recall)
        return aimed

    def _must_scan(self, k: int, allowed: NDArray[np.bool_] | None) -> bool:
        """Whether the structure cannot answer: it is absent, cannot filter rows, or cannot give that many results."""
        if self._structure is None or (allowed is not None and not takes_selector(self._structure)):
            return True
        # An exact search on a GPU asks for one more result, to detect a tie at the last place.
        return k >= MOST_RESULTS and is_on_gpu(inner_index(self._structure))

    def _search_structure(
        self,
        queries: NDArray[np.float32],
        k: int,
        given: SearchParams,
        left: int,
        allowed: NDArray[np.bool_] | None,
    ) -> Found:
        """Approximate search, repeated with more lists and at last exactly for queries with too few results.

        If a filter correlates with the topic, the lists or nodes near a query may hold few documents that pass it.
        Given search parameters are kept as they are, unless they find nothing.
        """
        params = params_for(self._structure, self.defaults, given, k, self.manifest.rows, left)
        scores, rows = self._candidates(queries, k, params, allowed)
        own_choice = given.nprobe is None and given.ef_search is None
        lists = list_count(self._structure) or 0
        short = np.flatnonzero(rows[:, k - 1 if own_choice else 0] < 0)
        while len(short) and own_choice and (params.nprobe or lists) < lists:
            params = replace(params, nprobe=min(lists, _HARDER * (params.nprobe or 1)))
            scores[short], rows[short] = self._candidates(queries[short], k, params, allowed)
            short = short[rows[short, k - 1] < 0]
        if len(short):
            scores[short], rows[short] = self._scan(queries[short], k, allowed)
        return scores, rows

    def connected(self) -> AbstractContextManager[None]:
        """A context for several searches. On a cluster they share a connection, and what the nodes have read."""
        return nullcontext() if self._nodes is None else self._nodes.connected()

    def _scan(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None) -> Found:
        if self._nodes is not None:
            return self._nodes.compare(queries, k, allowed)
        return scan(queries, self._vectors, k, allowed)

    def _candidates(
        self, queries: NDArray[np.float32], k: int, params: SearchParams, allowed: NDArray[np.bool_] | None
    ) -> Found:
        if self._nodes is not None:
            return self._nodes.search(queries, k, params, self._vectors, allowed)
        selector = None if allowed is None else _selector(allowed)
        return search_structure(self._structure, queries, k, params, self._vectors, selector)

    def _search_flat(self, queries: NDArray[np.float32], k: int, left: int, allowed: NDArray[np.bool_] | None) -> Found:
        parameters = None if allowed is None else load_faiss().SearchParameters(sel=_selector(allowed))

        def nearest(asked: NDArray[np.float32], number: int) -> Found:
            scores, rows = self._structure.search(asked, number, params=parameters)
            return scores, rows

        # A GPU gives no more results than this. Ties beyond it stay in the order of faiss.
        most = min(left, MOST_RESULTS) if is_on_gpu(inner_index(self._structure)) else left
        return with_ties_by_row(nearest, most)(queries, k)

    def _check(self, queries: NDArray[np.float32], k: int, given: SearchParams) -> None:
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim:
            raise UserError(
                f"The query vectors have shape {queries.shape}, the index in {self.folder} holds vectors of "
                f"{self.manifest.dim} dimensions: search it with the model it was made with "
                f"({self.manifest.encoder.called}), or one that shares its vector space."
            )
        if not np.isfinite(queries).all():
            raise UserError("A query vector is not finite (NaN or infinity): the model that made it is damaged.")
        if k < 1:
            raise UserError(f"The number of results must be at least 1, not {k}.")
        self._check_search_params(given)

    def _check_search_params(self, given: SearchParams) -> None:
        if given == SearchParams():
            return
        if self.manifest.search.is_exact:
            raise UserError(
                f"The index in {self.folder} is {self.manifest.family} and always exact: leave out nprobe, refine and "
                "ef_search."
            )
        name = f"The index in {self.folder} ({self.manifest.factory})"
        if given.nprobe is not None and list_count(self._structure) is None:
            raise UserError(f"{name} has no inverted lists to visit: leave out nprobe.")
        if given.ef_search is not None and not is_graph(self._structure):
            raise UserError(f"{name} is not an HNSW graph: leave out ef_search.")
        if given.nprobe is not None and given.nprobe < 1:
            raise UserError(f"The number of lists to visit (nprobe) must be at least 1, not {given.nprobe}.")
        if given.ef_search is not None and given.ef_search < 1:
            raise UserError(f"The size of the candidate list (ef_search) must be at least 1, not {given.ef_search}.")
        if given.refine is not None and given.refine < 0:
            raise UserError(f"The candidates to refine per result must be 0 (off) or more, not {given.refine}.")


def _selector(allowed: NDArray[np.bool_]) -> Any:
    faiss = load_faiss()
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def open_index(
    folder: Path | str,
    verify: bool = False,
    *,
    memory_limit: int | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> StoredIndex:
    """Open a finished index.

    The sizes of all files are compared with the manifest. So are the checksums of the small files that decide which
    ids are found, and with `verify` all checksums.

    Args:
        folder: the index folder.
        verify: compare the checksums of all files.
        memory_limit: maximum bytes of a flat index's vectors, or of a structure in parts, in memory. None is half of
            the machine's memory. Every search of a larger index reads its files, with the same results. Other
            structures are always in memory.
        device: "cuda" to search on a GPU if faiss has one.
        progress: receives a message if the index is scanned, or if no GPU is found for `device`.

    Raises:
        UserError: the folder holds no finished index, or a file of it is missing or damaged.
        MissingPackage: faiss is not installed.
    """
    folder = Path(folder)

    def opened(manifest: IndexManifest) -> StoredIndex:
        verify_files(folder, manifest, contents=verify)
        load_faiss()
        limit = machine_memory() // 2 if memory_limit is None else memory_limit
        if manifest.search.is_exact:
            size = 4 * manifest.dim * manifest.rows
            if size > limit:
                said = f"The {size / 1e9:,.1f} GB of vectors in {folder} are not loaded: every search reads them."
                progress.say(said)
                return StoredIndex(folder, manifest, None)
        structure = read_structure(folder, manifest, limit, read_for_search)
        if device.startswith("cuda") and manifest.parts:
            progress.say(f"The structure of {folder} is in parts, which are searched on the CPU.")
        elif device.startswith("cuda"):
            structure = to_gpu(structure, device, progress)
        return StoredIndex(folder, manifest, structure)

    return read_consistently(folder, opened)


def read_structure(
    folder: Path,
    manifest: IndexManifest,
    memory: int | None = None,
    read: Callable[[Path], Any] = read_structure_file,
) -> Any:
    """The faiss structure of a verified index. Without a structure file, it is built from the vectors.

    Args:
        folder: the index folder.
        manifest: its manifest.
        memory: maximum bytes of a structure in parts in memory (`open_parts`).
        read: reads a structure in one file. `read_for_search` is faster to search, and takes no more vectors.

    Raises:
        UserError: the structure cannot be read, or belongs to other vectors.
    """
    faiss = load_faiss()
    if manifest.parts:
        return open_parts(folder, manifest, memory)
    if manifest.structure not in manifest.files:
        structure = faiss.IndexFlatIP(manifest.dim)
        check = Unchanged(folder, manifest).check_vectors
        for shard in ShardVectors(folder, [shard.documents for shard in manifest.shards], manifest.dim, check=check):
            structure.add(np.ascontiguousarray(shard))
        return structure
    try:
        structure = read(folder / manifest.structure)
    except RuntimeError as error:
        raise damaged(folder, manifest, manifest.structure, "faiss cannot read it") from error
    if structure.d != manifest.dim or structure.ntotal != manifest.rows:
        raise damaged(
            folder,
            manifest,
            manifest.structure,
            f"it holds {structure.ntotal:,} vectors of {structure.d} dimensions and "
            f"{manifest.rows:,} of {manifest.dim} are recorded",
        )
    return structure
