"""Opening of the documents, queries and judgements that the user names or gives.

A source is a spec, a path, or Python objects. A spec is one of `pydocs`, `pydocs:train` and `pydocs:test`, a BEIR
folder with or without `:split`, a file, a short name from the registry, or an ir_datasets id. They are tried in that
order, so a local copy comes before a download of the same name. A file may lie in an object store (`s3://`, `gs://`).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora import beir, in_memory, irds, pydocs
from ibkd_retrieval.corpora.catalog.known_sets import KnownSet
from ibkd_retrieval.corpora.catalog.registry import KNOWN_SETS, find_known, queries_are_documents, why_not_alone
from ibkd_retrieval.corpora.columns import DOCUMENT, Fields, Reading
from ibkd_retrieval.corpora.line_file import corpus_of_file
from ibkd_retrieval.corpora.qrels import read_qrels
from ibkd_retrieval.corpora.records import Corpus, Judgement, QuerySet
from ibkd_retrieval.corpora.tabular import (
    is_tabular,
    read_documents,
    read_queries,
    text_files,
)
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import absolute
from ibkd_retrieval.progress import Progress, as_progress
from ibkd_retrieval.stores import StoreFile, address_of

Source = str | os.PathLike[str] | Corpus | QuerySet | Iterable[Any]
"""A name or a collection of documents, queries or judgements."""


def open_corpus(
    source: Source,
    progress: bool | Progress = False,
    *,
    id_field: str | None = None,
    text_field: str | Sequence[str] | None = None,
    title_field: str | None = None,
) -> Corpus:
    """Open the documents of a source. Nothing is fetched before they are read.

    The name of a corpus from a path is the absolute path, so that its queries are found from any folder. A BEIR folder
    may have a split. It selects the evaluation queries, and the documents are the same. The name of a corpus from
    Python is a hash of its documents.

    Args:
        source: a data set's name (`scifact`), a file or a folder, a file in an object store (`s3://BUCKET/NAME`), or
            the documents themselves: an iterable of
            `Document` records, of dicts with the keys of a JSON line, of (id, text) or (id, title, text), or of
            texts, whose ids are then 0, 1, ...; a dict from ids to texts or dicts; or a pandas table. A generator
            is put into a list, as documents are read more than once.
        progress: True for bars, or an object that shows the source and the fields.
        id_field: the id field in files, dicts and tables. The default is the usual names.
        text_field: the text field. The texts of several fields are joined by a space.
        title_field: the title field. Encoders read the title before the text.

    Returns:
        The corpus, whose `documents()` reads it from the start.

    Raises:
        UserError: there is no such corpus, or a document has no id or no text.

    Example:
        >>> corpus = open_corpus(["a boat on the river", {"_id": "d7", "text": "milk and cheese", "year": 1999}])
        >>> [(document.doc_id, document.text) for document in corpus.documents()]
        [('0', 'a boat on the river'), ('d7', 'milk and cheese')]
        >>> corpus.count
        2
    """
    progress = as_progress(progress)
    fields = Fields.of(id_field, text_field, title_field)
    if isinstance(source, Corpus):
        _refuse_fields(fields, source.name)
        return source
    spec = _spec(source)
    if spec is None:
        return in_memory.corpus_of(source, fields, progress)  # type: ignore[arg-type]
    path, split = (None, "") if pydocs.is_pydocs(spec) else _local(spec)
    if path is not None and path.is_dir() and (split or beir.is_beir_folder(path) or not text_files(path)):
        return beir.open_beir_corpus(path, f"{path}:{split}" if split else str(path), fields, progress)
    if path is not None:
        if path.is_file() and not is_tabular(path):
            next(read_documents(path))  # raises an error that lists the suffixes
        reading = Reading(DOCUMENT, str(path), fields, progress)
        return corpus_of_file(str(path), path, reading)
    _refuse_fields(fields, spec)
    if pydocs.is_pydocs(spec):
        return pydocs.open_pydocs(spec, progress)
    known = find_known(spec)
    _refuse_what_cannot_be_opened(known)
    if known is not None or irds.has_dataset(spec):
        return irds.open_irds_corpus(known.corpus if known else spec, spec, progress)
    raise _unknown(spec, "corpus")


def open_queries(
    source: Source,
    need_judgements: bool = False,
    progress: bool | Progress = False,
    *,
    qrels: Source | None = None,
    qrels_threshold: float | None = None,
    id_field: str | None = None,
    text_field: str | Sequence[str] | None = None,
) -> QuerySet:
    """Read the queries of a source, with its judgements.

    Args:
        source: as for `open_corpus`, with `Query` records; a BEIR folder without a split and a short name mean their
            evaluation queries.
        need_judgements: whether to require judgements and to leave out queries without them.
        progress: True for messages, or an object that shows the fields.
        qrels: judgements that replace those of the source, in a form that `open_qrels` reads. They may name a query
            by its text.
        qrels_threshold: the grade from which a document is relevant (1, else 0), for judgements with fractional
            weights.
        id_field: the id field in files, dicts and tables. The default is the usual names.
        text_field: the text field. The texts of several fields are joined by a space.

    Returns:
        The queries in the order of the source.

    Raises:
        UserError: there are no such queries, a line is malformed, or judgements are needed and missing.

    Example:
        >>> asked = open_queries({"q1": "boats", "q2": "cheese"}, qrels={"q1": {"0": 1}})
        >>> asked.queries
        (Query(query_id='q1', text='boats'), Query(query_id='q2', text='cheese'))
        >>> asked.judgements
        (Judgement(query_id='q1', doc_id='0', relevance=1),)
    """
    progress = as_progress(progress)
    fields = Fields.of(id_field, text_field, None)
    if qrels is not None:
        asked = _read_queries(source, False, progress, fields)
        judgements = open_qrels(qrels, qrels_threshold=qrels_threshold, progress=progress)
        return judged_by(asked, judgements, need_judgements)
    asked = _read_queries(source, need_judgements, progress, fields)
    return judged_by(asked, asked.judgements, True) if need_judgements else asked


def _read_queries(source: Source, need_judgements: bool, progress: Progress, fields: Fields) -> QuerySet:
    if isinstance(source, QuerySet):
        _refuse_fields(fields, source.name)
        return source
    spec = _spec(source)
    if spec is None:
        return in_memory.queries_of(source, fields, progress)  # type: ignore[arg-type]
    path, split = (None, "") if pydocs.is_pydocs(spec) else _local(spec)
    if path is not None and path.is_dir() and (split or beir.is_beir_folder(path) or not text_files(path)):
        split = split or beir.DEFAULT_SPLIT
        return beir.read_beir_queries(path, split, f"{path}:{split}", fields, progress)
    if path is not None:
        if need_judgements:
            raise UserError(f"{path} holds queries without judgements: name a qrels file with `qrels`.")
        own = queries_are_documents(path.parent.name.lower())
        queries = tuple(read_queries(path, fields, progress))
        often = Counter(query.query_id for query in queries)
        repeated = next((name for name in often if often[name] > 1), None)
        if repeated is not None:
            raise UserError(f"{path}: query id {repeated} appears twice; choose another `id_field`.")
        return QuerySet(str(path), queries, queries_are_documents=own)
    _refuse_fields(fields, spec)
    if pydocs.is_pydocs(spec):
        return pydocs.read_pydocs_queries(spec, progress)
    _refuse_what_cannot_be_opened(find_known(spec))
    dataset_id = _queries_id(spec)
    if dataset_id is None:
        raise _unknown(spec, "queries")
    return irds.read_irds_queries(dataset_id, spec, need_judgements)


def open_qrels(
    source: Source, *, qrels_threshold: float | None = None, progress: bool | Progress = False
) -> tuple[Judgement, ...]:
    """Read judgements from a qrels file, from the queries of a spec, or from Python.

    Args:
        source: a file, a spec, a `QuerySet`, a dict of dicts `{query: {document: grade}}`, or an iterable of
            `Judgement` records, tuples (query id, document id, grade) or dicts with `query_id`, `doc_id` and
            `relevance`.
        qrels_threshold: the grade from which a document is relevant (1, else 0). It is needed for fractional grades.
        progress: True for messages, or an object that shows the columns.

    Raises:
        UserError: there are none, or a line is malformed.

    Example:
        >>> open_qrels({"q1": {"d1": 2, "d2": 0}})
        (Judgement(query_id='q1', doc_id='d1', relevance=2), Judgement(query_id='q1', doc_id='d2', relevance=0))
    """
    progress = as_progress(progress)
    if isinstance(source, QuerySet):
        return source.judgements
    spec = _spec(source)
    if spec is None:
        return tuple(in_memory.judgements_of(source, qrels_threshold))  # type: ignore[arg-type]
    path, split = None, ""
    if not pydocs.is_pydocs(spec):
        path, split = _local(spec)
    if path is not None and path.is_dir():
        return beir.read_beir_qrels(path, split or beir.DEFAULT_SPLIT)
    if path is not None:
        return read_qrels(path, qrels_threshold, progress)
    return open_queries(spec, need_judgements=True).judgements


def _spec(source: Source) -> str | None:
    """Return the text that names a source, None where the source holds the records itself."""
    if isinstance(source, os.PathLike):
        if (address := address_of(source)) is not None:
            return address
        return str(absolute(os.fspath(source)))  # a path is not a data set name
    return source if isinstance(source, str) else None


def judged_by(asked: QuerySet, judgements: Sequence[Judgement], judged_only: bool = False) -> QuerySet:
    """Return the queries with these judgements. They may name a query by its text, as click logs do.

    Args:
        asked: the queries.
        judgements: the judgements.
        judged_only: whether to leave out queries without judgements.

    Raises:
        UserError: there are no judgements, or none is for these queries. The message has examples of both.
    """
    if not judgements:
        raise UserError(f"{asked.name} holds queries without judgements: give them as `qrels`.")
    ids = {query.query_id for query in asked.queries}
    judged = {judgement.query_id for judgement in judgements}
    if not judged & ids:
        by_text = {" ".join(query.text.split()).lower(): query.query_id for query in asked.queries}
        named = {name: by_text.get(" ".join(name.split()).lower()) for name in judged}
        known = ((named[each.query_id], each) for each in judgements)
        judgements = [each._replace(query_id=name) for name, each in known if name is not None]
        if not judgements:
            examples = ", ".join(sorted(judged)[:3])
            raise UserError(
                f"none of the {len(asked.queries):,} queries of {asked.name} is judged: queries are called"
                f" {', '.join(query.query_id for query in asked.queries[:3])}, and judgements are of {examples}."
            )
        judged = {judgement.query_id for judgement in judgements}
    queries = tuple(query for query in asked.queries if query.query_id in judged) if judged_only else asked.queries
    return dataclasses.replace(asked, queries=queries, judgements=tuple(judgements))


def _refuse_fields(fields: Fields, source: str) -> None:
    if fields.chosen:
        raise UserError(
            f"the fields of {source} are known: leave out `id_field`, `text_field` and `title_field`, which are for"
            " files, dicts and tables."
        )


def queries_for(corpus_name: str) -> str:
    """Return the spec of the evaluation queries of a corpus, by its `Corpus.name`.

    Raises:
        UserError: none are known.
    """
    if corpus_name.startswith(in_memory.PREFIX):
        raise UserError("the corpus was given from Python, without queries: give them as `queries`.")
    if corpus_name == "pydocs:train":
        raise UserError(
            "pydocs:train has no evaluation queries, as it holds none of the test documents: index pydocs or"
            ' pydocs:test, or name queries, as in `queries="pydocs:train"`.'
        )
    if pydocs.is_pydocs(corpus_name):
        return "pydocs:test"
    if (
        _looks_like_path(corpus_name)
        and address_of(corpus_name) is None
        and not absolute(corpus_name).exists()
        and not absolute(corpus_name.rpartition(":")[0]).is_dir()
    ):
        raise UserError(f"the corpus {corpus_name} is no longer there, nor are its queries: name some as `queries`.")
    path, split = _local(corpus_name)
    if path is not None and path.is_dir():
        return f"{path}:{split or beir.DEFAULT_SPLIT}"
    if path is None and not _looks_like_path(corpus_name):
        dataset_id = _queries_id(corpus_name)
        if dataset_id is not None and irds.has_judgements(dataset_id):
            return corpus_name if dataset_id == corpus_name or corpus_name in KNOWN_SETS else dataset_id
    raise UserError(f"no evaluation queries are known for the corpus {corpus_name}: name them as `queries`.")


def _refuse_what_cannot_be_opened(known: KnownSet | None) -> None:
    reason = why_not_alone(known) if known is not None else None
    if reason is not None:
        raise UserError(reason)


def _queries_id(spec: str) -> str | None:
    """Return the ir_datasets id of the queries of a short name or id, None where there is no such data set."""
    if spec in KNOWN_SETS:
        return KNOWN_SETS[spec].queries or None
    if not irds.has_dataset(spec):
        return None
    known: KnownSet | None = find_known(spec)
    return known.queries if known is not None and not irds.has_judgements(spec) else spec


def _local(spec: str) -> tuple[Path | None, str]:
    """Return the absolute path of the existing file or folder, and the split after the colon, "" for none.

    A folder without a BEIR corpus does not hide a data set of the same name.

    Raises:
        UserError: the spec can only be a path and does not exist, or a file has a split.
    """
    if not spec.strip():
        raise UserError("the name of a corpus or of queries is empty: name a file, a folder, a data set or pydocs.")
    if (address := address_of(spec)) is not None:
        return StoreFile(address), ""
    whole = absolute(spec)
    if whole.is_symlink() and not whole.exists():
        raise UserError(f"{whole} is a link to {os.readlink(whole)}, which is not there: name a file that is there.")
    if whole.exists():
        return (None, "") if _is_hidden_by_name(spec, whole) else (whole, "")
    before, colon, split = spec.rpartition(":")
    if colon and before and os.sep not in split:
        folder = absolute(before)
        if folder.is_file():
            raise UserError(f"{folder} is a file and has no split {split!r}: leave out :{split}.")
        if folder.is_dir():
            if not split:
                raise UserError(
                    f"{spec}: no split behind the colon; name one of {', '.join(beir.beir_splits(folder))}."
                )
            return folder, split
    if _looks_like_path(spec):
        raise UserError(f"there is no file or folder {whole}{_nearby(whole)}; check the path.")
    return None, ""


def _is_hidden_by_name(spec: str, path: Path) -> bool:
    return path.is_dir() and not beir.is_beir_folder(path) and (spec in KNOWN_SETS or irds.has_dataset(spec))


def _looks_like_path(spec: str) -> bool:
    return spec.startswith(("/", "./", "../", "~")) or is_tabular(Path(spec.strip())) or spec.endswith("/")


def _nearby(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in os.scandir(path.parent))
    except OSError:
        return f" (nor a folder {path.parent})"
    close = difflib.get_close_matches(path.name, names, n=3)
    return f" (there is {', '.join(close)})" if close else ""


def _unknown(spec: str, what: str) -> UserError:
    candidates = sorted({*KNOWN_SETS, "pydocs", "pydocs:train", "pydocs:test", *irds.dataset_ids()})
    close = difflib.get_close_matches(spec.lower(), candidates, n=3)
    advice = f"did you mean {' or '.join(close)}?" if close else "name a file, a BEIR folder, msmarco or pydocs."
    return UserError(
        f"unknown {what} {spec!r}: there is no file or folder {absolute(spec)}, no short name and no ir_datasets id"
        f" like it; {advice}"
    )
