"""The token ids of millions of texts, in a few bytes a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.encoders.tokens import excluded_prompt_length, pad, tokenize
from ibkd_retrieval.encoders.weights import prompt_of
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.data.texts import TrainingTexts

# Texts tokenised at a time: a tokenizer's own records are some hundred bytes a token.
_WINDOW = 8192


class TokenIds:
    """Token ids text by text, in one array."""

    def __init__(self, parts: Sequence[NDArray[np.int32]], lengths: Sequence[int], prompts: NDArray[np.int64]) -> None:
        """Join `parts`, whose texts have `lengths` tokens, the first `prompts` of which pooling leaves out."""
        self.prompts = prompts
        self._ids = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
        self._ends = np.cumsum(np.asarray(lengths, dtype=np.int64))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, [n]."""
        return np.diff(self._ends, prepend=0)

    def __len__(self) -> int:
        return len(self._ends)

    def features(self, model: SentenceTransformer, positions: NDArray[np.int64]) -> dict[str, Any]:
        """The texts at `positions` as the student module reads them."""
        import torch

        if is_static(model):
            texts = [self[int(position)] for position in positions]
            offsets = np.cumsum([0, *(len(text) for text in texts[:-1])])
            flat = {"input_ids": np.concatenate(texts).astype(np.int64), "offsets": offsets.astype(np.int64)}
            return {name: torch.from_numpy(array).to(model.device) for name, array in flat.items()}
        features = pad(model, [self[int(position)] for position in positions])
        prompts = self.prompts[positions]
        return features | ({"prompt_lengths": torch.from_numpy(prompts).to(model.device)} if prompts.any() else {})

    def __getitem__(self, position: int) -> NDArray[np.int32]:
        start = self._ends[position - 1] if position else 0
        return self._ids[start : self._ends[position]]


def training_tokens(
    student: SentenceTransformer, texts: TrainingTexts, max_length: int, progress: Progress = SILENT
) -> TokenIds:
    """Tokenise documents, then queries, each after the student's prompt for its kind.

    Args:
        student: the student, which gives tokenizer, prompts and length limit. It is not changed.
        texts: the texts to tokenise.
        max_length: maximum number of tokens of a text, if the student's own limit is not lower.
        progress: receives the number of texts done.

    Raises:
        UserError: a text cannot be tokenised.
    """
    static = is_static(student)
    limit = student.max_seq_length
    if not static:
        student.max_seq_length = min(max_length, limit or max_length)
    parts: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    prompts: list[NDArray[np.int64]] = []
    try:
        with progress.task("tokenising", len(texts), "texts") as task:
            for part, prompt in (
                (texts.documents, prompt_of(student, "document")),
                (texts.queries, prompt_of(student, "query")),
            ):
                prompts.append(np.full(len(part), excluded_prompt_length(student, prompt), dtype=np.int64))
                for start in range(0, len(part), _WINDOW):
                    window = part[start : start + _WINDOW]
                    ids = tokenize(student, window, prompt, first=start)
                    if static:
                        # A static model has no limit of its own to set.
                        ids = [one[:max_length] for one in ids]
                    lengths += [len(one) for one in ids]
                    parts.append(np.fromiter((token for one in ids for token in one), dtype=np.int32))
                    task.advance(len(ids))
    finally:
        if not static:
            student.max_seq_length = limit
    return TokenIds(parts, lengths, np.concatenate(prompts))
