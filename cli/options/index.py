"""What the options of `ibkd index` ask for, and which of them contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .common import INDEXES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.indexing.families import Family, Option


def check_job(
    jobs: Mapping[str, object], encoding: Mapping[str, object], structure: Mapping[str, object], output: Path | None
) -> None:
    """Refuse options that contradict each other.

    Raises:
        UserError: names them.
    """
    from ibkd_retrieval.errors import UserError

    given = [option for option, value in jobs.items() if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are different jobs: give one of them.")
    if not given:
        return
    (job,) = given
    if job in ("--append", "--delete"):
        refuse(job, structure)
        if output is None:
            raise UserError(f"{job} changes a finished index: name it with --output.")
    if job == "--append":
        if encoding["--corpus"] is None:
            raise UserError("--append adds the documents of a corpus: name it with --corpus.")
    else:
        # The structure is trained on the device, whatever encoded its vectors.
        refuse(job, {option: value for option, value in encoding.items() if job == "--delete" or option != "--device"})
    if job == "--merge" and output is None:
        raise UserError("--merge makes a new index: name its folder with --output.")


def refuse(job: str, options: Mapping[str, object]) -> None:
    """Refuse options that were given and that a job has no use for.

    Raises:
        UserError: names them.
    """
    from ibkd_retrieval.errors import UserError

    given = [option for option, value in options.items() if value not in (None, False)]
    if given:
        raise UserError(f"{', '.join(given)} {'say' if len(given) > 1 else 'says'} nothing to {job}: leave out.")


def chosen_family(
    type: str | None, chosen: Mapping[str, Option], budget: Mapping[str, float | None], resumed: Path | None = None
) -> Family:
    """The family named, or where only what it is to reach is given, one that is chosen by trial.

    Args:
        type: as the option says.
        chosen: options of the family that were given.
        budget: of a choice by trial.
        resumed: the index that is gone on with, whose own family it is where nothing is given.

    Raises:
        UserError: there is no such family or option, or a budget is given without --recall.
    """
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.indexing.families import family_named
    from ibkd_retrieval.indexing.families.wanted import Wanted

    given = [option for option, value in budget.items() if value is not None]
    if type is None and set(chosen) == {"recall"}:
        memory, latency = budget["--memory-per-vector"], budget["--latency"]
        return Wanted(float(chosen["recall"] or 0), None if memory is None else int(memory), latency)
    if given:
        raise UserError(
            f"{' and '.join(given)} bound the choice of a type by trial: give --recall with them, and no --type nor "
            "options of one."
        )
    if resumed is not None and type is None and not chosen:
        from ibkd_retrieval.indexing.building.plan import begun_family

        begun = begun_family(resumed)
        if begun is not None:
            return begun
    return family_named(type or ("factory" if "factory" in chosen else "flat"), **chosen)


def settled_family(family: Family, corpus: Corpus) -> Family:
    """What the family becomes where the documents are too few for it, so that the folder's name tells the truth."""
    from itertools import islice

    from ibkd_retrieval.indexing.families.family import FEWEST_DOCUMENTS
    from ibkd_retrieval.progress import SILENT

    few = corpus.count
    if few is None:
        few = sum(1 for _ in islice(corpus.documents(), FEWEST_DOCUMENTS))
    return family.suited_to(few, SILENT)


def folder_beside(source: Path, family: Family) -> Path:
    """A folder's name for another index of the vectors of `source`."""
    from ibkd_retrieval.indexing.format.manifest import read_manifest
    from ibkd_retrieval.progress import SILENT

    manifest = read_manifest(source)
    name = source.resolve().name.removesuffix(f"-{manifest.family}")
    return INDEXES / f"{name}-{family.suited_to(manifest.document_count, SILENT).name}"
