"""Stage 2 of IBKD: a student learns from pairs of query and passage, and goes on forgetting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.distill.config import FinetuneSettings
from ibkd_retrieval.distill.data.hard_negatives import mine_negatives, with_negatives
from ibkd_retrieval.distill.data.pairs import PairSet
from ibkd_retrieval.distill.data.schedule import PairTexts
from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.teacher.cache import TeacherVectors
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.loop import LoopResult, TrainingLoop
from ibkd_retrieval.distill.training.stage1 import dev_identity
from ibkd_retrieval.distill.training.stage2_run import FinetuneRun
from ibkd_retrieval.encoders.cross_encoder import check_cross_encoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.teacher.soft_labels import SoftLabels


@dataclass(frozen=True)
class FinetuneResult:
    """What stage 2 gave.

    Attributes:
        loop: dev figures and times.
        pairs: queries learnt from.
        fingerprint: of the pairs with their negatives.
        negatives: file that lists the mined negatives, None where none were mined.
        negatives_a_query: hard negatives a query has to draw from, on average.
    """

    loop: LoopResult
    pairs: int
    fingerprint: str
    negatives: Path | None
    negatives_a_query: float


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
    pairs = usable_pairs(pairs, dev, settings)
    mined = None
    if settings.mining is not None and settings.negatives and not pairs.has_negatives:
        # A step cannot draw more than were mined.
        mining = replace(settings.mining, most=max(settings.mining.most, settings.negatives))

        def mine() -> str:
            found = mine_negatives(
                pairs, corpus, cache.teacher, cache.folder / "mining", mining, progress, exclude=dev.texts
            )
            return str(found)

        mined = Path(ranks.text_from_first(mine))
        pairs = with_negatives(pairs, mined)
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
        "arithmetic": [cache.teacher.dtype, run.module.arithmetic],
    }
    try:
        loop = TrainingLoop(
            run, dev, settings.pace, folder, identity, resume=resume, tensorboard=tensorboard, progress=progress
        )
        result = loop.train("fine-tuning")
    finally:
        run.close()
    return FinetuneResult(result, len(pairs.pairs), pairs.fingerprint, mined, count / len(pairs.pairs))


def usable_pairs(pairs: PairSet, dev: Dev, settings: FinetuneSettings) -> PairSet:
    """The pairs that may be learnt from; what would stop stage 2 is told here, before anything is trained or mined.

    Args:
        pairs: as they were given.
        dev: what is watched; its queries and passages are left out.
        settings: the recipe.

    Raises:
        UserError: fewer pairs than a batch are left, a batch is too small, or the soft labels come from no
            cross-encoder.
    """
    pairs = pairs.without(dev.texts)
    if len(pairs.pairs) < settings.batch_size:
        raise UserError(
            f"Only {len(pairs.pairs)} pairs for a batch of {settings.batch_size}: give more pairs or a smaller "
            "--finetune-batch-size."
        )
    ranks.check_batch(settings.batch_size, "--finetune-batch-size")
    if settings.soft_labels not in (None, "teacher"):
        check_cross_encoder(str(settings.soft_labels))
    return pairs


def _labels(
    cache: TeacherVectors, texts: PairTexts, settings: FinetuneSettings, device: str, progress: Progress
) -> tuple[SoftLabels | None, str | None]:
    """The soft labels asked for, and the weight hash of what gives them."""
    if settings.soft_labels is None:
        return None, None
    from ibkd_retrieval.distill.teacher.soft_labels import CrossEncoderLabels, TeacherLabels

    if settings.soft_labels == "teacher":
        return TeacherLabels(cache, texts, settings.temperature, progress), cache.teacher.weight_hash
    from ibkd_retrieval.distill.teacher.cross_encoder_scores import CrossEncoderScores

    scorer = CrossEncoderScores(
        settings.soft_labels,
        cache.folder.parent / "cross-encoders",
        device=device,
        # Query and passage together; re-ranking models read 512 tokens.
        max_length=min(2 * settings.max_length, 512),
    )
    return CrossEncoderLabels(scorer, texts, progress), scorer.weight_hash
