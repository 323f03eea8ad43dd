"""A structure in parts answers as one structure does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import TableEncoder, clustered, corpus_of, table_corpus
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.memory import MemoryPlan
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.describe import describe
from ibkd_retrieval.indexing.exporting import export_index
from ibkd_retrieval.indexing.families import family_named
from ibkd_retrieval.indexing.families.parts import AddingInParts, part_plans
from ibkd_retrieval.indexing.families.training import Making
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors
from ibkd_retrieval.progress import SILENT

COUNT, DIM, SHARD = 3000, 32, 350

FIXED = {"nprobe": 8, "refine": 4}
FAMILIES = {
    "ivf-flat": {"nprobe": 8},
    "sq8": FIXED,
    "ivf-pq": {},
    "ivf-pq, 8 bits": {"bits": 8, **FIXED},
    "rabitq": FIXED,
    "factory": {"factory": "RR32,IVF40,PQ8x4fs", **FIXED},
}


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return clustered(COUNT + 300, DIM)


@pytest.fixture(scope="module")
def made(table: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes an index, once for each family and number of parts."""
    root = tmp_path_factory.mktemp("parts")

    def make(kind: str, parts: int) -> Path:
        folder = root / f"{kind.replace(', ', '-').replace(' ', '')}-{parts}"
        if not folder.exists():
            family = family_named(kind.split(",")[0], **FAMILIES[kind])
            build_index(table_corpus(COUNT), TableEncoder(table), folder, family=family, shard_size=SHARD, parts=parts)
        return folder

    return make


@pytest.mark.parametrize("kind", FAMILIES)
def test_candidates_of_parts_are_those_of_one_structure(kind: str, made: Callable[..., Path], table: np.ndarray):
    whole, parts = open_index(made(kind, 1)), open_index(made(kind, 3), verify=True)
    assert len(parts.manifest.parts) == 3
    assert parts.manifest.search == whole.manifest.search
    for allowed in (None, np.arange(COUNT) % 2 == 0):
        for nprobe in (8, 200):
            params = SearchParams(nprobe=nprobe, refine=0)
            one, other = (
                index._search_structure(table[COUNT:], 40, params, COUNT, allowed) for index in (whole, parts)
            )
            np.testing.assert_array_equal(one[0], other[0])
            # faiss keeps any of the candidates whose scores are equal at the last place.
            for scores, rows, others in zip(one[0], one[1], other[1], strict=True):
                above = scores > scores[-1]
                assert set(rows[above]) == set(others[above])


@pytest.mark.parametrize("kind", ["ivf-flat", "sq8", "ivf-pq, 8 bits"])
def test_parts_find_bit_for_bit_what_one_structure_finds(kind: str, made: Callable[..., Path], table: np.ndarray):
    whole, parts = open_index(made(kind, 1)), open_index(made(kind, 3))
    for k in (10, 100):
        one, other = (index.search(table[COUNT:], k) for index in (whole, parts))
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("kind", FAMILIES)
def test_parts_merged_in_memory_are_the_structure_that_is_filled_at_once(
    kind: str, made: Callable[..., Path], table: np.ndarray
):
    folder = made(kind, 1)
    counts = [shard.documents for shard in read_manifest(folder).shards]
    vectors, family = ShardVectors(folder, counts, DIM), family_named(kind.split(",")[0], **FAMILIES[kind])
    filled = family.build(vectors, SILENT)
    adding = AddingInParts(part_plans(folder, counts, DIM, 4), kept=False)
    merged = family.build(vectors, SILENT, making=Making(add=adding))
    assert merged.search == filled.search
    assert merged.index.ntotal == COUNT
    one, other = (built.index.search(table[COUNT:], 40) for built in (filled, merged))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("kind", ["sq8", "ivf-pq"])
def test_parts_larger_than_memory_are_mapped_or_read_one_at_a_time(
    kind: str, made: Callable[..., Path], table: np.ndarray
):
    within, beyond = open_index(made(kind, 3)), open_index(made(kind, 3), memory_limit=1000)
    one, other = within.search(table[COUNT:], 10), beyond.search(table[COUNT:], 10)
    np.testing.assert_array_equal(one[1], other[1])
    assert len(beyond._structure._kept) == (3 if kind == "sq8" else 1)


def test_a_structure_beyond_the_memory_limit_is_kept_in_parts(table: np.ndarray, tmp_path: Path):
    plan = MemoryPlan(limit=60_000, shard_size=SHARD, shard_text=10**6, depth=1, batch_tokens=4096, asked=True)
    manifest = build_index(table_corpus(COUNT), TableEncoder(table), tmp_path / "i", family="sq8", memory=plan)
    assert len(manifest.parts) > 1
    assert max(manifest.files[part.file].bytes for part in manifest.parts) < 60_000
    assert (manifest.format_version, "index.faiss" in manifest.files) == (3, False)
    corpus, encoder = table_corpus(COUNT), TableEncoder(table)
    assert build_index(corpus, encoder, tmp_path / "i", family="sq8", memory=plan, resume=True) == manifest
    whole = build_index(corpus, encoder, tmp_path / "i", family="sq8", parts=1, resume=True)
    assert not whole.parts
    assert not (tmp_path / "i" / "parts").exists()


def test_an_index_in_parts_is_changed_checked_combined_and_exported(
    table: np.ndarray, made: Callable[..., Path], tmp_path: Path
):
    corpus, encoder = table_corpus(COUNT), TableEncoder(table)
    build_index(corpus, encoder, tmp_path / "i", family="ivf-pq", shard_size=SHARD, parts=3)
    before = read_manifest(tmp_path / "i").parts
    later = [Document(f"d{i}", str(i)) for i in range(COUNT, COUNT + 300)]
    few, more = corpus_of(later[:50]), corpus_of(later[50:])
    append_documents(few, encoder, tmp_path / "i")
    grown = read_manifest(tmp_path / "i").parts
    assert [part.rows for part in grown] == [*[part.rows for part in before[:-1]], before[-1].rows + 50]
    append_documents(more, encoder, tmp_path / "i")
    assert [part.rows for part in read_manifest(tmp_path / "i").parts] == [*[part.rows for part in grown], 250]
    assert sorted(path.name for path in (tmp_path / "i" / "parts").iterdir()) == [
        Path(part.file).name for part in read_manifest(tmp_path / "i").parts
    ]
    delete_documents(tmp_path / "i", ["d7", f"d{COUNT + 60}"])
    verify_index(tmp_path / "i")
    assert "in 4 parts" in describe(tmp_path / "i").facts["factory string"]
    index = open_index(tmp_path / "i")
    rows = index.search(table, 1, SearchParams(nprobe=1000, refine=32))[1][:, 0]
    assert 7 not in rows
    assert np.mean(rows == np.arange(COUNT + 300)) > 0.99
    combined = combine_indexes([tmp_path / "i"], tmp_path / "j", family="ivf-pq", parts=2)
    assert (len(combined.parts), sum(part.rows for part in combined.parts)) == (2, COUNT + 298)
    export_index(tmp_path / "j", tmp_path / "p", "pyserini")
    whole = combine_indexes([tmp_path / "i"], tmp_path / "k", family="ivf-pq")
    export_index(tmp_path / "k", tmp_path / "q", "pyserini")
    assert whole.parts == ()
    assert (tmp_path / "p" / "index").stat().st_size == (tmp_path / "q" / "index").stat().st_size


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:100]])
def test_a_damaged_part_is_named(damage, table: np.ndarray, tmp_path: Path):
    folder = tmp_path / "i"
    build_index(table_corpus(1200), TableEncoder(table), folder, family="sq8", shard_size=SHARD, parts=2)
    part = folder / "parts" / "00001.faiss"
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(UserError, match=r"parts/00001.faiss: .*`build_index\(resume=True\)`"):
        open_index(folder)
    build_index(table_corpus(1200), TableEncoder(table), folder, family="sq8", shard_size=SHARD, parts=2, resume=True)
    open_index(folder, verify=True)


def test_types_without_lists_are_not_kept_in_parts(table: np.ndarray, tmp_path: Path):
    for family in ("flat", "hnsw", family_named("factory", factory="HNSW16,SQ8")):
        with pytest.raises(UserError, match="is not kept in parts"):
            build_index(table_corpus(COUNT), TableEncoder(table), tmp_path / "i", family=family, parts=2)
    with pytest.raises(UserError, match="at least one part"):
        build_index(table_corpus(COUNT), TableEncoder(table), tmp_path / "i", family="sq8", parts=0)
    one_shard = build_index(table_corpus(COUNT), TableEncoder(table), tmp_path / "j", family="sq8", parts=2)
    assert (one_shard.parts, one_shard.structure in one_shard.files) == ((), True)
    # Too few to train lists: a flat index, as without `parts`.
    assert build_index(table_corpus(500), TableEncoder(table), tmp_path / "i", family="sq8", parts=2).family == "flat"
