"""A batch encoded in chunks: the gradients of the whole batch, in bounded memory.

The loss of a batch needs all its vectors, but not all intermediate results at once. Texts are encoded chunk by chunk.
The last chunks keep their intermediate results for the backward pass. The others are encoded a second time, when the
gradient of the loss in their vectors is known. The student has no dropout, so the second pass gives the same vectors.
Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv 2101.06983.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.encoders.device import give_freed_memory_back
from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.encoders.tokens import token_budget_batches
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.memory import resident_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from ibkd_retrieval.distill.data.batches import TokenIds
    from ibkd_retrieval.distill.data.texts import TrainingTexts
    from ibkd_retrieval.distill.training.student_module import StudentModule

USUAL_MEMORY = 2_000_000_000
"""Memory of a process on a CPU, in bytes, if none is given. Models and texts that need more get more."""
LIBRARIES = 900_000_000
"""Memory of torch, transformers, the evaluation and the rest of the program, in bytes."""
# A larger chunk is a little faster. A smaller one leaves more of the memory for what is kept.
_CHUNK_TOKENS, _GPU_CHUNK_TOKENS = (4096, 2048), (65_536,)
# Memory by that of the intermediate results. The backward pass adds gradients. Whole batches leave gaps in the heap, as
# they differ in length.
_OF_CHUNK, _OF_KEPT, _OF_WHOLE = 2.0, 1.1, 2.0
# The share of the limit above which freed memory is given back, and how much larger the process should be than without.
_FULL, _WORTH = 0.8, 1.25
# Matrices of similarities that a loss holds at once: logits, their softmax and gradients, and kernels.
_SCORES = 8


@dataclass(frozen=True)
class ChunkPlan:
    """How batches are split.

    Attributes:
        tokens: maximum number of tokens of a chunk, with padding. None never splits.
        kept: maximum number of tokens, with padding, whose intermediate results are kept for the backward pass.
        memory: limit in bytes of this process. None sets none.
    """

    tokens: int | None = None
    kept: int = 0
    memory: int | None = None


class ChunkedStudent:
    """Encodes batches with a student, chunk by chunk."""

    def __init__(self, module: StudentModule, token_ids: TokenIds, plan: ChunkPlan) -> None:
        self.module, self.plan = module, plan
        self._token_ids, self._lengths = token_ids, token_ids.lengths
        self._full = math.inf if plan.memory is None else _FULL * plan.memory

    def encode(self, *groups: NDArray[np.int64]) -> EncodedBatch:
        """Encode groups of texts by their positions. Each process encodes its share of every group."""
        return EncodedBatch(self, groups)

    def vectors(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Unit vectors [n, d] of texts that this process encodes alone."""
        out = np.empty((len(positions), int(self.module.model.get_embedding_dimension() or 0)), dtype=np.float32)
        with torch.no_grad():
            for rows in self.chunks(positions):
                out[rows] = self.forward(positions[rows])[0].cpu().numpy()
        return out

    def forward(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """The vectors and the input representation of one chunk."""
        found: tuple[Tensor, Tensor | None] = self.module(self._token_ids.features(self.module.model, positions))
        return found

    def chunks(self, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows of `positions` by chunk, the longest texts first. A batch that fits is one chunk, in its own order."""
        if self.plan.tokens is None or self.padded(positions) <= self.plan.tokens:
            return [np.arange(len(positions))]
        return list(token_budget_batches(self._lengths[positions].tolist(), self.plan.tokens))

    def tidy(self) -> None:
        """Return what is free to the system when the process is nearly at its limit.

        Batches differ in length, so the heap gets gaps. New pages take time, so this is not done after every batch.
        """
        if math.isfinite(self._full) and resident_bytes() > self._full:
            give_freed_memory_back()
            # Where something else fills the memory, giving back in every step would not help.
            self._full = max(self._full, _WORTH * resident_bytes())

    def padded(self, positions: NDArray[np.int64]) -> int:
        """Number of tokens of a chunk, with padding."""
        return len(positions) * int(self._lengths[positions].max(initial=0))


class EncodedBatch:
    """The vectors of a batch, and the way back from their gradient to the student's.

    Attributes:
        vectors: unit vectors [n, d] of all groups, a leaf that receives the gradient of the loss.
        inputs: the input representation [n, e] without gradient. None for a static student.
    """

    def __init__(self, student: ChunkedStudent, groups: Sequence[NDArray[np.int64]]) -> None:
        self._student = student
        # Positions of the texts of each chunk, and their rows in the batch of all processes.
        self._chunks: list[NDArray[np.int64]] = []
        self._rows: list[NDArray[np.int64]] = []
        count = 0
        for group in groups:
            own = np.arange(len(group))[ranks.share(len(group))]
            for rows in student.chunks(group[own]):
                self._chunks.append(group[own[rows]])
                self._rows.append(count + own[rows])
            count += len(group)
        self._again = self._encoded_again()
        with torch.no_grad():
            again = [student.forward(chunk) for chunk in self._chunks[: self._again]]
        # The kept chunks share one copy of the weights in the number format of the computation.
        with student.module.casting():
            kept = [student.forward(chunk) for chunk in self._chunks[self._again :]]
        self._graphs = [vectors for vectors, _ in kept]
        vectors = [vectors.detach() for vectors, _ in (*again, *kept)]
        inputs = [embedded for _, embedded in (*again, *kept) if embedded is not None]
        self.vectors = ranks.gather(vectors, self._rows, count).requires_grad_(True)
        self.inputs = ranks.gather(inputs, self._rows, count) if inputs else None

    def _encoded_again(self) -> int:
        """Number of chunks whose intermediate results are not kept. The last chunks are kept."""
        plan = self._student.plan
        if plan.tokens is None or len(self._chunks) == 1:
            return 0
        sizes = [self._student.padded(chunk) for chunk in self._chunks]
        return sum(sum(sizes[number:]) > plan.kept for number in range(len(sizes)))

    def backward(self) -> None:
        """Add the gradient of the student's parameters, from that of `vectors`."""
        gradient = self.vectors.grad
        if gradient is None:
            raise ValueError("there is no gradient yet: call backward of a loss of the vectors")
        parts = [gradient]
        if len(self._rows) > 1 or ranks.count() > 1:
            parts = [gradient[torch.from_numpy(rows).to(gradient.device)] for rows in self._rows]
        if self._graphs:
            torch.autograd.backward(self._graphs, parts[self._again :])
            self._graphs.clear()
        for chunk, part in zip(self._chunks[: self._again], parts, strict=False):
            self._student.forward(chunk)[0].backward(part)  # type: ignore[no-untyped-call]
        self._student.tidy()


def plan_chunks(module: StudentModule, token_ids: TokenIds, texts: int, memory: int | None, fixed: int) -> ChunkPlan:
    """Choose chunks that keep within the memory. Equal arguments give equal chunks, so that a resumed run is the same.

    Args:
        module: the student.
        token_ids: the training texts.
        texts: number of texts of a batch. The processes share them.
        memory: limit in bytes of this process, or of the GPU's memory it takes. None is `USUAL_MEMORY` on a CPU, or
            more if the models need it, and no limit on a GPU.
        fixed: memory of everything else, in bytes.

    Raises:
        UserError: the limit is too low for one text.
    """
    on_cpu = module.model.device.type == "cpu"
    if is_static(module.model) or (memory is None and not on_cpu):
        return ChunkPlan()
    longest = int(token_ids.lengths.max())
    a_token = graph_bytes(module, token_ids)
    limit = USUAL_MEMORY if memory is None else memory
    free = limit - fixed
    if _OF_WHOLE * a_token * math.ceil(texts / ranks.count()) * longest <= free:
        return ChunkPlan(memory=limit if on_cpu else None)
    sizes, least = _CHUNK_TOKENS if on_cpu else _GPU_CHUNK_TOKENS, _OF_CHUNK * a_token * longest
    if memory is None:
        free = max(free, int(_OF_CHUNK * a_token * max(sizes[-1], longest)))
    elif free < least:
        raise UserError(
            f"`memory={memory / 1e6:.0f}MB` is too little: the program, the models, the texts and the loss take about "
            f"{fixed / 1e6:,.0f}MB and training on one text {least / 1e6:,.0f}MB; give at least "
            f"{math.ceil((fixed + least) / 1e8) * 100}MB."
        )
    for size in sizes:
        tokens = max(longest, min(size, int(free / 2 / (_OF_CHUNK * a_token))))
        kept = int((free - _OF_CHUNK * a_token * tokens) / (_OF_KEPT * a_token))
        if kept >= math.ceil(texts / ranks.count()) * longest:
            break
    return ChunkPlan(tokens, kept, max(limit, fixed + free) if on_cpu else None)


def graph_bytes(module: StudentModule, token_ids: TokenIds) -> float:
    """Bytes of intermediate results for each token of the longest text, measured on two and on four copies of it."""
    longest = int(token_ids.lengths.argmax())

    def kept(copies: int) -> int:
        sizes: dict[int, int] = {}
        alive = []

        def note(tensor: Tensor) -> Tensor:
            alive.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            module(token_ids.features(module.model, np.full(copies, longest)))
        return sum(sizes.values())

    return (kept(4) - kept(2)) / 2 / int(token_ids.lengths[longest])


def fixed_bytes(
    modules: Iterable[torch.nn.Module], teacher: object, texts: TrainingTexts, token_ids: TokenIds, scores: int
) -> int:
    """About how much memory a run takes apart from the student's intermediate results, in bytes.

    Args:
        modules: student and objective. What is trained has a gradient and two moments of the optimiser.
        teacher: the teacher, which is in memory unless it was released.
        texts: the training texts.
        token_ids: their tokens.
        scores: number of similarities that the loss computes for a batch.
    """
    parameters = {p: 4 if p.requires_grad else 1 for module in modules for p in module.parameters()}
    weights = sum(copies * p.numel() * p.element_size() for p, copies in parameters.items())
    strings = sum(len(text) + 60 for part in (texts.documents, texts.queries) for text in part)
    tokens = 4 * int(token_ids.lengths.sum()) + 64 * len(token_ids)
    return LIBRARIES + weights + int(getattr(teacher, "held_bytes", 0)) + strings + tokens + 4 * _SCORES * scores
