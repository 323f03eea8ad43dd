"""The retrievers and the model for other libraries, with the real libraries where they are installed."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

import ibkd_retrieval as ibkd
from helpers.searching import HashEncoder, indexed
from ibkd_retrieval.corpora.records import Document

DOCUMENTS = [
    Document(f"d{row}", f"about {word}", word.title(), {"year": 1990 + row, "tags": [word]})
    for row, word in enumerate(["milk", "cheese", "rivers", "boats", "rain"])
]


@pytest.fixture
def index(tmp_path: Path) -> ibkd.Index:
    encoder = HashEncoder()
    indexed(tmp_path / "i", DOCUMENTS, encoder)
    return ibkd.open_index(tmp_path / "i", model=encoder)


def test_langchain_gets_the_hits_of_the_index(index: ibkd.Index):
    pytest.importorskip("langchain_core")
    from langchain_core.runnables import RunnableLambda

    from ibkd_retrieval.integrations.langchain import IbkdRetriever

    hits = index.search("boats", 3)
    retriever = IbkdRetriever(index=index, k=3)
    found = retriever.invoke("boats")
    assert [(each.id, each.metadata["score"]) for each in found] == [(hit.doc_id, hit.score) for hit in hits]
    document = hits[0].document
    assert found[0].page_content == document.text
    assert found[0].metadata == {"title": document.title, "score": hits[0].score, **document.fields}
    assert asyncio.run(retriever.ainvoke("boats")) == found
    chain = retriever | RunnableLambda(lambda documents: [each.id for each in documents])
    assert chain.batch(["boats", "rain"])[0] == [hit.doc_id for hit in hits]
    assert len(IbkdRetriever(index=str(index.folder)).index) == len(index)


def test_llama_index_gets_the_hits_of_the_index(index: ibkd.Index):
    pytest.importorskip("llama_index.core")
    from ibkd_retrieval.integrations.llama_index import IbkdRetriever

    hits = index.search("boats", 3)
    retriever = IbkdRetriever(index, k=3)
    found = retriever.retrieve("boats")
    assert [(each.node_id, each.score) for each in found] == [(hit.doc_id, hit.score) for hit in hits]
    document = hits[0].document
    assert found[0].text == document.text
    assert found[0].metadata == {"title": document.title, **document.fields}
    assert [each.node_id for each in asyncio.run(retriever.aretrieve("boats"))] == [hit.doc_id for hit in hits]
    assert len(IbkdRetriever(index.folder).index) == len(index)


def test_an_index_without_texts_is_retrieved_by_its_ids(tmp_path: Path):
    pytest.importorskip("langchain_core")
    from ibkd_retrieval.integrations.langchain import IbkdRetriever

    encoder = HashEncoder()
    ibkd.import_vectors(encoder.encode(["a", "b"]), tmp_path / "i", ids=["a", "b"], model=encoder)
    found = IbkdRetriever(index=ibkd.open_index(tmp_path / "i", model=encoder)).invoke("a")
    assert [(each.id, each.page_content, each.metadata["title"]) for each in found] == [("a", "", ""), ("b", "", "")]


@pytest.mark.slow
def test_mteb_gets_the_figures_of_our_own_evaluation(tmp_path: Path):
    mteb = pytest.importorskip("mteb")
    from ibkd_retrieval.integrations.mteb import IbkdEncoder

    queries = {f"q{row}": word for row, word in enumerate(["milk", "rain", "boats", "cheese"])}
    judged = {"q0": {"d0": 1}, "q1": {"d4": 2, "d3": 1}, "q2": {"d1": 1}, "q3": {"d1": 1, "d2": 1}}
    corpus = {each.doc_id: {"title": each.title, "text": each.text} for each in DOCUMENTS}
    encoder = HashEncoder()

    class Made(mteb.abstasks.AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name="Made",
            description="five documents",
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            dataset={"path": "made/up", "revision": "1"},
            reference=None,
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=("2020-01-01", "2020-01-02"),
            domains=["Written"],
            task_subtypes=[],
            license="cc0-1.0",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, num_proc=None, **more):
            self.queries, self.corpus, self.relevant_docs = {"test": queries}, {"test": corpus}, {"test": judged}
            self.convert_v1_dataset_format_to_v2(num_proc)
            self.data_loaded = True

    model = IbkdEncoder(encoder)
    cache = mteb.ResultCache(tmp_path / "cache")
    result = mteb.evaluate(model, Made(), cache=cache, show_progress_bar=False, co2_tracker=False)
    scores = result.task_results[0].scores["test"][0]
    assert sorted(encoder.kinds) == [("document", 5), ("query", 4)]

    indexed(tmp_path / "i", DOCUMENTS, encoder)
    index = ibkd.open_index(tmp_path / "i", model=encoder)
    ours = ibkd.evaluate(index.search_batch(queries, k=5), judged, ["ndcg@10", "mrr@10", "recall@3"])
    for theirs, name in (("ndcg_at_10", "ndcg@10"), ("mrr_at_10", "mrr@10"), ("recall_at_3", "recall@3")):
        assert scores[theirs] == pytest.approx(ours[name], abs=1e-5)
    assert model.mteb_model_meta.name == "ibkd/tiny"
    np.testing.assert_allclose(model.similarity_pairwise(np.eye(2), np.eye(2)), 1.0)
