"""An encoder for MTEB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.similarity_functions import dot_score, pairwise_dot_score
from mteb.types import PromptType

import ibkd_retrieval as ibkd

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class IbkdEncoder:
    """A model of MTEB that encodes as `ibkd_retrieval.Encoder` does, with its prompts, backend and number format.

    Queries get the query prompt. Everything else gets the document prompt. MTEB's own prompts for tasks are not used.

    Args:
        model: an encoder, or a folder or hub name.
        name: the model's name in MTEB's results, as `ORGANISATION/MODEL`.
        options: options of `Encoder.load`, such as `backend="onnx"`.

    Example:
        >>> import mteb  # doctest: +SKIP
        >>> mteb.evaluate(IbkdEncoder("models/mine"), mteb.get_tasks(["SciFact"]))  # doctest: +SKIP
    """

    def __init__(self, model: ibkd.Encoder | Path | str, name: str | None = None, **options: Any) -> None:
        self.encoder = ibkd.Encoder.load(model, **options) if isinstance(model, str | Path) else model
        called = str(self.encoder.name).rstrip("/").rpartition("/")[2]
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name or f"ibkd/{called}",
                "revision": self.encoder.weight_hash[:40],
                "embed_dim": self.encoder.dim,
                "max_tokens": self.encoder.max_length or None,
                "similarity_fn_name": ScoringFunction.DOT_PRODUCT,
                "framework": ["Sentence Transformers"],
            }
        )

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **task: Any) -> NDArray[np.float32]:
        """Encode the texts of a data loader to float32 [n, dim]. `task` says what for, and is not used."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self.encoder.encode(texts, "query" if prompt_type == PromptType.query else "document")

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The inner products [n, m] of vectors [n, dim] and [m, dim]."""
        return dot_score(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The inner products [n] of vectors [n, dim] and [n, dim], row by row."""
        return pairwise_dot_score(embeddings1, embeddings2)
