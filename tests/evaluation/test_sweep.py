import dataclasses

import numpy as np
import pytest

from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.sweep import Sweep, Variant, make_variant, parse_sweeps, target_folder, variants
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search.searcher import Searcher


def test_dims_and_types_are_swept_over():
    assert parse_sweeps([]) == Sweep()
    assert parse_sweeps(["dims=384, 64", "type=flat,ivf-pq"]) == Sweep((384, 64), ("flat", "ivf-pq"))


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["dims"], "is no sweep"),
        (["dims="], "is no sweep"),
        (["size=3"], "is no sweep"),
        (["dims=3,3"], "names something twice"),
        (["dims=3", "dims=4"], "names something twice"),
        (["dims=many"], "dims=many is no number of dimensions"),
        (["dims=0"], "dims=0 is no number of dimensions"),
        (["type=flat,tree"], "type=tree: choose among flat, ivf-flat, ivf-pq"),
        (["type=factory"], "type=factory: choose among"),
    ],
)
def test_what_is_no_sweep_is_refused(texts, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_sweeps(texts)


def test_variants_are_the_product_without_the_index_itself(world):
    folder = world.folder / "teacher-flat"
    found = variants(read_manifest(folder), folder, Sweep((32, 8), ("flat", "sq8")))
    assert found == (Variant(32, "sq8"), Variant(8, "flat"), Variant(8, "sq8"))
    assert variants(read_manifest(folder), folder, Sweep(dims=(16,))) == (Variant(16, "flat"),)
    assert variants(read_manifest(folder), folder, Sweep()) == ()


def test_more_dimensions_or_fewer_documents_than_there_must_be_are_refused(world):
    folder = world.folder / "teacher-flat"
    manifest = read_manifest(folder)
    with pytest.raises(UserError, match=r"dims=64: the vectors in .* have 32 dimensions"):
        variants(manifest, folder, Sweep(dims=(64,)))
    with pytest.raises(UserError, match=r"the 20 documents in .* are too few"):
        variants(dataclasses.replace(manifest, document_count=20), folder, Sweep(types=("ivf-pq",)))


def test_a_cut_index_finds_what_encoding_with_the_cut_model_would(world, tmp_path):
    cut = Encoder.load(str(world.folder / "teacher"), device="cpu", dtype="float32", dim=8)
    manifest = make_variant(world.folder / "teacher-flat", tmp_path / "cut", Variant(8, "flat"), cut)
    index = open_index(tmp_path / "cut")
    stored = np.concatenate(list(index.vectors()))
    assert stored == pytest.approx(cut.encode([document.content for document in world.documents]), abs=1e-5)
    assert (manifest.dim, manifest.encoder.weight_hash) == (8, cut.weight_hash)
    # Opened as any index, it finds its encoder and its texts.
    searcher = Searcher(index, cut)
    hit = searcher.search(world.documents[70].content, 1)[0]
    assert hit.document == world.documents[70]


def test_a_variant_is_made_once(world, tmp_path):
    source, target = world.folder / "teacher-flat", tmp_path / "again"
    cut = Encoder.load(str(world.folder / "teacher"), device="cpu", dtype="float32", dim=8)
    first = make_variant(source, target, Variant(8, "sq8"), cut)
    assert make_variant(source, target, Variant(8, "sq8"), cut) == first


def test_another_type_shares_its_files_with_the_index(world, tmp_path):
    source = world.folder / "teacher-flat"
    make_variant(source, tmp_path / "sq8", Variant(32, "sq8"), world.encoders["teacher"])
    assert (tmp_path / "sq8" / "vectors" / "00000.npy").samefile(source / "vectors" / "00000.npy")


def test_folders_are_named_as_other_indexes_are(world, tmp_path):
    folder = world.folder / "teacher-flat"
    manifest = read_manifest(folder)
    assert target_folder(tmp_path, folder, manifest, Variant(8, "ivf-pq")) == tmp_path / "teacher-d8-ivf-pq"
    plain = target_folder(tmp_path, folder, manifest, Variant(32, "ivf-pq"))
    assert plain == tmp_path / "teacher-ivf-pq"
    other = target_folder(tmp_path, folder, manifest, Variant(32, "ivf-pq"), {plain})
    assert other == tmp_path / f"teacher-ivf-pq-{manifest.corpus.fingerprint[:8]}"


def test_a_folder_with_another_index_is_left_alone(world, tmp_path):
    source = world.folder / "teacher-flat"
    manifest = read_manifest(source)
    mine = target_folder(tmp_path, source, manifest, Variant(32, "sq8"))
    make_variant(source, mine, Variant(32, "sq8"), world.encoders["teacher"])
    assert target_folder(tmp_path, source, manifest, Variant(32, "sq8")) == mine
    for name in ("teacher-rabitq", f"teacher-rabitq-{manifest.corpus.fingerprint[:8]}"):
        combine_indexes([world.folder / "student-flat"], tmp_path / name, family="rabitq")
    with pytest.raises(UserError, match="another index is there"):
        target_folder(tmp_path, source, manifest, Variant(32, "rabitq"))
