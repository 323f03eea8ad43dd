"""Vectors that come from other machines through a staging folder."""

from dataclasses import dataclass

import pytest

from helpers.indexing_fakes import HashingEncoder, numbered_corpus
from ibkd_retrieval.errors import WorkFailed
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.workers import EncodedShard
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.staging import StagedVectors, Staging


@dataclass
class Elsewhere:
    """Stages each shard several times, in the way of a node, and may die after the first."""

    copies: int = 1
    dies: bool = False
    seen: Staging | None = None

    def encode(self, shards, task, staging):
        self.seen = staging.open()
        for shard in shards:
            vectors = HashingEncoder().encode([document.content for document in shard.documents])
            found = [staging.write_vectors(shard.number, vectors) for _ in range(self.copies)]
            assert all(isinstance(each, StagedVectors) for each in found)
            for each in found:
                task.advance(len(shard.documents))
                yield EncodedShard(shard, each, 0.1)
            if self.dies:
                raise WorkFailed("No node is left.")


def built(folder, processes=None, **settings):
    return build_index(numbered_corpus(35), HashingEncoder(), folder, shard_size=10, processes=processes, **settings)


@pytest.mark.parametrize("vector_format", ["float32", "float16", "int8"])
def test_staged_vectors_give_the_files_of_one_machine_though_they_come_twice(tmp_path, vector_format):
    alone = built(tmp_path / "alone", vector_format=vector_format)
    together = built(tmp_path / "together", Elsewhere(copies=2), vector_format=vector_format)
    assert (together.files, together.shards) == (alone.files, alone.shards)
    verify_index(tmp_path / "together")
    assert not (tmp_path / "together" / layout.STAGING).exists()


def test_what_a_killed_build_left_in_staging_goes_with_resume_and_with_overwrite(tmp_path):
    alone = built(tmp_path / "alone")
    for number, settings in enumerate([{"resume": True}, {"overwrite": True}]):
        folder = tmp_path / str(number)
        with pytest.raises(WorkFailed, match="No node is left"):
            built(folder, Elsewhere(dies=True))
        assert not (folder / layout.STAGING).exists()
        left = Staging(folder).open()
        left.write_vectors(7, HashingEncoder().encode(["late"]))
        (folder / layout.STAGING / "mine.txt").write_text("not of this toolkit")
        assert built(folder, **settings).files == alone.files
        assert [path.name for path in (folder / layout.STAGING).iterdir()] == ["mine.txt"]


def test_what_is_staged_in_a_finished_index_is_no_part_of_it(tmp_path):
    alone = built(tmp_path / "i")
    Staging(tmp_path / "i").open().write_vectors(0, HashingEncoder().encode(["another"]))
    verify_index(tmp_path / "i")
    assert built(tmp_path / "i", resume=True).files == alone.files
    assert not (tmp_path / "i" / layout.STAGING).exists()


def test_a_node_that_comes_late_cannot_bring_the_folder_back(tmp_path):
    elsewhere = Elsewhere()
    built(tmp_path / "i", elsewhere)
    with pytest.raises(FileNotFoundError):
        elsewhere.seen.write_vectors(0, HashingEncoder().encode(["late"]))
    assert not (tmp_path / "i" / layout.STAGING).exists()


def test_vectors_are_sent_where_the_folder_is_another(tmp_path):
    here = Staging(tmp_path / "here").open()
    there = Staging(tmp_path / "there", token=here.token)
    vectors = HashingEncoder().encode(["a"])
    assert there.write_vectors(0, vectors) is vectors
    assert isinstance(here.write_vectors(0, vectors), StagedVectors)
