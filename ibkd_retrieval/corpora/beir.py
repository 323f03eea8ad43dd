"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each plain or compressed."""

from __future__ import annotations

from pathlib import Path

from ibkd_retrieval.corpora.catalog.registry import queries_are_documents
from ibkd_retrieval.corpora.columns import AUTOMATIC, DOCUMENT, Fields, Reading
from ibkd_retrieval.corpora.line_file import corpus_of_file
from ibkd_retrieval.corpora.qrels import read_qrels
from ibkd_retrieval.corpora.records import Corpus, Judgement, QuerySet
from ibkd_retrieval.corpora.tabular import read_queries
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

_ENDINGS = ("", ".gz", ".zst")
DEFAULT_SPLIT = "test"


def is_beir_folder(folder: Path) -> bool:
    """Whether a folder holds a BEIR corpus."""
    return folder.is_dir() and _variant(folder, "corpus.jsonl") is not None


def beir_splits(folder: Path) -> tuple[str, ...]:
    """Return the splits with judgements in a folder, sorted."""
    found = {path.name.split(".tsv")[0] for ending in _ENDINGS for path in (folder / "qrels").glob(f"*.tsv{ending}")}
    return tuple(sorted(found))


def evaluation_split(folder: Path, preferred: str = DEFAULT_SPLIT) -> str:
    """Return the split for the evaluation of a BEIR folder: the preferred one, else test, else the only one but train.

    A folder with only train is evaluated with train.

    Raises:
        UserError: the folder has no queries.jsonl or no judgements, or several splits are possible.
    """
    _required(folder, "queries.jsonl")
    splits = beir_splits(folder)
    if not splits:
        raise _unjudged(folder, preferred)
    for split in (preferred, DEFAULT_SPLIT):
        if split in splits:
            return split
    others = [split for split in splits if split != "train"] or ["train"]
    if len(others) > 1:
        raise UserError(
            f"{folder} has no judgements for split {preferred}, but for {', '.join(splits)}: rename the file of the one"
            f" to evaluate with to {folder / 'qrels' / preferred}.tsv."
        )
    return others[0]


def open_beir_corpus(folder: Path, name: str, fields: Fields = AUTOMATIC, progress: Progress = SILENT) -> Corpus:
    """Open the documents of a BEIR folder.

    Raises:
        UserError: the folder has no corpus.jsonl.
    """
    path = _required(folder, "corpus.jsonl")
    reading = Reading(DOCUMENT, str(path), fields, progress)
    return corpus_of_file(name, path, reading)


def read_beir_queries(
    folder: Path, split: str, name: str, fields: Fields = AUTOMATIC, progress: Progress = SILENT
) -> QuerySet:
    """Read the judged queries of a split in the order of queries.jsonl, with their judgements.

    Raises:
        UserError: the split or queries.jsonl is missing, a line is malformed, or a judged query has no text.
    """
    judgements = read_beir_qrels(folder, split)
    path = _required(folder, "queries.jsonl")
    missing = dict.fromkeys(judgement.query_id for judgement in judgements)
    judged = set(missing)
    queries = []
    for query in read_queries(path, fields, progress):
        if query.query_id in judged:
            if query.query_id not in missing:
                raise UserError(f"{path}: query {query.query_id} is given twice; remove one of the two.")
            queries.append(query)
            del missing[query.query_id]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of the {len(judged)} queries judged in split {split}, {next(iter(missing))}"
            " first; take both from the same download."
        )
    own = queries_are_documents(folder.name.lower())
    return QuerySet(name, tuple(queries), judgements, queries_are_documents=own)


def read_beir_qrels(folder: Path, split: str) -> tuple[Judgement, ...]:
    """Read the judgements of a split.

    Raises:
        UserError: the folder has no such split (the sentence lists those it has), or a line is malformed.
    """
    path = _variant(folder / "qrels", f"{split}.tsv")
    if path is None:
        splits = beir_splits(folder)
        if not splits:
            raise _unjudged(folder, split)
        named = ", ".join(splits)
        raise UserError(
            f"{folder} has no judgements for split {split}, only for {named}: name one, as in {folder}:{splits[-1]}."
        )
    return read_qrels(path)


def _unjudged(folder: Path, split: str) -> UserError:
    return UserError(f"{folder} has no judgements; put them into {folder / 'qrels' / split}.tsv.")


def _required(folder: Path, name: str) -> Path:
    path = _variant(folder, name)
    if path is None:
        raise UserError(
            f"{folder} is no BEIR folder: it has no {name} (nor {name}.gz or .zst); name a folder that has one,"
            " or one of .txt and .md files."
        )
    return path


def _variant(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}{ending}" for ending in _ENDINGS)
    return next((path for path in candidates if path.is_file()), None)
