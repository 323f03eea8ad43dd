"""Lookup of the data sets with a short name: their sources and their metrics."""

from __future__ import annotations

import difflib

from ibkd_retrieval.corpora.catalog.known_sets import TABLE, KnownSet
from ibkd_retrieval.corpora.catalog.on_disk import catalogued_ids
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
