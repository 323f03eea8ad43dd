"""A retriever for LlamaIndex."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from ibkd_retrieval.integrations import opened


class IbkdRetriever(BaseRetriever):
    """Finds documents of an index, as nodes with scores.

    A node has the document's id and text. Its `metadata` has the title and the fields.

    Args:
        index: an index folder, or an opened index (`open_index`), with whatever options it was opened with.
        k: number of documents.
        more: arguments of LlamaIndex's `BaseRetriever`.

    Example:
        >>> IbkdRetriever("indexes/mine", k=5).retrieve("a question")  # doctest: +SKIP
    """

    def __init__(self, index: Any, k: int = 10, **more: Any) -> None:
        self.index, self.k = opened(index), k
        super().__init__(**more)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = []
        for hit in self.index.search(query_bundle.query_str, self.k):
            text, title, fields = hit.document[1:] if hit.document else ("", "", {})
            node = TextNode(id_=hit.doc_id, text=text, metadata={**fields, "title": title})
            found.append(NodeWithScore(node=node, score=hit.score))
        return found
