"""Stage 2 of IBKD: a student learns from pairs of query and passage, and goes on forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.distill import ranks
from ibkd_retrieval.distill.dev import Dev
from ibkd_retrieval.distill.finetune_run import FinetuneRun
from ibkd_retrieval.distill.finetune_settings import FinetuneSettings
from ibkd_retrieval.distill.hard_negatives import mine_negatives
from ibkd_retrieval.distill.loop import LoopResult, TrainingLoop
from ibkd_retrieval.distill.pair_batches import PairTexts
from ibkd_retrieval.distill.pairs import PairSet
from ibkd_retrieval.distill.teacher_cache import TeacherVectors
from ibkd_retrieval.distill.train import dev_identity
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.soft_labels import SoftLabels


@dataclass(frozen=True)
class FinetuneResult:
    """What stage 2 gave.

    Attributes:
        loop: dev figures and times.
        pairs: queries learnt from.
        fingerprint: of the pairs with their negatives.
        negatives: file that lists the mined negatives, None where none were mined.
    """

    loop: LoopResult
    pairs: int
    fingerprint: str
    negatives: Path | None


def finetune_student(
    student: SentenceTransformer,
    cache: TeacherVectors,
    pairs: PairSet,
    corpus: Corpus,
    dev: Dev,
    settings: FinetuneSettings,
    folder: Path,
    origin: str,
    *,
    resume: bool = False,
    tensorboard: Path | None = None,
    progress: Progress = SILENT,
) -> FinetuneResult:
    """Fine-tune `student` in place.

    Args:
        student: float32 model on its device, ending in Normalize.
        cache: vectors of the teacher, whose ranking gives hard negatives and whose scores may be soft labels.
        pairs: what to learn from; queries and passages of the dev set are left out.
        corpus: where hard negatives are mined, among what is not of the dev set.
        dev: what to watch.
        settings: the recipe.
        folder: where checkpoints and the log go.
        origin: how the student was made; a resumed run must say the same.
        resume: go on from the newest checkpoint in `folder`, if there is one.
        tensorboard: folder for event files, None for none.
        progress: told of everything.

    Raises:
        UserError: fewer pairs than a batch, a checkpoint of another run, or a cross-encoder that is none.
        WorkFailed: the loss is no longer a number.
    """
    pairs = pairs.without(dev.texts)
    mined = None
    if settings.mining is not None and settings.negatives and not pairs.has_negatives:
        with ranks.in_turn():
            pairs, mined = mine_negatives(
                pairs, corpus, cache.teacher, cache.folder / "mining", settings.mining, progress, exclude=dev.texts
            )
    count = sum(len(pair.negatives) for pair in pairs.pairs)
    progress.say(f"fine-tuning on {len(pairs.pairs):,} queries of {pairs.name} with {count:,} hard negatives")
    texts = PairTexts(pairs.pairs)
    with ranks.in_turn():
        labels, labelled_by = _labels(cache, texts, settings, str(student.device), progress)
    run = FinetuneRun(student, texts, settings, labels, progress)
    identity: dict[str, Any] = {
        "finetuning": settings.as_dict(),
        "pairs": pairs.fingerprint,
        "dev": dev_identity(dev),
        "soft_labels": labelled_by,
        "student": origin,
    }
    try:
        loop = TrainingLoop(
            run, dev, settings.pace, folder, identity, resume=resume, tensorboard=tensorboard, progress=progress
        )
        result = loop.train("fine-tuning")
    finally:
        run.close()
    return FinetuneResult(result, len(pairs.pairs), pairs.fingerprint, mined)


def _labels(
    cache: TeacherVectors, texts: PairTexts, settings: FinetuneSettings, device: str, progress: Progress
) -> tuple[SoftLabels | None, str | None]:
    """The soft labels asked for, and the weight hash of what gives them."""
    if settings.soft_labels is None:
        return None, None
    from ibkd_retrieval.distill.soft_labels import CrossEncoderLabels, TeacherLabels

    if settings.soft_labels == "teacher":
        return TeacherLabels(cache, texts, settings.temperature, progress), cache.teacher.weight_hash
    from ibkd_retrieval.distill.cross_encoder import CrossEncoderScores

    scorer = CrossEncoderScores(
        settings.soft_labels,
        cache.folder.parent / "cross-encoders",
        device=device,
        # Query and passage together; re-ranking models read 512 tokens.
        max_length=min(2 * settings.max_length, 512),
    )
    return CrossEncoderLabels(scorer, texts, progress), scorer.weight_hash
