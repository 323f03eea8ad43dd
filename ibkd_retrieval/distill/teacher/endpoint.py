"""A teacher behind an endpoint: what it will cost, and how it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import reduce
from typing import TYPE_CHECKING

from ibkd_retrieval.encoders.endpoints.address import Address, EndpointTerms, is_endpoint
from ibkd_retrieval.encoders.endpoints.cost import Estimate, agree, estimate
from ibkd_retrieval.encoders.endpoints.encoder import EndpointEncoder

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.distill.config import DistillConfig
    from ibkd_retrieval.distill.sections import TeacherConfig
    from ibkd_retrieval.progress import Progress

_SYNTHETIC_TOKENS = 12
"""Of a synthetic query, about."""


def agree_to_teachers(
    config: DistillConfig,
    corpora: Sequence[tuple[Corpus, int | None]],
    passages: Sequence[str],
    queries: Sequence[str],
    terms: EndpointTerms,
    progress: Progress,
) -> None:
    """Have the cost of every teacher behind an endpoint agreed to, before anything is sent.

    Args:
        config: the decided configuration.
        corpora: the corpora that are read, and the most documents of each; None is all. That to learn from is first.
        passages: further documents.
        queries: the queries.
        terms: the price, and whether the cost is agreed to.
        progress: receives the estimates.

    Raises:
        UserError: a cost is not agreed to.
    """
    for name in filter(is_endpoint, config.teacher):
        address = Address.parse(name)
        prompts = {"query": config.teaching.query_prompt or "", "document": config.teaching.document_prompt or ""}
        seen: set[int] = set()
        parts: list[Estimate] = []
        for corpus, most in corpora:
            contents = (document.content for document in corpus.documents())
            part = estimate(address, _distinct(contents, seen), prompts=prompts)
            count = part.texts + part.paid
            parts.append(part if most is None or count <= most else part.times(most / count))
        made = config.data.synthetic_queries * parts[0].texts
        parts.append(Estimate(made, made * _SYNTHETIC_TOKENS))
        parts.append(estimate(address, _distinct(passages, seen), prompts=prompts))
        parts.append(estimate(address, _distinct(queries, set()), "query", prompts))
        found = reduce(Estimate.plus, parts)
        agree(address, found, terms, progress)


def open_endpoint(name: str, config: TeacherConfig, terms: EndpointTerms, progress: Progress) -> EndpointEncoder:
    """Open a teacher behind an endpoint, which keeps every vector that it is paid for.

    Raises:
        UserError: the address is wrong, or nothing answers there.
    """
    return EndpointEncoder.open(name, terms=terms, of="teacher_", progress=progress, **asdict(config)).keep_paid()


def _distinct(texts: Iterable[str], seen: set[int]) -> Iterator[str]:
    """The texts that were not seen yet, as they are learnt from."""
    for text in texts:
        content = text.strip()
        if content and (key := hash(content)) not in seen:
            seen.add(key)
            yield content
