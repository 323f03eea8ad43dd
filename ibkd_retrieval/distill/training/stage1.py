"""Stage 1 of IBKD: a student learns a frozen teacher's vectors from unlabelled text."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.batches import BatchSchedule
from ibkd_retrieval.distill.data.texts import KeyIndex, TrainingTexts, text_keys
from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.objectives import TEXT_BY_TEXT, build_objective
from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, OwnMaps, Sizes
from ibkd_retrieval.distill.student import finished_model, stretch_output
from ibkd_retrieval.distill.teacher.cache import StepVectors, TeacherVectors
from ibkd_retrieval.distill.teacher.joint import release_large
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.log import StepTimes
from ibkd_retrieval.distill.training.loop import LoopResult, Pace, StageRun, TrainingLoop
from ibkd_retrieval.distill.training.optimizer import StudentRun
from ibkd_retrieval.distill.training.table_fit import MOST_TEXTS, fitted_table
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.students import is_static, principal_directions
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.objectives.projection import Projection
    from ibkd_retrieval.distill.training.chunks import EncodedBatch

_START_SAMPLE, _START_BATCH = 4_096, 256
_DIRECTIONS_SAMPLE = 32_768
_TIMED_STEPS = 6


def check_enough(texts: TrainingTexts, batch_size: int) -> None:
    """Check that the texts fill a batch, and that each process has a text of it.

    Raises:
        UserError: they do not.
    """
    if len(texts) < batch_size:
        raise UserError(
            f"Only {len(texts)} texts for a batch of {batch_size}: give more text or a smaller `batch_size`."
        )
    ranks.check_batch(batch_size, "batch_size")


class TrainingRun(StudentRun):
    """Stage 1: the student, the teacher's vectors and the objective."""

    rate_name = "learning_rate"

    def __init__(
        self,
        student: SentenceTransformer,
        cache: TeacherVectors,
        texts: TrainingTexts,
        config: DistillConfig,
        progress: Progress,
    ) -> None:
        import torch

        settings, objective = config.training, config.objective
        check_enough(texts, settings.batch_size)
        self.cache = cache
        with ranks.in_turn():
            self.rows = np.concatenate(
                [cache.rows(texts.documents, "document", progress), cache.rows(texts.queries, "query", progress)]
            )
        release_large(cache.teacher)
        super().__init__(student, texts, config, progress)
        self.pace = Pace(settings.steps, settings.batch_size * settings.accumulate, settings)
        self._read_bank(texts)
        self.schedule = BatchSchedule(self.token_ids.lengths, settings.batch_size, settings.seed)
        sizes = Sizes(int(student.get_embedding_dimension() or 0), cache.dim)
        self.objective = build_objective(objective, sizes, config.student.dims).to(self.device)
        self._keeps_cosines = objective.projection == "isometry"
        if self._keeps_cosines and (projection := self._projection()) is not None:
            projection.weight.requires_grad_(False)
        self.modules["objective"] = self.objective
        self._before: torch.nn.ModuleDict | None = None
        if settings.merge:
            self._before = copy.deepcopy(torch.nn.ModuleDict(self.modules)).requires_grad_(False)
            self.modules["before"] = self._before
        rates = [(p, objective.projection_learning_rate) for p in self.objective.parameters() if p.requires_grad]
        n = settings.batch_size
        self._optimise(rates, cache.teacher, n, n * (n + min(settings.bank_size, len(self.bank_rows))))

    def _read_bank(self, texts: TrainingTexts) -> None:
        # The bank is drawn from the texts of this run, in their order. The order of the cache depends on earlier runs.
        _, first_seen = np.unique(self.rows, return_index=True)
        first_seen = np.sort(first_seen)
        self.bank_rows = self.rows[first_seen]
        # A query and a document with the same text are one text, though a teacher with prompts has two vectors of it.
        keys = text_keys([*texts.documents, *texts.queries])
        self._texts = KeyIndex(keys).find(keys)
        self._bank_texts = self._texts[first_seen]
        self._vectors = StepVectors(self.cache, self.bank_rows, self.device)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate of the student."""
        return self.config.training.learning_rate

    def start(self) -> None:
        """Initialise W to fit the untrained student. A random W would first make the student worse.

        A static student that was made of its teacher is itself fitted first, see `fitted_table`.
        W is the least-squares map from the student's vectors to the teacher's, or the nearest isometry. If an objective
        fixes W at the teacher's principal directions, the student's last linear layer gets that map instead.
        A Matryoshka student that keeps its cosines is rotated to its own principal directions, because their prefixes
        lose least: all-MiniLM-L6-v2 truncated to 128 of 384 dimensions has 0.607 nDCG@10 on SciFact's training queries
        this way, 0.588 with the teacher's directions, and 0.597 without rotation. An objective without W initialises
        its own maps.
        """
        if is_static(self.module.model) and not self.config.student.trained_before:
            self._start_table()
        self._start_maps()
        if self._before is not None:
            for name, module in self._before.items():
                module.load_state_dict(self.modules[name].state_dict())

    def _start_table(self) -> None:
        import torch

        order = np.random.default_rng([self.config.training.seed, 6]).permutation(len(self.rows))[:MOST_TEXTS]
        # The mean of a text without tokens is 0, whatever the table.
        chosen = order[self.token_ids.lengths[order] > 0]
        table: Any = cast(Any, self.module.model[0]).embedding.weight
        fitted = fitted_table(
            table.detach().cpu().numpy(), self.token_ids, chosen, self.cache.vectors(self.rows[chosen])
        )
        with torch.no_grad():
            table.copy_(torch.from_numpy(fitted))

    def _start_maps(self) -> None:
        from ibkd_retrieval.distill.objectives.projection import least_squares, nearest_isometry

        order = np.random.default_rng([self.config.training.seed, 4]).permutation(len(self.rows))
        chosen = order[:_START_SAMPLE]
        student, teacher = self._student_vectors(chosen), self.cache.vectors(self.rows[chosen])
        projection = self._projection()
        if projection is None:
            cast(OwnMaps, self.objective).start(student, teacher)
            return
        match = nearest_isometry if self._keeps_cosines else least_squares
        if not self.config.needs_output_layer:
            projection.set(match(student, teacher))
        elif self._keeps_cosines and self.config.objective.name != "hpd":
            directions = principal_directions(student, student.shape[1])
            stretch_output(self.module.model, directions)
            projection.set(nearest_isometry(student @ directions.T, teacher))
        else:
            sample = self.cache.vectors(self.rows[order[:_DIRECTIONS_SAMPLE]])
            directions = principal_directions(sample, projection.weight.shape[1])
            projection.hold(directions)
            stretch_output(self.module.model, match(student, teacher @ directions.T).astype(np.float32))

    def _student_vectors(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        parts = range(0, len(positions), _START_BATCH)
        return np.concatenate([self.student.vectors(positions[start : start + _START_BATCH]) for start in parts])

    def forward(self, number: int, times: StepTimes) -> tuple[EncodedBatch, LossTerms]:
        """The student's vectors of a batch, and the objective's loss of them and the teacher's vectors."""
        positions = self.schedule.batch(number)
        with times.part("student"):
            encoded = self.student.encode(positions)
        with times.part("teacher"):
            batch = self._batch(number, positions, encoded.vectors, encoded.inputs, times)
        with times.part("objective"):
            terms: LossTerms = self.objective(batch)
        return encoded, terms

    def _batch(self, number: int, positions: Any, student: Any, inputs: Any, times: StepTimes) -> Batch:
        import torch

        teacher = self._vectors.at(self.rows[positions])
        if self.config.objective.name in TEXT_BY_TEXT:
            return Batch(student, teacher, inputs, None, None, times)
        texts = self._texts[positions]
        candidates, bank, bank_size = texts, None, self.config.training.bank_size
        if bank_size:
            drawn = self.schedule.bank(number, bank_size, len(self.bank_rows))
            bank = self._vectors.at(self.bank_rows[drawn])
            candidates = np.concatenate([texts, self._bank_texts[drawn]])
        same = texts[:, None] == candidates[None, :]
        same[np.arange(len(texts)), np.arange(len(texts))] = False
        duplicate = torch.from_numpy(same).to(self.device) if same.any() else None
        return Batch(student, teacher, inputs, bank, duplicate, times)

    def projection(self) -> NDArray[np.float32] | None:
        """The current W [D, d], or None if the objective has no W."""
        return _weight(self._projection())

    def _projection(self) -> Projection | None:
        found: Projection | None = getattr(self.objective, "projection", None)
        return found

    def snapshot(self) -> Encoder:
        """A copy of the student as it would be saved now, as an encoder."""
        student, projection = self.module.model, self._projection()
        if self._before is not None:
            student, objective = copy.deepcopy((student, self.objective))
            self._merge({"student": student, "objective": objective})
            projection = getattr(objective, "projection", None)
        finished = finished_model(student, _weight(projection), self.config).model
        return self.module.as_encoder(finished, self.config.training.dtype)

    def finish(self) -> None:
        """Average the trained and the untrained weights, if the settings say so."""
        self._merge(self.modules)

    def _merge(self, modules: Mapping[str, torch.nn.Module]) -> None:
        import torch

        if self._before is None:
            return
        with torch.no_grad():
            for name, module in self._before.items():
                for trained, before in zip(modules[name].parameters(), module.parameters(), strict=True):
                    trained.lerp_(before, self.config.training.merge)


def _weight(projection: Projection | None) -> NDArray[np.float32] | None:
    return None if projection is None else projection.weight.detach().cpu().float().numpy().copy()


def step_seconds(
    student: SentenceTransformer,
    cache: TeacherVectors,
    texts: TrainingTexts,
    config: DistillConfig,
    progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of a step here: the mean of a few steps of a copy of the student, from the shortest texts to the longest.

    Args:
        student: the untrained student.
        cache: cache of teacher vectors. Missing vectors are computed first, and not timed.
        texts: the training texts.
        config: the decided configuration.
        progress: receives the progress of the teacher vectors.
        clock: tells the seconds.
    """
    run = TrainingRun(copy.deepcopy(student), cache, texts, config, progress)
    each, batch, lengths = config.training.accumulate, run.schedule.batch, run.token_ids.lengths
    epoch = range(max(1, run.schedule.steps_per_epoch // each))
    # A batch holds texts of similar length, so steps differ.
    tokens = [sum(lengths[batch(each * step + part)].sum() for part in range(each)) for step in epoch]
    places = (2 * np.arange(_TIMED_STEPS) + 1) * len(epoch) // (2 * _TIMED_STEPS)
    seconds = []
    try:
        for step in np.argsort(tokens, kind="stable")[[places[-1], *places]].tolist():
            began = clock()
            run.step(step, detailed=False)
            seconds.append(clock() - began)
    finally:
        run.close()
    return float(ranks.from_first(lambda: np.array(np.mean(seconds[1:]))))


@dataclass(frozen=True)
class TrainingResult(LoopResult):
    """The result of training, with W [D, d] in float32, or None if the objective has no W."""

    projection: np.ndarray[Any, np.dtype[np.float32]] | None


def train_student(
    student: SentenceTransformer,
    cache: TeacherVectors,
    texts: TrainingTexts,
    dev: Dev,
    config: DistillConfig,
    stage: StageRun,
) -> TrainingResult:
    """Train `student` in place.

    Args:
        student: float32 model on its device.
        cache: cache of teacher vectors. Missing vectors are computed first.
        texts: the training texts.
        dev: the dev set.
        config: the decided configuration.
        stage: where and how the stage runs.

    Raises:
        UserError: fewer texts than a batch, or a checkpoint of another run.
        WorkFailed: the loss is no longer a number.
    """
    run = TrainingRun(student, cache, texts, config, stage.progress)
    identity = {
        "settings": config.distilling_record(),
        "texts": texts.fingerprint,
        "teacher": cache.teacher.weight_hash,
        "arithmetic": [cache.teacher.dtype, run.module.arithmetic],
    }
    try:
        result = TrainingLoop(run, dev, stage, identity).train("distilling")
        run.finish()
    finally:
        run.close()
    return TrainingResult(result.dev, result.history, result.seconds, result.texts_per_second, run.projection())
