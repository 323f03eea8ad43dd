"""An encoder without weights, and real indexes made with it."""

import hashlib

import numpy as np

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search.searcher import Searcher

DIM = 8


class HashEncoder:
    """Gives each text a unit vector drawn from its hash."""

    name, max_length, pooling, dtype, device = "tiny", 16, None, "float32", "cpu"

    def __init__(self, weight_hash="a" * 64, dim=DIM):
        self.weight_hash, self.dim = weight_hash, dim
        self.prompts = {"query": "query: ", "document": ""}
        self.kinds = []

    def encode(self, texts, kind="document", progress=None):
        self.kinds.append((kind, len(texts)))
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        vectors = np.array([np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def indexed(folder, documents, encoder=None, shard_size=8):
    """Build a flat index of documents and open it."""
    corpus = Corpus("made-up", len(documents), lambda: documents)
    build_index(corpus, encoder or HashEncoder(), folder, shard_size=shard_size)
    return open_index(folder)


def searcher(folder, documents, encoder=None):
    encoder = encoder or HashEncoder()
    return Searcher(indexed(folder, documents, encoder), encoder)


def rankings(run):
    """Each query's documents with their scores."""
    return {query: list(zip(ids.tolist(), scores.tolist(), strict=True)) for query, ids, scores in run}
