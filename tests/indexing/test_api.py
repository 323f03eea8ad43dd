"""Indexes made, changed and exported from Python."""

from pathlib import Path

import numpy as np
import pytest

import ibkd_retrieval as ibkd
from helpers.indexing_fakes import HashingEncoder
from ibkd_retrieval.indexing.config import USES
from ibkd_retrieval.indexing.index import open_index

TEXTS = {f"d{i}": f"text {i}" for i in range(30)}


def test_an_index_is_made_of_a_dict_and_an_encoder_grown_shrunk_combined_and_exported(tmp_path: Path):
    index = ibkd.build_index(TEXTS, HashingEncoder(), tmp_path / "i", shard_size=8)
    assert index.search("text 4", k=1)[0].doc_id == "d4"
    made = index.describe()
    assert (made.manifest.document_count, made.manifest.family, made.manifest.shard_size) == (30, "flat", 8)
    assert "30 documents" in repr(made)
    assert "<td>30</td>" in made._repr_html_()
    assert dict(made.to_pandas().to_numpy())["documents"] == "30"
    assert made.to_json()["output"] == str(tmp_path / "i")

    grown = ibkd.append(made, [{"_id": "new", "text": "one more"}], HashingEncoder())
    assert grown.manifest.document_count == 31
    assert ibkd.delete(grown, ["d3", "d4"]).manifest.deleted_count == 2
    smaller = ibkd.combine(tmp_path / "i", tmp_path / "j", vectors="float16").describe()
    assert (smaller.manifest.document_count, smaller.manifest.vector_format) == (29, "float16")
    assert ibkd.describe(smaller, verify=True).manifest == smaller.manifest

    folder = ibkd.export(smaller, "numpy", tmp_path / "out")
    vectors, ids = np.load(folder / "vectors.npy"), (folder / "ids.txt").read_text().split()
    back = ibkd.import_vectors(vectors, tmp_path / "back", ids=ids)
    index = open_index(back.folder)
    assert list(index.all_ids()) == ids
    np.testing.assert_array_equal(np.concatenate(list(index.vectors())), vectors)


def test_options_that_a_job_has_no_use_for_are_refused(tmp_path: Path):
    for job, call in (
        ("append", lambda **options: ibkd.append(tmp_path, TEXTS, **options)),
        ("combine", lambda **options: ibkd.combine(tmp_path, tmp_path / "x", **options)),
        ("import_vectors", lambda **options: ibkd.import_vectors([[1.0]], tmp_path / "x", ids=["a"], **options)),
    ):
        for name in sorted(USES["build_index"] - USES[job]):
            with pytest.raises(ibkd.UserError, match=rf"`{name}` cannot be used with `{job}`"):
                call(**{name: 1})
    with pytest.raises(ibkd.UserError, match=r"no option `colour`"):
        ibkd.build_index(TEXTS, HashingEncoder(), tmp_path / "x", colour="red")
    with pytest.raises(ibkd.UserError, match=r"`dtype` cannot be used with a loaded encoder"):
        ibkd.build_index(TEXTS, HashingEncoder(), tmp_path / "x", dtype="float16")
    with pytest.raises(ibkd.UserError, match=r"`pooling` cannot be used without `model`"):
        ibkd.import_vectors([[1.0]], tmp_path / "x", ids=["a"], pooling="cls")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("vectors", "ids", "words"),
    [
        ([1.0, 2.0], ["a"], "shape"),
        ([["a"]], ["a"], "not numbers"),
        ([[1.0]], None, "`ids`"),
        ([[1.0]], ["a", "b"], "1 vectors and 2 `ids`"),
        ([[1.0], [2.0]], ["a", "a"], "twice|repeat|more than once"),
        ([[float("nan")]], ["a"], "not finite"),
    ],
)
def test_vectors_in_memory_that_cannot_be_an_index_are_refused_in_a_sentence(tmp_path: Path, vectors, ids, words):
    with pytest.raises(ibkd.UserError, match=words):
        ibkd.import_vectors(vectors, tmp_path / "x", ids=ids)
    assert not (tmp_path / "x").exists()


def test_a_configuration_goes_to_json_and_back():
    config = ibkd.IndexConfig.of(type="ivf-pq", lists=16, dim=64, vectors="int8")
    assert ibkd.IndexConfig.from_json(config.to_json()) == config
    assert ibkd.IndexConfig.from_json({}) == ibkd.IndexConfig()
    with pytest.raises(ibkd.UserError, match=r"structure.lists is not of type int"):
        ibkd.IndexConfig.from_json({"structure": {"lists": "many"}})


def test_vectors_near_the_ends_of_the_range_are_scaled_and_not_lost(tmp_path: Path):
    vectors = np.array([[3e38, 3e38], [1e-30, 1e-30], [3.0, 4.0], [-3e38, 1e-38]], dtype=np.float32)
    made = ibkd.import_vectors(vectors, tmp_path / "i", ids=list("abcd"), normalise=True)
    stored = np.concatenate(list(open_index(made.folder).vectors()))
    half = 0.5**0.5
    np.testing.assert_allclose(stored, [[half, half], [half, half], [0.6, 0.8], [-1, 0]], atol=1e-6)
    with pytest.raises(ibkd.UserError, match=r"Vector 2 .* all zeros"):
        ibkd.import_vectors([[1.0], [0.0]], tmp_path / "j", ids=["a", "b"], normalise=True)
