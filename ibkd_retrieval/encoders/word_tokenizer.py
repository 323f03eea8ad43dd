"""Tokenisation word by word, for tokenizers that treat each word alone. The tokens of each word are cached."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The most cached words, and the most characters and tokens of them. Beyond either the cache is emptied, so that it uses
# at most about 250 MB.
_MOST_WORDS, _MOST_PIECES = 1 << 20, 1 << 24
# Longer words, such as sentences in scripts without spaces, seldom repeat.
_LONGEST_KEPT = 64
_PUNCTUATION = r"([!-/:-@\[-`{-~])"
# New words are tokenised as one text, which is three times as fast as one by one.
_JOINED = 64


class _Known(NamedTuple):
    """The cached words.

    Attributes:
        numbers: the number of each word.
        ids: the token ids of all words, end to end.
        starts: the start in `ids` of each word, by number.
        counts: the number of tokens of each word, by number.
        characters: the number of characters of all words.
    """

    numbers: dict[str, int]
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    characters: int

    @classmethod
    def nothing(cls) -> _Known:
        """Return an empty cache."""
        return cls({}, np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), 0)

    def has_room_for(self, words: Sequence[str]) -> bool:
        """Whether the cache has room for `words`, if all of them are new."""
        pieces = self.characters + len(self.ids) + sum(map(len, words))
        return len(self.numbers) + len(words) <= _MOST_WORDS and pieces <= _MOST_PIECES

    def followed_by(self, ids: NDArray[np.int32], counts: NDArray[np.int64]) -> _Known:
        """Return the cache with the tokens of further words, which get the next numbers."""
        return self._replace(
            ids=np.concatenate([self.ids, ids]),
            starts=np.concatenate([self.starts, len(self.ids) + np.cumsum(counts) - counts]),
            counts=np.concatenate([self.counts, counts]),
        )


class WordTokens:
    """Tokenises texts word by word, with the same ids as the tokenizer without special tokens.

    The work is a few array operations per batch of texts. Only new words go to the tokenizer. Several threads may call
    it.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Take a `tokenizers.Tokenizer` for which `reads_words_alone` holds."""
        from tokenizers import Tokenizer

        described = json.loads(tokenizer.to_str())
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        unknown = described["model"].get("unk_token")
        # A mark with punctuation is never a token of a word.
        marks = (token for token in described["added_tokens"] if token["content"] != unknown)
        self._mark: tuple[str, int] | None = next(
            ((mark["content"], mark["id"]) for mark in marks if re.search(_PUNCTUATION, mark["content"])), None
        )
        self._limit = None if described["truncation"] is None else int(described["truncation"]["max_length"])
        self._lowers = bool(described["normalizer"]["lowercase"])
        self._added = "|".join(re.escape(token["content"]) for token in described["added_tokens"])
        self._known = _Known.nothing()
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the token ids of all texts end to end, and the number of tokens of each text, [n].

        Raises:
            ValueError: a text has a lone surrogate.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        whole = pa.array(texts, pa.large_string())
        # Lower-casing and splitting at punctuation leave a third fewer new words. A text with an added token is left
        # as it is, because such tokens are matched before normalisation.
        plain: Any = pc.ascii_lower(whole) if self._lowers else whole
        plain = pc.replace_substring_regex(plain, _PUNCTUATION, r" \1 ")
        if self._added:
            plain = pc.if_else(pc.match_substring_regex(whole, self._added), whole, plain)
        # Split at spaces only, because tokenizers and Arrow disagree about other white space.
        words: Any = pc.split_pattern(plain, " ")
        coded: Any = words.flatten().dictionary_encode()
        known, numbers = self._look_up(coded.dictionary.to_pylist())
        number = numbers[coded.indices.to_numpy()]
        counts = known.counts[number]
        before = np.concatenate([[0], np.cumsum(counts)])
        where = np.repeat(known.starts[number] - before[:-1], counts)
        where += np.arange(len(where))
        ids, lengths = known.ids[where], np.diff(before[words.offsets.to_numpy()])
        if self._limit is not None and (lengths > self._limit).any():
            ids = ids[np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < self._limit]
            lengths = np.minimum(lengths, self._limit)
        return ids, lengths

    def _look_up(self, words: list[str]) -> tuple[_Known, NDArray[np.int64]]:
        """Return the cache with all of `words`, and their numbers. Arrays are replaced, never changed."""
        short = [word for word in words if len(word) <= _LONGEST_KEPT]
        with self._lock:
            known = self._known if self._known.has_room_for(short) else _Known.nothing()
            new = [word for word in short if word not in known.numbers]
            if new:
                known = known.followed_by(*self._tokenize(new))
                known.numbers.update(zip(new, range(len(known.numbers), len(known.counts)), strict=True))
                known = known._replace(characters=known.characters + sum(map(len, new)))
            self._known = known
            if len(short) == len(words):
                return known, np.fromiter(map(known.numbers.__getitem__, words), np.int64, len(words))
            numbers = np.fromiter((known.numbers.get(word, -1) for word in words), np.int64, len(words))
        # These words are not cached.
        missing = np.flatnonzero(numbers < 0)
        numbers[missing] = len(known.counts) + np.arange(len(missing))
        return known.followed_by(*self._tokenize([words[at] for at in missing])), numbers

    def _tokenize(self, words: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens of words end to end, and the number of tokens of each."""
        if self._mark is not None:
            text, mark = self._mark
            joined = [text.join([*words[at : at + _JOINED], ""]) for at in range(0, len(words), _JOINED)]
            ids, _ = flat_ids(self._tokenizer, joined)
            ends = np.flatnonzero(ids == mark)
            # There are more marks than words where a word contains the mark.
            if len(ends) == len(words):
                return np.delete(ids, ends), np.diff(ends, prepend=-1) - 1
        return flat_ids(self._tokenizer, words)


def flat_ids(tokenizer: Any, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the token ids of texts without special tokens, end to end, and the number of tokens of each."""
    found = [each.ids for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    counts = np.fromiter(map(len, found), np.int64, len(found))
    return np.fromiter(chain.from_iterable(found), np.int32, counts.sum()), counts


def reads_words_alone(tokenizer: Any) -> bool:
    """Whether the tokens of a text are the tokens of its space-separated words, one after the other.

    This is true for BERT. It cleans and lower-cases character by character, and splits at white space and punctuation
    before the lookup.
    """
    described = json.loads(tokenizer.to_str())
    normalizer, splitter = described["normalizer"] or {}, described["pre_tokenizer"] or {}
    return (
        normalizer.get("type") == "BertNormalizer"
        and splitter.get("type") == "BertPreTokenizer"
        and described["padding"] is None
        and (described["truncation"] or {}).get("direction", "Right") == "Right"
        and all(
            not token["normalized"] and not token["single_word"] and re.fullmatch(r"\S+", token["content"])
            for token in described["added_tokens"]
        )
    )
