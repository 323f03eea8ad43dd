"""Hard negatives: passages that the teacher ranks high for a query but that are not judged relevant."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.distill.data.pairs import PairSet
from ibkd_retrieval.distill.data.texts import text_keys
from ibkd_retrieval.distill.sections import MiningSettings
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, is_leftover, sha256_file
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.workers import ShardEncoders
from ibkd_retrieval.indexing.format.writing import only_writer
from ibkd_retrieval.indexing.index import StoredIndex, open_index
from ibkd_retrieval.progress import SILENT, Progress

_WINDOW = 256


@dataclass(frozen=True)
class Negative:
    """A mined negative: the document, its rank among the teacher's results and its score there."""

    id: str
    text: str
    rank: int
    score: float


def mine_negatives(
    pairs: PairSet,
    corpus: Corpus,
    teacher: TextEncoder,
    folder: Path,
    settings: MiningSettings,
    progress: Progress = SILENT,
    exclude: Collection[str] = (),
    nodes: ShardEncoders | None = None,
) -> Path:
    """Find negatives for pairs in a corpus.

    The corpus is indexed with the teacher once. The negatives are kept as JSONL: each line has a query, its positives,
    and its negatives with rank and score. A later run with the same pairs, corpus and settings reuses the file.

    Args:
        pairs: the training pairs. A positive or a copy of it is never a negative.
        corpus: the corpus in which negatives are mined.
        teacher: the teacher that ranks the corpus.
        folder: folder of the index and the negatives.
        settings: the ranks and scores of negatives.
        progress: receives progress reports.
        exclude: texts that must not be negatives, because they are part of the dev set.
        nodes: encoders that encode the corpus in place of `teacher`.

    Returns:
        The file of the negatives, for `with_negatives`.
    """
    index = _teacher_index(corpus, teacher, folder, progress, nodes)
    left_out = sorted({text.strip() for text in exclude})
    seen_by = [pairs.fingerprint, index.manifest.corpus.fingerprint, teacher.weight_hash, asdict(settings)]
    key = json.dumps([*seen_by, hashlib.sha256(text_keys(left_out).tobytes()).hexdigest()])
    path = folder / f"negatives-{hashlib.sha256(key.encode()).hexdigest()[:16]}.jsonl"
    if not path.is_file():
        answers, digest = _Answers(pairs, teacher), hashlib.sha256()
        with atomic_write(path) as file, progress.task("mining negatives", len(pairs.pairs), "queries") as task:
            for start in range(0, len(pairs.pairs), _WINDOW):
                part = PairSet(pairs.name, pairs.pairs[start : start + _WINDOW])
                for pair, found in zip(part.pairs, _mine(part, index, answers, settings, set(left_out)), strict=True):
                    listed = [asdict(negative) for negative in found]
                    record = {"query": pair.query, "positives": pair.positives, "negatives": listed}
                    line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8")
                    digest.update(line)
                    file.write(line)
                task.advance(len(part.pairs))
            with atomic_write(_checksum_of(path)) as checksum:
                checksum.write(digest.hexdigest().encode())
    return path


def _checksum_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def with_negatives(pairs: PairSet, path: Path) -> PairSet:
    """Add mined negatives to pairs, beside those they have.

    Args:
        pairs: the pairs that the negatives were mined for.
        path: the file from `mine_negatives`.

    Raises:
        UserError: the file is damaged.
    """
    checksum = _checksum_of(path)
    # Version 0.1.0 wrote none.
    if checksum.is_file() and checksum.read_bytes() != sha256_file(path).encode():
        raise UserError(f"{path} is damaged: delete it and run again to mine the negatives anew.")
    mined = []
    # Many queries share a negative. Its text is held once.
    texts: dict[str, str] = {}
    with open(path, encoding="utf-8", newline="\n") as file:
        for pair, line in zip(pairs.pairs, file, strict=True):
            found = [texts.setdefault(negative["text"], negative["text"]) for negative in json.loads(line)["negatives"]]
            mined.append(replace(pair, negatives=tuple(dict.fromkeys([*pair.negatives, *found]))))
    return PairSet(pairs.name, tuple(mined))


def _teacher_index(
    corpus: Corpus, teacher: TextEncoder, folder: Path, progress: Progress, nodes: ShardEncoders | None
) -> StoredIndex:
    where = folder / hashlib.sha256(corpus.name.encode()).hexdigest()[:16]
    progress.say(f"hard negatives: the teacher's index of {corpus.name} is kept in {where}")
    waiting = partial(progress.say, "waiting for another run that makes it")
    with only_writer(where, make=True, wait=waiting, say=progress.say):
        stale = where.is_dir() and not all(is_leftover(path) for path in where.iterdir())
        try:
            build_index(corpus, teacher, where, resume=stale, processes=nodes, progress=progress)
        except UserError as error:
            if not stale:
                raise
            progress.say(f"indexing anew: {error}")
            build_index(corpus, teacher, where, overwrite=True, processes=nodes, progress=progress)
        return open_index(where)


class _Answers:
    """The teacher's vectors of positives, part by part. Vectors that a later part needs are kept.

    In some collections a passage answers hundreds of queries. If each query has its own passages, nothing is kept.
    """

    def __init__(self, pairs: PairSet, teacher: TextEncoder) -> None:
        self.teacher = teacher
        self._left = self._uses(pairs)
        self._known: dict[str, NDArray[np.float32]] = {}

    def of(self, part: PairSet) -> dict[str, NDArray[np.float32]]:
        """The vectors [D] of all positives of the next part, by text."""
        wanted = self._uses(part)
        new = [text for text in wanted if text not in self._known]
        self._known.update(zip(new, self.teacher.encode(new, "document"), strict=True))
        found = {text: self._known[text] for text in wanted}
        self._left -= wanted
        # Copies, because a view would keep the vectors of the whole part.
        self._known = {text: vector.copy() for text, vector in self._known.items() if text in self._left}
        return found

    @staticmethod
    def _uses(pairs: PairSet) -> Counter[str]:
        return Counter(text for pair in pairs.pairs for text in dict.fromkeys(pair.positives))


def _mine(
    pairs: PairSet, index: StoredIndex, answers: _Answers, settings: MiningSettings, left_out: set[str]
) -> list[tuple[Negative, ...]]:
    queries = answers.teacher.encode([pair.query for pair in pairs.pairs], "query")
    scores, rows = index.search(queries, min(settings.last, len(index)))
    positives = answers.of(pairs)
    mined = []
    for number, pair in enumerate(pairs.pairs):
        own = np.stack([positives[text] for text in pair.positives])
        ceiling = float((own @ queries[number]).max()) - settings.margin
        found = _below(ceiling, scores[number], rows[number], left_out.union(pair.positives), index, settings)
        mined.append(
            tuple(found[i] for i in np.linspace(0, len(found) - 1, min(settings.most, len(found))).astype(int))
        )
    return mined


def _below(
    ceiling: float,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    left_out: set[str],
    index: StoredIndex,
    settings: MiningSettings,
) -> list[Negative]:
    """The results of one query within the ranks, without those in `left_out` and those that score above `ceiling`."""
    found = []
    for rank in range(settings.first, len(rows) + 1):
        row, score = int(rows[rank - 1]), float(scores[rank - 1])
        if row < 0 or score > ceiling:
            continue
        text = index.document(row).content.strip()
        if text and text not in left_out:
            found.append(Negative(index.doc_id(row), text, rank, score))
    return found
