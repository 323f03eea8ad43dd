"""The moving parts of stage 2: student, pairs, optimiser, and one step of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ibkd_retrieval.distill.config import FinetuneSettings
from ibkd_retrieval.distill.data.schedule import BatchSchedule, PairBatch, PairTexts
from ibkd_retrieval.distill.data.tokens import training_tokens
from ibkd_retrieval.distill.objectives.base import LossTerms
from ibkd_retrieval.distill.objectives.functional import infonce
from ibkd_retrieval.distill.training.log import StepTimes
from ibkd_retrieval.distill.training.optimizer import Encoded, adamw, take_step
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.teacher.soft_labels import SoftLabels
    from ibkd_retrieval.encoders.encoder import Encoder


class FinetuneRun:
    """Contrast of queries with passages, soft labels, and forgetting."""

    def __init__(
        self,
        student: SentenceTransformer,
        texts: PairTexts,
        settings: FinetuneSettings,
        labels: SoftLabels | None,
        progress: Progress,
    ) -> None:
        import torch

        from ibkd_retrieval.distill.training.student_module import StudentModule

        torch.manual_seed(settings.seed)
        self.settings, self.texts, self.labels = settings, texts, labels
        self.token_ids = training_tokens(student, texts.texts, settings.max_length, progress)
        longest = np.array([self.token_ids.lengths[positives].max() for positives in texts.positives])
        self.schedule = BatchSchedule(longest, settings.batch_size, settings.seed)
        self.module = StudentModule(student, settings.dtype, freeze_embeddings=settings.freeze_embeddings)
        self.modules: dict[str, torch.nn.Module] = {"student": student}
        rates = [(p, settings.learning_rate) for p in self.module.parameters() if p.requires_grad]
        self.optimizer = adamw(rates, settings.weight_decay)

    rate_option = "--finetune-learning-rate"

    def start(self) -> None:
        """Nothing has to be prepared."""

    def step(self, number: int, *, detailed: bool) -> dict[str, float]:
        """Run one optimiser step and return its figures; the forgetting term's gradient norm when `detailed`."""
        device = str(self.module.model.device)
        return take_step(
            number, self.settings, self.optimizer, self._encode, self.module, device=device, detailed=detailed
        )

    def _encode(self, number: int, times: StepTimes) -> Encoded:
        """Encode batch `number`, counted over all steps."""
        import torch

        from ibkd_retrieval.distill.training.student_module import encode_batch

        settings = self.settings
        batch = self.texts.draw(self.schedule.batch(number), settings.negatives, settings.seed, number)
        with times.part("student"):
            queries, query_inputs = encode_batch(self.module, self.token_ids, batch.queries)
            passages, passage_inputs = encode_batch(self.module, self.token_ids, batch.passages)
            encoded = torch.cat([queries, passages])
            inputs = None
            if query_inputs is not None and passage_inputs is not None:
                inputs = torch.cat([query_inputs, passage_inputs])

        def loss(vectors: torch.Tensor) -> LossTerms:
            with times.part("objective"):
                return self._terms(vectors, inputs, batch, times)

        return Encoded(encoded, loss)

    def _terms(
        self, vectors: torch.Tensor, inputs: torch.Tensor | None, batch: PairBatch, times: StepTimes
    ) -> LossTerms:
        """The mean over the lengths that are to be usable; the parts of the full one."""
        import torch

        dims = self.settings.dims or (vectors.shape[1],)
        unit = torch.nn.functional.normalize
        each = [self._terms_at(unit(vectors[:, :dim], dim=-1), inputs, batch, times) for dim in dims]
        total = torch.stack([terms.total for terms in each]).mean()
        watch = {name: torch.stack([terms.watch[name] for terms in each]).mean() for name in each[0].watch}
        return LossTerms(total, each[0].terms, watch)

    def _terms_at(
        self, vectors: torch.Tensor, inputs: torch.Tensor | None, batch: PairBatch, times: StepTimes
    ) -> LossTerms:
        import torch

        from ibkd_retrieval.distill.objectives.forgetting import forgetting
        from ibkd_retrieval.distill.teacher.soft_labels import soft_label_loss

        settings, n = self.settings, len(batch.queries)
        queries, positives, negatives = vectors[:n], vectors[n : 2 * n], vectors[2 * n :]
        answers = torch.from_numpy(batch.answers).to(vectors.device)
        contrast = infonce(queries, positives, settings.temperature, bank=negatives, duplicate=answers).loss
        total, terms = contrast, {"contrast": contrast.detach()}
        watch: dict[str, torch.Tensor] = {}
        if inputs is not None:
            with times.part("hsic"):
                forgot = forgetting(vectors, inputs, settings.forgetting)
            total, terms = total + forgot.total, terms | forgot.terms
            watch = forgot.watch if settings.hsic_weight else {}
        if self.labels is not None:
            labels = torch.from_numpy(self.labels.logits(batch)).to(vectors.device)
            soft = soft_label_loss(queries @ vectors[n:].T / settings.temperature, labels)
            total, terms["soft"] = total + settings.soft_weight * soft, soft.detach()
        return LossTerms(total, terms, watch)

    def close(self) -> None:
        """Give the student back as it came."""
        self.module.close()

    def untrained(self) -> Encoder:
        """The student as it came, as an encoder of its own."""
        return self.snapshot()

    def snapshot(self) -> Encoder:
        """The student as it would be saved now, as an encoder of its own."""
        return self.module.as_encoder(self.module.model, self.settings.dtype)
