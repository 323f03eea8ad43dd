"""Token ids of texts, as the encoder reads them, and batches of texts of similar length with little padding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.encoders.word_tokenizer import flat_ids
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.word_tokenizer import WordTokens

DEFAULT_BATCH_TOKENS = 4096
_GPU_BATCH_TOKENS = 65536

_CHARACTERS_A_TOKEN = 64
"""The beginning of a text that is tokenised first, in characters for each token that the model reads."""


def default_batch_tokens(device: str) -> int:
    """Return the default number of tokens in a batch: 4,096 on a CPU, where they fit the caches, and more on a GPU.

    On a GPU, a forward pass of a small model is hundreds of kernel launches of a few microseconds each. Small batches
    would leave it idle.
    """
    return _GPU_BATCH_TOKENS if device.startswith("cuda") else DEFAULT_BATCH_TOKENS


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[NDArray[np.int64]]:
    """Group positions by length so that no batch, padded to its longest text, exceeds `budget` tokens.

    The longest texts come first, so that a lack of memory shows at once. A text longer than the budget is its own
    batch.

    Args:
        lengths: the number of tokens of each text, [n].
        budget: the most tokens in a batch, with padding.

    Yields:
        Positions in `lengths`. Every position is in exactly one batch.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        size = max(1, budget // longest)
        yield order[start : start + size]
        start += size


def tokenize(model: SentenceTransformer, texts: Sequence[str], prompt: str = "", *, first: int = 0) -> list[list[int]]:
    """Return the token ids of each text with special tokens, truncated to the model's length, without padding.

    The tokenizer lower-cases texts where the model needs it.

    Args:
        model: the model with the tokenizer and the length limit.
        texts: the texts to tokenise.
        prompt: the text before every text.
        first: the position of the first text in the caller's list, for error messages.

    Raises:
        UserError: a text is not a string or has a lone surrogate. The message gives its position.
    """
    with text_errors(texts, first):
        whole = [prompt + text for text in texts]
        ids = _ids_of(model, whole)
    check_ids(model, [max(each, default=0) for each in ids], first)
    return ids


def _ids_of(model: SentenceTransformer, texts: Sequence[str]) -> list[list[int]]:
    if is_static(model):
        # Special tokens mean nothing in a mean of token vectors.
        return [found.ids for found in model.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # The call of transformers takes twice as long for short texts, for outputs that are not needed here.
        _cut_at(backend, model.tokenizer)
        return ids_of_beginnings(backend, texts)
    encoded = model.tokenizer(
        texts, truncation=True, padding=False, return_attention_mask=False, return_token_type_ids=False
    )
    return encoded["input_ids"]  # type: ignore[no-any-return]


def ids_of_beginnings(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise no more of a long text than the model reads. Tokens take 150 times the memory of the text."""
    cut = backend.truncation
    if cut is None or cut["direction"] != "right":
        return [found.ids for found in backend.encode_batch_fast(texts)]
    limit = cut["max_length"]
    size = _CHARACTERS_A_TOKEN * limit
    ids = [found.ids for found in backend.encode_batch_fast([_beginning(text, size) for text in texts])]
    for position, text in enumerate(texts):
        read = size
        # Much white space, or very long words, can leave a beginning with too few tokens.
        while len(ids[position]) < limit and read < len(text):
            read *= 8
            ids[position] = backend.encode_batch_fast([_beginning(text, read)])[0].ids
    return ids


def _beginning(text: str, size: int) -> str:
    """About the first `size` characters of a text, without a part of a word."""
    if len(text) <= size:
        return text
    end = max(text.rfind(" ", 0, size), text.rfind("\n", 0, size))
    return text[: end if end > 0 else size]


def check_ids(model: SentenceTransformer, highest: Sequence[int], first: int) -> None:
    """Refuse a text with a token without a vector. Tokens added only to a tokenizer have none.

    Args:
        model: the model with the table of token vectors.
        highest: the highest token id of each text, [n].
        first: the position of the first text in the caller's list.

    Raises:
        UserError: the message names the position of the text and the token.
    """
    module: Any = model[0]
    table = module.embedding if is_static(model) else module.auto_model.get_input_embeddings()
    rows = getattr(table, "num_embeddings", None)
    if rows is None or max(highest, default=0) < rows:
        return
    position = next(place for place, found in enumerate(highest) if found >= rows)
    token = highest[position]
    name = next((text for text, number in model.tokenizer.get_vocab().items() if number == token), "")
    raise UserError(
        f"Text number {first + position} holds the token {name!r} (id {token}), and the model's table has {rows} rows: "
        "take the token out of the tokenizer's files, or give a model that has a vector for it."
    )


def static_tokens(
    model: SentenceTransformer, texts: Sequence[str], prompt: str, words: WordTokens | None, *, first: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the token ids of texts for a static model, end to end, and the number of tokens of each text, [n].

    Args:
        model: the static model with the tokenizer. Special tokens are left out, because they mean nothing in a mean.
        texts: the texts to tokenise.
        prompt: the text before every text.
        words: the tokenizer by words, where it gives the same ids.
        first: the position of the first text in the caller's list, for error messages.

    Raises:
        UserError: a text is not a string or has a lone surrogate.
    """
    with text_errors(texts, first):
        whole = [prompt + text for text in texts]
        ids, counts = flat_ids(model.tokenizer, whole) if words is None else words(whole)
    check_ids(model, [int(ids.max())] if len(ids) else [], first)
    return ids, counts


def cut_to_length(model: SentenceTransformer) -> None:
    """Set the truncation of a model's tokenizer as `tokenize` needs it, before several threads call it."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        _cut_at(backend, model.tokenizer)


def _cut_at(backend: Any, tokenizer: Any) -> None:
    """Set the tokenizer to truncate without padding, as a call with `truncation=True` does."""
    limit, side = int(tokenizer.model_max_length), tokenizer.truncation_side
    wanted = {"max_length": limit, "stride": 0, "strategy": "longest_first", "direction": side}
    # transformers uses a length above this for no limit.
    if limit > 10**20:
        backend.no_truncation()
    elif backend.truncation != wanted:
        backend.enable_truncation(**wanted)
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens


def has_lone_surrogate(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which JSON can carry and UTF-8 has no bytes for."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


@contextlib.contextmanager
def text_errors(texts: Sequence[str], first: int) -> Iterator[None]:
    """Turn a tokenizer's error for an invalid text into a message with the position of the text.

    Raises:
        UserError: one of `texts` is not a string or has a lone surrogate. `first` is the position of the first.
    """
    try:
        yield
    except (TypeError, ValueError, AttributeError, UnicodeEncodeError) as error:
        for position, text in enumerate(texts, start=first):
            if not isinstance(text, str):
                raise UserError(f"Text number {position} is {text!r}, not a string: give strings.") from error
            if has_lone_surrogate(text):
                raise UserError(
                    f"Text number {position} holds a lone surrogate: replace it before encoding."
                ) from error
        raise


def excluded_prompt_length(model: SentenceTransformer, prompt: str) -> int:
    """Return the number of prompt tokens that the pooling leaves out, 0 where it includes them."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    if not prompt or not any(isinstance(module, Pooling) and not module.include_prompt for module in model):
        return 0
    ids = model.tokenizer(prompt)["input_ids"]
    # The closing special token is not part of the prompt.
    return len(ids) - (ids[-1] in model.tokenizer.all_special_ids)


class PaddedTokens(NamedTuple):
    """Token ids of n texts in one padded batch.

    Attributes:
        ids: int64 [n, longest].
        mask: int64 [n, longest], 1 for tokens and 0 for padding. None without padding.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64] | None

    @property
    def full_mask(self) -> NDArray[np.int64]:
        """The mask. It is all ones without padding."""
        return np.ones_like(self.ids) if self.mask is None else self.mask


def pad_ids(token_ids: Sequence[Sequence[int] | NDArray[np.int32]], padding: int) -> PaddedTokens:
    """Put the token ids of n texts into one batch. Shorter texts are padded on the right."""
    lengths = [len(ids) for ids in token_ids]
    # Without special tokens, an empty text has no tokens.
    longest = max(1, *lengths)
    if min(lengths) == longest:
        return PaddedTokens(np.array(token_ids, dtype=np.int64), None)
    ids = np.full((len(token_ids), longest), padding, dtype=np.int64)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = tokens
    return PaddedTokens(ids, (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64))


def pad(model: SentenceTransformer, token_ids: Sequence[Sequence[int] | NDArray[np.int32]]) -> dict[str, Any]:
    """Put the token ids of n texts into tensors [n, longest] on the model's device, with the attention mask."""
    import torch

    padded = pad_ids(token_ids, model.tokenizer.pad_token_id or 0)
    device = model.device
    return {
        "input_ids": torch.from_numpy(padded.ids).to(device),
        "attention_mask": torch.from_numpy(padded.full_mask).to(device),
    }
