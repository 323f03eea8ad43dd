"""The interface of an encoder for the other rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ibkd_retrieval.progress import Task

Kind = Literal["query", "document"]


@dataclass(frozen=True)
class TokenWindow:
    """Texts that are tokenised together.

    Attributes:
        start: the position of the first text in the caller's list.
        lengths: the number of tokens of each text, [n].
        token_ids: the token ids of each text. For a static model, one array with the ids of all texts.
        prompt_length: the number of prompt tokens that pooling leaves out.
        texts: the texts, where sentence-transformers tokenises them during encoding.
        kind: "document" or "query".
    """

    start: int
    lengths: Sequence[int]
    token_ids: Sequence[NDArray[np.int32]]
    prompt_length: int = 0
    texts: Sequence[str] = ()
    kind: Kind = "document"


@dataclass(frozen=True)
class PreparedTexts:
    """`count` texts prepared by an encoder. Only the same encoder can read them."""

    count: int
    windows: tuple[TokenWindow, ...]


class TextEncoder(Protocol):
    """Turns texts into vectors.

    Attributes:
        name: the hub name or folder of the model.
        weight_hash: the hash of everything that decides the vectors: weights, pooling, length and modules.
        dim: the length of a vector.
        max_length: the most tokens of a text. Longer texts are cut. 0 means no limit.
        prompts: the text before a query and before a document, "" for none.
        pooling: "mean", "cls" or "lasttoken" where the user chose it, else None.
        dtype: the number format of the transformer ("float32", "bfloat16", ...).
        device: "cpu", "cuda", ...
    """

    @property
    def name(self) -> str:
        """The hub name or folder of the model."""

    @property
    def weight_hash(self) -> str:
        """The hash of everything that decides a vector."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def max_length(self) -> int:
        """The most tokens of a text."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """The text before a query and before a document."""

    @property
    def pooling(self) -> str | None:
        """The pooling that the user chose, else None."""

    @property
    def dtype(self) -> str:
        """The number format of the transformer."""

    @property
    def device(self) -> str:
        """The torch device."""

    def encode(
        self, texts: Sequence[str], kind: Kind = "document", progress: Task | None = None
    ) -> NDArray[np.float32]:
        """Encode `texts` [n] into float32 vectors [n, dim], in the order given."""


@runtime_checkable
class PreparingEncoder(TextEncoder, Protocol):
    """An encoder that can tokenise while it encodes."""

    def prepare(self, texts: Sequence[str], kind: Kind = "document") -> PreparedTexts:
        """Tokenise `texts`. It may run in parallel with `encode_prepared`, but not with itself or `encode`."""

    def encode_prepared(self, prepared: PreparedTexts, progress: Task | None = None) -> NDArray[np.float32]:
        """Encode prepared texts [n] into the same vectors [n, dim] as `encode`."""
