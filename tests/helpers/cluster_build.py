"""A driver of its own: builds the index of `numbered_corpus(95)` on a cluster, with an encoder that takes its time."""

import argparse
from pathlib import Path

from helpers.indexing_fakes import HashingEncoder, LoadFake, numbered_corpus
from ibkd_retrieval import cluster
from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.cluster import ClusterEncoders

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    parser.add_argument("sleep", type=float)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--fault", default="", help="what goes wrong at document 40")
    parser.add_argument("--head-patience", type=float, default=40.0)
    given = parser.parse_args()
    cluster._HEAD_PATIENCE = given.head_patience
    encoders = ClusterEncoders(Cluster(given.address), LoadFake("text of document 40", given.fault, given.sleep), "0a")
    build_index(
        numbered_corpus(95),
        HashingEncoder(),
        given.folder,
        shard_size=10,
        processes=encoders,
        resume=given.resume,
    )
