"""The systems that `index_peers.py` compares: how each is built, loaded and searched, and its search parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import Option, family_named
from ibkd_retrieval.indexing.index import open_index

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


class Loaded(NamedTuple):
    """A system ready to answer: `search(queries [q, d], k, value)` gives rows [q, k], in one thread."""

    search: Callable[[Vectors, int, int], Rows]


class Peer(Protocol):
    """One system in one setting.

    Attributes:
        name: as the figure shows it.
        parameter: what the parameter is called.
        values: its values, from fast to thorough.
        recipe: the setting in the system's own words.
        package: whose version counts; None where the environment tells it.
    """

    name: str
    parameter: str
    values: tuple[int, ...]
    recipe: str
    package: str | None

    def build(self, blocks: Callable[[], Iterable[Vectors]], count: int, dim: int, path: Path, threads: int) -> None:
        """Make the index of all vectors and write it to `path`."""

    def load(self, path: Path) -> Loaded:
        """Read it back."""


class Ours:
    """This toolkit: a structure in memory, exact vectors on disk."""

    package: str | None = None

    def __init__(self, source: Path, family: str, parameter: str, tries: Mapping[int, int], **options: Option) -> None:
        self._source = source
        self._family = family_named(family, **options)
        self._refines = tries
        said = ", ".join(f"{name} {value}" for name, value in options.items())
        self.name = f"ibkd-retrieval {family}" + (f" ({said})" if said else "")
        self.parameter = parameter
        self.values = tuple(tries)
        self.recipe = f"{family}({said}); candidates per result refined from disk, by {parameter}: {dict(tries)}"

    def build(self, blocks: Callable[[], Iterable[Vectors]], count: int, dim: int, path: Path, threads: int) -> None:
        """Make the structure of the vectors in the source's shards, to which the new folder links."""
        load_faiss().omp_set_num_threads(threads)
        combine_indexes([self._source], path, family=self._family, overwrite=True)

    def load(self, path: Path) -> Loaded:
        """Open the folder."""
        index = open_index(path)

        def search(queries: Vectors, k: int, value: int) -> Rows:
            if self.parameter == "nprobe":
                return index.search(queries, k, SearchParams(nprobe=value, refine=self._refines[value]))[1]
            return index.search(queries, k, SearchParams(ef_search=value, refine=self._refines[value]))[1]

        return Loaded(search)


class Faiss:
    """faiss by itself, as its wiki's "Guidelines to choose an index" has it.

    Where memory is no concern, HNSW32 or IVF with fast-scan codes refined by whole vectors in memory (PQNx4fs,RFlat);
    where it is, OPQ and codes without whole vectors (OPQM,...,PQMx4fsr), here of the size that ours has. Up to a
    million vectors the wiki takes 4 to 16 roots of n lists; the IVF65536_HNSW32 of the next size asks for two million
    training vectors.
    """

    package: str | None = None

    def __init__(self, factory: str, name: str, values: tuple[int, ...], k_factor: int = 0) -> None:
        self.name = f"faiss {name}"
        self.recipe = factory + (f", k_factor {k_factor}" if k_factor else "")
        self.parameter = "efSearch" if "HNSW" in factory else "nprobe" if "IVF" in factory else "none"
        self.values = values
        self._factory = factory
        self._k_factor = k_factor

    def build(self, blocks: Callable[[], Iterable[Vectors]], count: int, dim: int, path: Path, threads: int) -> None:
        """Train on 64 vectors a list, spread over all, and add."""
        faiss = load_faiss()
        faiss.omp_set_num_threads(threads)
        index = faiss.index_factory(dim, self._factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            lists = faiss.extract_index_ivf(_below(index)).nlist
            share = min(1.0, max(64 * lists, 40_000) / count)
            generator = np.random.default_rng(0)
            index.train(np.concatenate([block[generator.random(len(block)) < share] for block in blocks()]))
        for block in blocks():
            index.add(np.ascontiguousarray(block))
        faiss.write_index(index, str(path))

    def load(self, path: Path) -> Loaded:
        """Read the file into memory."""
        faiss = load_faiss()
        index = faiss.read_index(str(path))
        if self._k_factor:
            index.k_factor = self._k_factor

        def search(queries: Vectors, k: int, value: int) -> Rows:
            if self.parameter == "efSearch":
                index.hnsw.efSearch = value
            elif self.parameter == "nprobe":
                faiss.extract_index_ivf(_below(index)).nprobe = value
            rows: Rows = index.search(queries, k)[1]
            return rows

        return Loaded(search)


def _below(index: Any) -> Any:
    """The index under a refinement."""
    faiss = load_faiss()
    return faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index


class Autofaiss:
    """autofaiss: the index that it chooses for the memory it may take, searched with its own parameter."""

    package: str | None = "autofaiss"
    parameter = "effort"

    def __init__(self, memory: str, values: tuple[int, ...]) -> None:
        self.name = f"autofaiss {memory}"
        self.recipe = f'build_index(max_index_memory_usage="{memory}")'
        self.values = values
        self._memory = memory

    def build(self, blocks: Callable[[], Iterable[Vectors]], count: int, dim: int, path: Path, threads: int) -> None:
        """Hand over all vectors at once; what it chose is written beside the index."""
        from autofaiss import build_index

        index, found = build_index(
            np.concatenate(list(blocks())),
            save_on_disk=False,
            metric_type="ip",
            max_index_memory_usage=self._memory,
            current_memory_available="10G",
            nb_cores=threads,
        )
        load_faiss().write_index(index, str(path))
        write_json(path.with_suffix(".chosen.json"), {key: found[key] for key in ("index_key", "index_param")})

    def load(self, path: Path) -> Loaded:
        """Read the file into memory."""
        faiss = load_faiss()
        index = faiss.read_index(str(path))
        space = faiss.ParameterSpace()
        name = "efSearch" if isinstance(index, faiss.IndexHNSW) else "nprobe"

        def search(queries: Vectors, k: int, value: int) -> Rows:
            space.set_index_parameter(index, name, value)
            rows: Rows = index.search(queries, k)[1]
            return rows

        return Loaded(search)


class Hnswlib:
    """hnswlib: a graph over whole vectors in memory."""

    package: str | None = "hnswlib"
    parameter = "ef"
    values = (16, 32, 64, 128, 256, 512)

    def __init__(self, links: int) -> None:
        self.name = f"hnswlib M {links}"
        self.recipe = f"M {links}, ef_construction 200"
        self._links = links

    def build(self, blocks: Callable[[], Iterable[Vectors]], count: int, dim: int, path: Path, threads: int) -> None:
        """Add block by block."""
        import hnswlib

        index = hnswlib.Index("ip", dim)
        index.init_index(max_elements=count, M=self._links, ef_construction=200, random_seed=0)
        for block in blocks():
            index.add_items(block, num_threads=threads)
        index.save_index(str(path))
        path.with_suffix(".dim").write_text(str(dim), "ascii")

    def load(self, path: Path) -> Loaded:
        """Read the file into memory."""
        import hnswlib

        index = hnswlib.Index("ip", int(path.with_suffix(".dim").read_text("ascii")))
        index.load_index(str(path))

        def search(queries: Vectors, k: int, value: int) -> Rows:
            index.set_ef(max(value, k))
            return np.asarray(index.knn_query(queries, k, num_threads=1)[0], dtype=np.int64)

        return Loaded(search)


class Usearch:
    """usearch: a graph over vectors in memory, in the number format asked for."""

    package: str | None = "usearch"
    parameter = "expansion"
    values = (16, 32, 64, 128, 256, 512)

    def __init__(self, links: int, dtype: str) -> None:
        self.name = f"usearch M {links} {dtype}"
        self.recipe = f"connectivity {links}, expansion_add 128, {dtype}"
        self._links = links
        self._dtype = dtype

    def build(self, blocks: Callable[[], Iterable[Vectors]], count: int, dim: int, path: Path, threads: int) -> None:
        """Add block by block."""
        from usearch.index import Index

        index = Index(ndim=dim, metric="ip", dtype=self._dtype, connectivity=self._links, expansion_add=128)
        row = 0
        for block in blocks():
            index.add(np.arange(row, row + len(block), dtype=np.uint64), block, threads=threads)
            row += len(block)
        index.save(str(path))

    def load(self, path: Path) -> Loaded:
        """Read the file into memory."""
        from usearch.index import Index

        index: Any = Index.restore(str(path), view=False)

        def search(queries: Vectors, k: int, value: int) -> Rows:
            index.expansion_search = value
            found = index.search(queries, k, threads=1)
            keys = np.full((len(queries), k), -1, dtype=np.int64)
            given = np.atleast_2d(np.asarray(found.keys))
            keys[:, : given.shape[1]] = given
            return keys

        return Loaded(search)


class Voyager:
    """voyager: hnswlib's graph, over whole vectors."""

    package: str | None = "voyager"
    parameter = "ef"
    values = (16, 32, 64, 128, 256, 512)

    def __init__(self, links: int) -> None:
        self.name = f"voyager M {links}"
        self.recipe = f"M {links}, ef_construction 200, Float32"
        self._links = links

    def build(self, blocks: Callable[[], Iterable[Vectors]], count: int, dim: int, path: Path, threads: int) -> None:
        """Add block by block."""
        from voyager import Index, Space

        index = Index(Space.InnerProduct, dim, M=self._links, ef_construction=200, random_seed=0, max_elements=count)
        for block in blocks():
            index.add_items(block, num_threads=threads)
        index.save(str(path))

    def load(self, path: Path) -> Loaded:
        """Read the file into memory."""
        from voyager import Index

        index = Index.load(str(path))

        def search(queries: Vectors, k: int, value: int) -> Rows:
            found = index.query(queries, k, num_threads=1, query_ef=max(value, k))
            return np.asarray(found[0], dtype=np.int64)

        return Loaded(search)


class Svs:
    """Intel's Scalable Vector Search: the graph of DiskANN (Vamana), whole in memory.

    Its compressed vectors (LVQ, LeanVec) work on processors of Intel alone, so whole vectors are taken.
    """

    package: str | None = "scalable-vs"
    parameter = "window"
    values = (16, 32, 64, 128, 256, 512)

    def __init__(self, degree: int) -> None:
        self.name = f"SVS Vamana {degree}"
        self.recipe = f"graph_max_degree {degree}, window_size 128, alpha 0.95, float32"
        self._degree = degree

    def build(self, blocks: Callable[[], Iterable[Vectors]], count: int, dim: int, path: Path, threads: int) -> None:
        """Hand over all vectors at once. It writes three folders."""
        import svs

        settings = svs.VamanaBuildParameters(graph_max_degree=self._degree, window_size=128, alpha=0.95)
        vectors = np.concatenate(list(blocks()))
        index = svs.Vamana.build(settings, vectors, svs.DistanceType.MIP, num_threads=threads)
        path.mkdir()
        index.save(*(str(path / name) for name in ("config", "graph", "data")))

    def load(self, path: Path) -> Loaded:
        """Read the folders into memory."""
        import svs

        index = svs.Vamana(
            str(path / "config"),
            svs.GraphLoader(str(path / "graph")),
            svs.VectorDataLoader(str(path / "data"), svs.DataType.float32),
            distance=svs.DistanceType.MIP,
            num_threads=1,
        )

        def search(queries: Vectors, k: int, value: int) -> Rows:
            index.search_window_size = value
            return np.asarray(index.search(queries, k)[0], dtype=np.int64)

        return Loaded(search)


OURS = {4: 16, 8: 16, 16: 16, 32: 16, 64: 32, 128: 32, 256: 32, 512: 64}
OURS_FINER = {4: 4, 8: 8, 16: 8, 32: 8, 64: 16, 128: 16, 256: 32}
"""Candidates per result by nprobe, for codes of four and of two dimensions.

Set by hand for each nprobe and not swept, while faiss with a refinement has one `k_factor` at every nprobe.
"""


def all_peers(folder: Path, count: int) -> list[Peer]:
    """The systems to compare for so many vectors, which lie in an index in `folder`; ours first."""
    lists = 2 ** round(np.log2(4 * np.sqrt(count)))
    graph = (16, 32, 64, 128, 256, 512)
    visited = (4, 8, 16, 32, 64, 128, 256)
    return [
        Faiss(f"IVF{lists},PQ192x4fs,RFlat", "IVF+PQ4, whole vectors in memory", visited, k_factor=8),
        Faiss(f"OPQ96,IVF{lists},PQ96x4fsr", "OPQ+IVF+PQ4, codes only", visited),
        Ours(folder, "hnsw", "ef_search", dict.fromkeys(graph, 0)),
        Ours(folder, "ivf-pq", "nprobe", OURS_FINER, subquantisers=192),
        Autofaiss("3GB", graph),
        Faiss("HNSW32", "HNSW32", graph),
        Faiss("Flat", "Flat, exact", (1,)),
        Ours(folder, "ivf-pq", "nprobe", OURS),
        Autofaiss("200MB", visited),
        Hnswlib(16),
        Usearch(32, "f16"),
        Usearch(32, "i8"),
        Voyager(16),
        Svs(64),
    ]


def file_of(folder: Path, peer: Peer) -> Path:
    """Where a system's index is kept, in the folder of all that are made of the same vectors."""
    return folder / (peer.name.replace(" ", "-").replace(",", "").replace("+", "-") + ".index")


def size_of(path: Path) -> int:
    """Bytes of an index's file, of the structure where it is a folder of ours."""
    inner = path / "index.faiss"
    files = [inner] if inner.exists() else [each for each in (path, *path.rglob("*")) if each.is_file()]
    return sum(each.stat().st_size for each in files)
