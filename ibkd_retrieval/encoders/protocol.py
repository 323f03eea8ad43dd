"""What the other rooms ask of an encoder."""

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
    """Texts tokenised together, the first of which is number `start` of the caller's.

    Attributes:
        lengths: tokens of each text, [n].
        token_ids: of each text; of a static model, which needs no padding, those of all texts in one array.
        prompt_length: tokens of the prompt that pooling leaves out.
        texts: the texts themselves, where sentence-transformers is to tokenise them as it encodes.
        kind: of the texts.
    """

    start: int
    lengths: Sequence[int]
    token_ids: Sequence[NDArray[np.int32]]
    prompt_length: int = 0
    texts: Sequence[str] = ()
    kind: Kind = "document"


@dataclass(frozen=True)
class PreparedTexts:
    """`count` texts as an encoder prepared them; only the encoder that did understands them."""

    count: int
    windows: tuple[TokenWindow, ...]


class TextEncoder(Protocol):
    """Turns texts into vectors.

    Attributes:
        name: the hub name or folder it was loaded from.
        weight_hash: hex digest of the weights and of what else decides the vectors (pooling, length, modules).
        dim: length of a vector.
        max_length: tokens read of a text, the rest is cut; 0 where all is read.
        prompts: text put before a query and before a document ("" where the model asks for none).
        pooling: "mean" or "cls" where the user chose it over what the model says, else None.
        dtype: number format of the transformer's arithmetic ("float32", "bfloat16", ...).
        device: "cpu", "cuda", ...
    """

    @property
    def name(self) -> str:
        """The hub name or folder it was loaded from."""

    @property
    def weight_hash(self) -> str:
        """Hex digest of all that decides a vector."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def max_length(self) -> int:
        """Tokens read of a text."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """Text put before a query and before a document."""

    @property
    def pooling(self) -> str | None:
        """How token vectors become one, where the user chose it."""

    @property
    def dtype(self) -> str:
        """Number format of the transformer's arithmetic."""

    @property
    def device(self) -> str:
        """Where it computes."""

    def encode(
        self, texts: Sequence[str], kind: Kind = "document", progress: Task | None = None
    ) -> NDArray[np.float32]:
        """Encode `texts` [n] into float32 vectors [n, dim], in the order given."""


@runtime_checkable
class PreparingEncoder(TextEncoder, Protocol):
    """An encoder whose tokenising can run beside its encoding."""

    def prepare(self, texts: Sequence[str], kind: Kind = "document") -> PreparedTexts:
        """Tokenise `texts`; safe beside `encode_prepared`, not beside itself or `encode`."""

    def encode_prepared(self, prepared: PreparedTexts, progress: Task | None = None) -> NDArray[np.float32]:
        """Encode prepared texts [n] into the vectors [n, dim] that `encode` gives for them."""
