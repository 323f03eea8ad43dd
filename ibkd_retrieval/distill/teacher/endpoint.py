"""A teacher behind an endpoint: what it will cost, and how it is opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ibkd_retrieval.encoders.endpoints.address import Address, EndpointTerms, is_endpoint
from ibkd_retrieval.encoders.endpoints.cost import agree, estimate
from ibkd_retrieval.encoders.endpoints.encoder import EndpointEncoder

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus, QuerySet
    from ibkd_retrieval.distill.config import DistillConfig
    from ibkd_retrieval.distill.sections import TeacherConfig
    from ibkd_retrieval.progress import Progress

_SYNTHETIC_TOKENS = 12
"""Of a synthetic query, about."""


def agree_to_teachers(
    config: DistillConfig,
    corpus: Corpus,
    queries: QuerySet | None,
    terms: EndpointTerms,
    progress: Progress,
) -> None:
    """Have the cost of every teacher behind an endpoint agreed to, before anything is sent.

    Raises:
        UserError: a cost is not agreed to.
    """
    for name in filter(is_endpoint, config.teacher):
        address = Address.parse(name)
        prompts = {"query": config.teaching.query_prompt or "", "document": config.teaching.document_prompt or ""}
        found = estimate(address, _documents(corpus), prompts=prompts)
        most = config.data.max_documents
        if most is not None and found.texts + found.paid > most:
            found = found.times(most / (found.texts + found.paid))
        if queries is not None:
            found = found.plus(estimate(address, (query.text.strip() for query in queries.queries), "query", prompts))
        made = config.data.synthetic_queries * found.texts
        found = found._replace(texts=found.texts + made, tokens=found.tokens + made * _SYNTHETIC_TOKENS)
        agree(address, found, terms, progress)


def open_endpoint(name: str, config: TeacherConfig, terms: EndpointTerms, progress: Progress) -> EndpointEncoder:
    """Open a teacher behind an endpoint, which keeps every vector that it is paid for.

    Raises:
        UserError: the address is wrong, or nothing answers there.
    """
    return EndpointEncoder.open(name, terms=terms, of="teacher_", progress=progress, **asdict(config)).keep_paid()


def _documents(corpus: Corpus) -> Iterator[str]:
    """The distinct texts of a corpus, as they are learnt from."""
    seen: set[int] = set()
    for document in corpus.documents():
        content = document.content.strip()
        if content and (key := hash(content)) not in seen:
            seen.add(key)
            yield content
