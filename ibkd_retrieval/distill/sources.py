"""Opens what a run learns from: corpus, queries, dev set, pairs, and the vectors of a teacher without a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.columns import Fields
from ibkd_retrieval.corpora.records import Corpus, QuerySet
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.pairs import PairSet, judged_pairs, pairs_of, read_pairs
from ibkd_retrieval.distill.teacher.given_vectors import GivenVectors
from ibkd_retrieval.distill.teacher.vectors import VectorTeacher
from ibkd_retrieval.files import absolute
from ibkd_retrieval.progress import Progress


def open_sources(
    corpus: Any, queries: Any, dev: Any, config: DistillConfig, cache_root: Path, progress: Progress
) -> dict[str, Any]:
    """Open corpus, queries, dev set and pairs for the pipeline. A corpus that several share is opened once."""
    data = config.data
    opened: dict[str, Corpus] = {}

    def documents(source: Any) -> Corpus:
        if not isinstance(source, str):
            return open_corpus(source, progress)
        if source not in opened:
            opened[source] = open_corpus(source, progress)
        return opened[source]

    fields: Any = {name: getattr(data, name) for name in ("id_field", "text_field", "title_field")}
    found: dict[str, Any] = {"queries": None if queries is None else open_queries(queries, progress=progress)}
    if corpus is not None:
        found["corpus"] = open_corpus(corpus, progress, **fields) if any(fields.values()) else documents(corpus)
    teacher = None
    if config.vectors is not None:
        named = Fields.of(**fields)
        teacher = _given_teacher(config, found.get("corpus"), found["queries"], named, cache_root, progress)
        found |= {"vectors": teacher, "corpus": teacher.corpus, "queries": teacher.queries}
    if dev is not None:
        # Judgements given from Python refer to the training corpus.
        found["dev_corpus"] = documents(_corpus_of(dev)) if isinstance(dev, str | os.PathLike) else found["corpus"]
        found["dev_queries"] = open_queries(dev, need_judgements=True, progress=progress)
        if teacher is not None:
            found["dev_corpus"] = teacher.having(found["dev_corpus"])
            found["dev_queries"] = teacher.having_queries(found["dev_queries"], progress)
    if data.pairs is not None:
        found["pairs"], found["pair_corpus"] = _open_pairs(data.pairs, documents, progress)
    return found


def _given_teacher(
    config: DistillConfig,
    corpus: Corpus | None,
    queries: QuerySet | None,
    fields: Fields,
    folder: Path,
    progress: Progress,
) -> VectorTeacher:
    """The teacher of which there are only vectors, with the texts that have one."""
    # The columns that are named are those of the corpus, if there is one beside the vectors.
    own = fields if corpus is None else Fields()
    column, asked = config.data.vector_field, config.data.query_vectors
    documents = GivenVectors(str(config.vectors), corpus, fields=own, vector_field=column)
    of_queries = None if asked is None else GivenVectors(asked, queries, "query", vector_field=column)
    return VectorTeacher(documents, of_queries, folder, queries, progress)


def _open_pairs(source: Any, documents: Any, progress: Progress) -> tuple[PairSet, Corpus | None]:
    """Open pairs from a file, or from judged queries and their corpus. Hard negatives come from that corpus too."""
    if isinstance(source, PairSet):
        return source, None
    if not isinstance(source, str | os.PathLike):
        return pairs_of(source), None
    if absolute(os.fspath(source)).is_file():
        return read_pairs(absolute(os.fspath(source)).resolve()), None
    corpus = documents(_corpus_of(source))
    return judged_pairs(corpus, open_queries(source, need_judgements=True), progress), corpus


def _corpus_of(queries: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The corpus of a query set: the same name, without the split of a BEIR folder."""
    if not isinstance(queries, str):
        return queries
    folder, _, _ = queries.rpartition(":")
    return folder if folder and Path(folder).is_dir() else queries
