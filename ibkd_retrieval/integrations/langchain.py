"""A retriever for LangChain."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import field_validator

from ibkd_retrieval.integrations import opened


class IbkdRetriever(BaseRetriever):
    """Finds documents of an index.

    A document has its text as `page_content` and its id. Its `metadata` has the title, the score and the fields.

    Args:
        index: an index folder, or an opened index (`open_index`), with whatever options it was opened with.
        k: number of documents.

    Example:
        >>> IbkdRetriever(index="indexes/mine", k=5).invoke("a question")  # doctest: +SKIP
    """

    index: Any
    k: int = 10

    @field_validator("index", mode="before")
    @classmethod
    def _open(cls, index: Any) -> Any:
        return opened(index)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        found = []
        for hit in self.index.search(query, self.k):
            text, title, fields = hit.document[1:] if hit.document else ("", "", {})
            metadata = {**fields, "title": title, "score": hit.score}
            found.append(Document(id=hit.doc_id, page_content=text, metadata=metadata))
        return found
