"""Scores of an index that is searched on a cluster."""

import dataclasses

import numpy as np
import pytest

from helpers.indexing_fakes import clustered
from ibkd_retrieval.evaluation.evaluate_index import evaluate_index
from ibkd_retrieval.indexing.api import import_vectors
from ibkd_retrieval.search.options import RankerOptions

pytestmark = pytest.mark.cluster

COUNT, ASKED = 9000, 60  # Two shards.


def test_scores_from_a_cluster_are_those_of_one_machine(tmp_path, nodes, one_thread):
    table = clustered(COUNT + ASKED, 32)
    import_vectors(table[:COUNT], tmp_path / "i", ids=[f"d{row}" for row in range(COUNT)], type="ivf-flat", parts=2)
    (tmp_path / "q").mkdir()
    np.save(tmp_path / "q" / "vectors.npy", table[COUNT:])
    (tmp_path / "q" / "ids.txt").write_text("".join(f"q{row}\n" for row in range(ASKED)))
    (tmp_path / "qrels").write_text("".join(f"q{row} 0 d{7 * row} 1\n" for row in range(ASKED)))
    options = RankerOptions(query_vectors=str(tmp_path / "q"))
    spread = dataclasses.replace(options, cluster="auto", exact_merge=True)
    due, found = (
        evaluate_index([tmp_path / "i"], each, qrels=tmp_path / "qrels", metrics=["mrr@1000"], resamples=10)
        for each in (options, spread)
    )
    assert dict(due) == dict(found)
