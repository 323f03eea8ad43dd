"""Lookup of the data sets with a short name: their sources, their metrics, and their files on disk.

The catalogue of ir_datasets is read without importing the package, which makes folders and takes time.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ibkd_retrieval.corpora.catalog.known_sets import TABLE, KnownSet
from ibkd_retrieval.errors import UserError

KNOWN_SETS: dict[str, KnownSet] = {known.name: known for known in TABLE}


def find_known(spec: str) -> KnownSet | None:
    """Return the set with this short name, else the first whose documents have this ir_datasets id."""
    return KNOWN_SETS.get(spec) or next((known for known in TABLE if spec and known.corpus == spec), None)


def known_set(name: str) -> KnownSet:
    """Return the set with this short name, or with documents of this ir_datasets id.

    Raises:
        UserError: there is none; the sentence has names like it.
    """
    known = find_known(name)
    if known is not None:
        return known
    if name in catalogued_ids():
        raise UserError(f"{name} is an ir_datasets id without a short name: use it as it is, as `corpus` or `queries`.")
    close = difflib.get_close_matches(name.lower(), KNOWN_SETS, n=3)
    advice = f"did you mean {' or '.join(close)}?" if close else "`datasets()` lists those there are."
    raise UserError(f"unknown data set {name!r}: no set of that name is known; {advice}")


def parts_of(known: KnownSet) -> tuple[KnownSet, ...]:
    """Return the parts of a known set, or the set itself where it has no parts."""
    return tuple(KNOWN_SETS[part] for part in known.parts) or (known,)


def why_not_alone(known: KnownSet) -> str | None:
    """Return why a known set cannot be opened by its name, with an alternative. None where it can.

    Sets of parts with their own documents cannot be opened, nor sets that ir_datasets lacks.
    """
    if known.parts:
        listed = ", ".join(known.parts)
        return f"{known.name} is the average of {len(known.parts)} sets: name one of {listed}."
    if known.obtain:
        return (
            f"{known.name} cannot be fetched ({known.licence}): {known.obtain}, write them as a BEIR folder, and give"
            " that as `corpus` and `queries`."
        )
    return None


def relevance_level_of(dataset_id: str) -> int:
    """Return the lowest relevant grade for an ir_datasets id: 2 for TREC Deep Learning passages, else 1."""
    return 2 if dataset_id.startswith("msmarco-passage") and "/trec-dl-" in dataset_id else 1


def queries_are_documents(name: str) -> bool:
    """Whether each query of a set is a document of its corpus: by a short name, an ir_datasets id or a folder's name.

    This is true for ArguAna and Quora. Published figures exclude the query's own document from its results.
    """
    known = KNOWN_SETS.get(name) or next(
        (known for known in TABLE if known.corpus and f"{name}/".startswith(f"{known.corpus}/")), None
    )
    return known is not None and known.queries_are_documents


def main_metric(spec: str) -> str:
    """Return the main metric for a corpus or queries spec. The default is nDCG@10."""
    known = find_known(spec) or next((known for known in TABLE if spec and known.queries == spec), None)
    if known is None and spec.startswith("msmarco-passage") and "/trec-dl-" not in spec:
        return "mrr@10"
    return known.metric if known else "ndcg@10"


Entity = Literal["docs", "queries", "qrels"]


def catalogued_ids() -> frozenset[str]:
    """Return the ids of the bundled catalogue."""
    return frozenset(_bundled("metadata.json"))


def entry_count(dataset_id: str, entity: Entity) -> int | None:
    """Return the number of documents, queries or judgements of an ir_datasets id, None where it is unknown."""
    catalogue = _bundled("metadata.json")
    entry = catalogue.get(dataset_id, {}).get(entity, {})
    while "_ref" in entry:
        entry = catalogue.get(entry["_ref"], {}).get(entity, {})
    count = entry.get("count")
    return count if isinstance(count, int) else None


def download_places(collection: str, source: str) -> tuple[str, ...]:
    """Return the paths where ir_datasets looks for a file before it fetches it, relative to its home.

    Args:
        collection: the first part of an id, as in `beir`.
        source: the name of the file in the downloads of the collection, as in `scifact`.
    """
    entry = _bundled("downloads.json").get(collection, {}).get(source, {})
    places = []
    if "cache_path" in entry:
        places.append(f"{collection}/{entry['cache_path']}")
    if "expected_md5" in entry:
        places.append(f"downloads/{entry['expected_md5']}")
    return tuple(places)


@functools.cache
def _bundled(name: str) -> dict[str, Any]:
    spec = importlib.util.find_spec("ir_datasets")
    if spec is None or spec.origin is None:
        raise UserError("ir_datasets is not installed: install this project again, which requires it.")
    contents: dict[str, Any] = json.loads((Path(spec.origin).parent / "etc" / name).read_text("utf-8"))
    return contents


_Places = tuple[tuple[str, ...], ...]
"""Alternative sets of files, relative to the home of ir_datasets. One complete set is enough."""

_PASSAGES = "msmarco-passage"


class OnDisk(NamedTuple):
    """Whether a data set can be read without fetching anything."""

    documents: bool
    queries: bool


def on_disk(known: KnownSet, home: Path) -> OnDisk:
    """Whether the documents, and the evaluation queries with their judgements, are in ir_datasets' home folder."""
    return OnDisk(_any_is_whole(_document_places(known), home), _any_is_whole(_query_places(known), home))


def kept_folder(known: KnownSet, home: Path) -> Path:
    """Return the folder of ir_datasets with the files of the set and of sets with the same documents."""
    collection = known.corpus.split("/")[0]
    return home / (known.corpus if collection in ("beir", "nano-beir") else collection)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder, 0 where it does not exist."""
    return sum(os.path.getsize(os.path.join(parent, name)) for parent, _, names in os.walk(folder) for name in names)


def _any_is_whole(places: _Places, home: Path) -> bool:
    return any(all((home / file).exists() for file in files) for files in places)


def _document_places(known: KnownSet) -> _Places:
    collection = known.corpus.split("/")[0]
    if collection == _PASSAGES:
        # ir_datasets deletes a collection without a version file as outdated.
        return (f"{_PASSAGES}/collection.tsv", f"{_PASSAGES}/irds_version.txt"), *_archive("collectionandqueries")
    if collection == "lotte":
        return (f"lotte/lotte_extracted/{known.corpus}/collection.tsv",), *_archive("source", collection)
    built = (f"{known.corpus}/docs.pklz4/bin.pos",)
    if collection == "nano-beir":
        return built, (f"{known.corpus}/corpus.parquet",)
    return built, *_beir_archive(known)


def _query_places(known: KnownSet) -> _Places:
    collection = known.corpus.split("/")[0]
    if collection == _PASSAGES:
        return _passage_query_places(known)
    if collection == "lotte":
        kind = known.queries.rsplit("/", 1)[-1]
        folder = f"lotte/lotte_extracted/{known.corpus}"
        return (f"{folder}/questions.{kind}.tsv", f"{folder}/qas.{kind}.jsonl"), *_archive("source", collection)
    if collection == "nano-beir":
        return ((f"{known.corpus}/queries.parquet", f"{known.corpus}/qrels.parquet"),)
    return (f"{known.corpus}/queries.json", f"{known.corpus}/{known.split}.qrels"), *_beir_archive(known)


def _passage_query_places(known: KnownSet) -> _Places:
    folder = known.queries.removesuffix("/judged")
    queries = "queries.tsv.gz" if folder.endswith("trec-dl-2020") else "queries.tsv"
    files = (f"{folder}/{queries}", f"{folder}/qrels")
    return (files, *_archive("collectionandqueries")) if folder.endswith("dev/small") else (files,)


def _archive(source: str, collection: str = _PASSAGES) -> _Places:
    return tuple((place,) for place in download_places(collection, source))


def _beir_archive(known: KnownSet) -> _Places:
    name = known.corpus.removeprefix("beir/")
    return _archive("cqadupstack" if name.startswith("cqadupstack/") else name, "beir")
