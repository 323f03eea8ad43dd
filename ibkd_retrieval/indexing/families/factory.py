"""A family for any structure that faiss can make, given by its factory string."""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families.family import BuiltStructure, Family, check_range, check_recall
from ibkd_retrieval.indexing.families.search_params import inner_index, is_graph, list_count
from ibkd_retrieval.indexing.families.training import HERE, Making, TrainingPlan, filled, parsed, reason
from ibkd_retrieval.indexing.families.trial import TARGET_RECALL, trial_of, tuned
from ibkd_retrieval.indexing.vectors import VectorSource
from ibkd_retrieval.progress import Progress

_IDS_OR_REFINEMENT = re.compile(r"(^|,)\s*(IDMap2?|RFlat|Refine\b.*)", re.IGNORECASE)
_TRAINING_VECTORS = 65_536
_TRIED_VECTORS = 600
_TRIAL_SECONDS = 120


@functools.cache
def check_string(factory: str, dim: int) -> None:
    """Try a factory string on a few vectors, in a separate process, because some strings crash faiss.

    Raises:
        UserError: faiss does not understand it, or cannot fill, search, write or read such an index.
    """
    parsed(factory, dim)
    # What a list holds does not depend on the number of lists. Few lists need few training vectors.
    few = re.sub(r"IVF(\d+)", lambda found: f"IVF{min(4, int(found[1]))}", factory)
    code = "import sys; from ibkd_retrieval.indexing.families.factory import try_string; try_string(*sys.argv[1:])"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code, few, str(dim)],
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return  # It is slow, but it did not crash.
    if answer.returncode < 0:
        raise UserError(
            f"faiss crashes on the index {factory!r} of vectors of {dim} dimensions "
            f"({signal.Signals(-answer.returncode).name}): change the factory string."
        )
    if answer.returncode:
        said = answer.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise UserError(f"faiss cannot use the index {factory!r} ({said[0]}): change the factory string.")


def try_string(factory: str, dim: str) -> None:
    """Fill, search, write and read an index of a few vectors. On failure, exit with the message of faiss."""
    faiss = load_faiss()
    vectors = np.random.default_rng(0).standard_normal((_TRIED_VECTORS, int(dim)), dtype=np.float32)
    index = parsed(factory, int(dim))
    try:
        index.train(vectors)
    except RuntimeError:
        return  # There may be too few vectors. The build reports the error.
    try:
        index.add(vectors)
        index.search(vectors[:3], 5)
        again = faiss.deserialize_index(faiss.serialize_index(index))
        if (again.ntotal, again.d) != (len(vectors), int(dim)):
            raise RuntimeError(f"it holds {again.ntotal} of {len(vectors)} vectors, of {again.d} dimensions")
    except RuntimeError as error:
        sys.exit(reason(error))


@dataclass(frozen=True)
class Factory:
    """A faiss structure by its factory string, such as `OPQ48,IVF4096,PQ48x4fs`.

    It is trained on 64 vectors per inverted list and at least 65,536, or on all vectors if there are fewer. nprobe (for
    inverted lists), ef_search (for graphs) and refine are chosen by trial.

    Attributes:
        factory: a faiss factory string, without `IDMap` and `RFlat`: the index has ids and refinement already.
        nprobe: inverted lists visited by default. None chooses by trial.
        ef_search: size of the candidate list of a graph by default. None chooses by trial.
        refine: candidates rescored exactly per result by default. None chooses by trial.
        recall: target recall@10 of the trial.
        seed: random seed for the samples.
    """

    name: ClassVar[str] = "factory"

    factory: str = ""
    nprobe: int | None = None
    ef_search: int | None = None
    refine: int | None = None
    recall: float = TARGET_RECALL
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options. The string is parsed when the dimension is known.

        Raises:
            UserError: one is out of range, or the string is empty or has a part that is not needed.
        """
        if not self.factory.strip():
            raise UserError("An index of type factory needs its faiss factory string, as in OPQ48,IVF4096,PQ48x4fs.")
        unwanted = _IDS_OR_REFINEMENT.search(self.factory)
        if unwanted:
            raise UserError(
                f"Leave {unwanted[2]} out of the factory string {self.factory!r}: rows are the ids, and candidates "
                "are refined with the vectors on disk (option refine)."
            )
        check_range(self.name, 1, nprobe=self.nprobe, ef_search=self.ef_search)
        check_range(self.name, 0, refine=self.refine, seed=self.seed)
        check_recall(self.recall)

    def suited_to(self, count: int, progress: Progress) -> Family:
        """This family, which suits any number of documents."""
        return self

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """The codes and links as faiss counts them, without what is stored once.

        Raises:
            UserError: faiss does not understand the string.
        """
        check_string(self.factory, dim)
        index = parsed(self.factory, dim)
        if not is_graph(index):
            try:
                return float(index.sa_code_size())
            except RuntimeError:
                return 4.0 * dim  # faiss does not tell the code size of some graphs. They hold whole vectors.
        graph = inner_index(index)
        return float(graph.storage.sa_code_size() + 4 * graph.hnsw.nb_neighbors(0))

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Train, add, and choose the search parameters by trial.

        Raises:
            UserError: faiss does not understand the string, or cannot train it on these vectors.
        """
        check_string(self.factory, vectors.dim)
        index = parsed(self.factory, vectors.dim)
        lists = list_count(index)
        if self.nprobe is not None and lists is None:
            raise UserError(f"The index {self.factory!r} has no inverted lists: leave out nprobe.")
        if self.ef_search is not None and not is_graph(index):
            raise UserError(f"The index {self.factory!r} is not a graph: leave out ef_search.")
        sample = max(64 * (lists or 0), _TRAINING_VECTORS)
        plan = TrainingPlan(self.factory, vectors.dim, sample, self.seed, device)
        index = filled(plan, vectors, progress, HERE if lists is None else making)
        fixed = SearchParams(self.nprobe, self.refine, self.ef_search)
        trial = trial_of(vectors, self.seed)
        return tuned(index, self.factory, trial, fixed, self.recall, progress, (0, 2, 4, 8, 16, 32))
