"""Stage 2 of IBKD: fine-tuning on pairs of query and passage, with the forgetting term."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.batches import BatchSchedule, PairBatch, PairTexts
from ibkd_retrieval.distill.data.hard_negatives import mine_negatives, with_negatives
from ibkd_retrieval.distill.data.pairs import PairSet
from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.objectives.base import LossTerms, mean_terms
from ibkd_retrieval.distill.objectives.functional import infonce
from ibkd_retrieval.distill.sections import FinetuneConfig
from ibkd_retrieval.distill.teacher.cache import TeacherVectors
from ibkd_retrieval.distill.teacher.joint import release_large
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.log import StepTimes
from ibkd_retrieval.distill.training.loop import LoopResult, Pace, StageRun, TrainingLoop
from ibkd_retrieval.distill.training.optimizer import StudentRun
from ibkd_retrieval.encoders.cross_encoder import check_cross_encoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.teacher.soft_labels import SoftLabels
    from ibkd_retrieval.distill.training.chunks import EncodedBatch


class FinetuneRun(StudentRun):
    """Stage 2: the student with a contrastive loss, soft labels and the forgetting term."""

    rate_name = "finetune_learning_rate"

    def __init__(
        self,
        student: SentenceTransformer,
        texts: PairTexts,
        config: DistillConfig,
        labels: SoftLabels | None,
        progress: Progress,
        teacher: object = None,
    ) -> None:
        super().__init__(student, texts.texts, config, progress)
        settings, training = config.finetuning, config.training
        self.texts, self.labels = texts, labels
        n = settings.batch_size * (2 + settings.negatives)  # Queries, positives and negatives.
        self.pace = Pace(settings.steps, n * training.accumulate, training)
        longest = np.array([self.token_ids.lengths[positives].max() for positives in texts.positives])
        self.schedule = BatchSchedule(longest, settings.batch_size, training.seed)
        self._optimise([], teacher, n, n * n)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate of the student."""
        return self.config.finetuning.learning_rate

    def forward(self, number: int, times: StepTimes) -> tuple[EncodedBatch, LossTerms]:
        """The student's vectors of a batch of queries and passages, and their loss."""
        chosen, training = self.schedule.batch(number), self.config.training
        batch = self.texts.draw(chosen, self.config.finetuning.negatives, training.seed, number)
        with times.part("student"):
            encoded = self.student.encode(batch.queries, batch.passages)
        with times.part("objective"):
            return encoded, self._terms(encoded.vectors, encoded.inputs, batch, times)

    def _terms(
        self, vectors: torch.Tensor, inputs: torch.Tensor | None, batch: PairBatch, times: StepTimes
    ) -> LossTerms:
        """The mean loss over the Matryoshka dims, with the terms at full length."""
        import torch

        dims = self.config.student.dims or (vectors.shape[1],)
        unit = torch.nn.functional.normalize
        return mean_terms([self._terms_at(unit(vectors[:, :dim], dim=-1), inputs, batch, times) for dim in dims])

    def _terms_at(
        self, vectors: torch.Tensor, inputs: torch.Tensor | None, batch: PairBatch, times: StepTimes
    ) -> LossTerms:
        import torch

        from ibkd_retrieval.distill.objectives.ibkd import forgetting
        from ibkd_retrieval.distill.teacher.soft_labels import soft_label_loss

        settings, n = self.config.finetuning, len(batch.queries)
        queries, positives, negatives = vectors[:n], vectors[n : 2 * n], vectors[2 * n :]
        answers = torch.from_numpy(batch.answers).to(vectors.device)
        contrast = infonce(queries, positives, settings.temperature, bank=negatives, duplicate=answers).loss
        total, terms = contrast, {"contrast": contrast.detach()}
        watch: dict[str, torch.Tensor] = {}
        if inputs is not None:
            with times.part("hsic"):
                forgot = forgetting(vectors, inputs, replace(self.config.objective, hsic_weight=settings.hsic_weight))
            total, terms = total + forgot.total, terms | forgot.terms
            watch = forgot.watch if settings.hsic_weight else {}
        if self.labels is not None:
            labels = torch.from_numpy(self.labels.logits(batch)).to(vectors.device)
            soft = soft_label_loss(queries @ vectors[n:].T / settings.temperature, labels)
            total, terms["soft"] = total + settings.soft_weight * soft, soft.detach()
        return LossTerms(total, terms, watch)


@dataclass(frozen=True)
class FinetuneResult:
    """The result of stage 2.

    Attributes:
        loop: dev figures and times.
        pairs: number of training queries.
        fingerprint: hash of the pairs with their negatives.
        negatives: file with the mined negatives, or None if none were mined.
        negatives_a_query: average number of hard negatives available per query.
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
    config: DistillConfig,
    stage: StageRun,
) -> FinetuneResult:
    """Fine-tune `student` in place.

    Args:
        student: float32 model on its device, ending in Normalize.
        cache: cache of teacher vectors. The teacher gives hard negatives and, if set, soft labels.
        pairs: the training pairs. Queries and passages of the dev set are left out.
        corpus: corpus in which hard negatives are mined, without the dev set.
        dev: the dev set.
        config: the decided configuration.
        stage: where and how the stage runs.

    Raises:
        UserError: there are fewer pairs than a batch, the checkpoint is of another run, or `soft_labels` is not a
            cross-encoder.
        WorkFailed: the loss is no longer a number.
    """
    pairs = usable_pairs(pairs, dev, config.finetuning)
    negatives = mined(pairs, corpus, cache, config.finetuning, dev, stage.progress)
    if negatives is not None:
        pairs = with_negatives(pairs, negatives)
    count = sum(len(pair.negatives) for pair in pairs.pairs)
    stage.progress.say(f"fine-tuning on {len(pairs.pairs):,} queries of {pairs.name} with {count:,} hard negatives")
    texts = PairTexts(pairs.pairs)
    with ranks.in_turn():
        labels, labelled_by = _labels(cache, texts, config, str(student.device), stage.progress)
    release_large(cache.teacher)
    run = FinetuneRun(student, texts, config, labels, stage.progress, cache.teacher)
    identity: dict[str, Any] = {
        "finetuning": config.finetuning_record(),
        "pairs": pairs.fingerprint,
        "soft_labels": labelled_by,
        "arithmetic": [cache.teacher.dtype, run.module.arithmetic],
    }
    try:
        result = TrainingLoop(run, dev, stage, identity).train("fine-tuning")
    finally:
        run.close()
    return FinetuneResult(result, len(pairs.pairs), pairs.fingerprint, negatives, count / len(pairs.pairs))


def mined(
    pairs: PairSet, corpus: Corpus, cache: TeacherVectors, settings: FinetuneConfig, dev: Dev, progress: Progress
) -> Path | None:
    """The file of hard negatives, or None if none are to be mined."""
    if not settings.negatives or pairs.has_negatives:
        return None
    # A step cannot draw more than were mined.
    mining = replace(settings.mining, most=max(settings.mining.most, settings.negatives))

    def mine() -> str:
        folder = cache.folder / "mining"
        nodes = getattr(cache, "nodes", None)
        return str(mine_negatives(pairs, corpus, cache.teacher, folder, mining, progress, dev.texts, nodes))

    return Path(ranks.text_from_first(mine))


def usable_pairs(pairs: PairSet, dev: Dev, settings: FinetuneConfig) -> PairSet:
    """Remove the dev set from the pairs, and check the inputs of stage 2 before training and mining.

    Args:
        pairs: the pairs as given.
        dev: the dev set.
        settings: the settings of stage 2.

    Raises:
        UserError: fewer pairs than a batch are left, a batch is too small, or the soft labels come from no
            cross-encoder.
    """
    pairs = pairs.without(dev.texts)
    if len(pairs.pairs) < settings.batch_size:
        raise UserError(
            f"Only {len(pairs.pairs)} pairs for a batch of {settings.batch_size}: give more pairs or a smaller "
            "`finetune_batch_size`."
        )
    ranks.check_batch(settings.batch_size, "finetune_batch_size")
    if settings.soft_labels not in (None, "teacher"):
        check_cross_encoder(str(settings.soft_labels))
    return pairs


def _labels(
    cache: TeacherVectors, texts: PairTexts, config: DistillConfig, device: str, progress: Progress
) -> tuple[SoftLabels | None, str | None]:
    """The soft labels asked for, and the weight hash of what gives them."""
    settings = config.finetuning
    if settings.soft_labels is None:
        return None, None
    from ibkd_retrieval.distill.teacher.soft_labels import CrossEncoderLabels, CrossEncoderScores, TeacherLabels

    if settings.soft_labels == "teacher":
        return TeacherLabels(cache, texts, settings.temperature, progress), cache.teacher.weight_hash
    scorer = CrossEncoderScores(
        settings.soft_labels,
        cache.folder.parent / "cross-encoders",
        device=device,
        # Query and passage together; re-ranking models read 512 tokens.
        max_length=min(2 * config.training.max_length, 512),
    )
    return CrossEncoderLabels(scorer, texts, progress), scorer.weight_hash
