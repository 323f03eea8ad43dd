"""The engine `bm25`: BM25 in numpy by bm25s, without Java.

Scores are Lucene's variant of BM25 (Kamphuis et al., ECIR 2020: exact document lengths, idf = ln(1 + (N - df + 0.5) /
(df + 0.5))). They are computed when indexing, so a query only adds up the columns of its words.

Texts are compared in Unicode's form NFKC. So a letter with an accent is the same whether it is written as one character
or as two, and wide and narrow forms are the same. A word is a run of at least two letters or digits, with their
combining marks.

Chinese, Japanese, Thai, Lao, Khmer and Burmese have no spaces between words, and Korean attaches endings to words. Runs
of such characters become their overlapping pairs, as in Lucene's CJKAnalyzer. Documents also have the single
characters, so that a query of one character finds them.

In Chinese and Thai given as the language, a library with a dictionary cuts such runs into words instead.

Stop words are dropped (in English Lucene's 33), and words are stemmed by Snowball's stemmer of the language, which is
in PyStemmer. Without PyStemmer, the words of English are compared as they are.

The files on disk are bm25s' own: arrays in numpy's format, and JSON. The arrays are memory-mapped and never unpickled.
Indexing takes 4 bytes of memory per word, and about 45 bytes for each different word of each document while bm25s sorts
its matrix by word. Searching takes 4 bytes per document.
"""

from __future__ import annotations

import importlib
import itertools
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.corpora.words import word_patterns
from ibkd_retrieval.errors import MissingPackage, UserError
from ibkd_retrieval.progress import Progress, Task
from ibkd_retrieval.search.lexical.engine import Found
from ibkd_retrieval.search.lexical.languages import NO_LANGUAGE, open_language

_ASCII = re.compile(r"[a-z0-9_]{2,}")


Cut = Callable[[str], list[str]] | None


def words_of_document(text: str, cut: Cut = None) -> list[str]:
    """The words of a document, in lower case. `cut` makes words of unspaced scripts, in place of pairs."""
    return _words(text, cut, singles=True)


def words_of_query(text: str, cut: Cut = None) -> list[str]:
    """The words of a query, in lower case. Unspaced scripts give pairs only, unless a character stands alone."""
    return _words(text, cut, singles=False)


def _words(text: str, cut: Cut, singles: bool) -> list[str]:
    text = text.lower()
    if text.isascii():
        return _ASCII.findall(text)
    text = unicodedata.normalize("NFKC", text).lower()
    pattern, characters = word_patterns()
    found: list[str] = []
    for match in pattern.finditer(text):
        run = match[0]
        if match.lastindex is None:
            found += [run] * (len(run) > 1)
            continue
        if cut is not None:
            found += cut(run)
            continue
        parts = characters.findall(run)
        if singles or len(parts) == 1:
            found += parts
        found += [first + second for first, second in itertools.pairwise(parts)]
    return found


class Bm25:
    """The engine `bm25`."""

    name = "bm25"

    def __init__(self, k1: float, b: float, progress: Progress, language: str = "english") -> None:
        """Load bm25s.

        Raises:
            UserError: the language is unknown, or PyStemmer has no stemmer of it.
            MissingPackage: bm25s, or a library that the language needs, is not installed.
        """
        try:
            self._bm25s: Any = importlib.import_module("bm25s")
        except ImportError as error:
            raise MissingPackage("bm25s", "BM25 search", "bm25") from error
        self._k1, self._b = k1, b
        self._language = open_language(language)
        self._stemmers: Any = None
        stemmer = self._language.stemmer
        if stemmer is None:
            return
        try:
            self._stemmers = importlib.import_module("Stemmer")
        except ImportError as error:
            if stemmer != "english":
                raise MissingPackage("PyStemmer", f"BM25 search in {stemmer.capitalize()}", "bm25") from error
            self._language = open_language(NO_LANGUAGE)
            progress.say(
                "PyStemmer is not installed: BM25 compares words as they are written, which finds less in English; "
                "type `pip install 'ibkd-retrieval[bm25]'`."
            )
            return
        if stemmer not in self._stemmers.algorithms():
            raise UserError(f"This PyStemmer has no stemmer of {stemmer}: type `pip install -U PyStemmer`.")

    @property
    def version(self) -> str:
        """The version of bm25s."""
        return str(self._bm25s.__version__)

    @property
    def settings(self) -> Mapping[str, str]:
        """The formula, its parameters and the tokenisation."""
        return {
            "method": "lucene",
            "k1": repr(self._k1),
            "b": repr(self._b),
            "stemmer": "none" if self._stemmers is None else f"snowball {self._language.stemmer}",
            "stopwords": self._language.stopwords or "none",
            "words": self._language.words,
        }

    def build(self, folder: Path, documents: Iterable[Document], task: Task) -> None:
        """Index `documents` into bm25s' files."""
        tokenizer = self._tokenizer({}, words_of_document)
        words = _WordLists()
        for document in documents:
            words.append(next(tokenizer.streaming_tokenize([document.content], True, allow_empty=False)))
            task.advance()
        vocabulary = tokenizer.get_vocab_dict()
        retriever = self._bm25s.BM25(k1=self._k1, b=self._b, method="lucene")
        tokenized = self._bm25s.tokenization.Tokenized(ids=words, vocab=vocabulary)
        retriever.index(tokenized, create_empty_token=False, show_progress=False)
        retriever.save(folder, show_progress=False)

    def open(self, folder: Path) -> OpenedBm25:
        """Map the arrays and read the vocabulary."""
        retriever = self._bm25s.BM25.load(folder, mmap=True, allow_pickle=False)
        return OpenedBm25(retriever, lambda: self._tokenizer(retriever.vocab_dict, words_of_query))

    def _tokenizer(self, vocabulary: dict[str, int], words: Callable[[str, Cut], list[str]]) -> Any:
        language = self._language
        # A stemmer of its own for each tokenizer: PyStemmer's cannot be shared between threads.
        stemmer = None if self._stemmers is None else self._stemmers.Stemmer(language.stemmer)
        tokenizer = self._bm25s.tokenization.Tokenizer(
            splitter=lambda text: words(text, language.cut), stopwords=language.stopwords, stemmer=stemmer
        )
        if stemmer is None:
            tokenizer.word_to_id = vocabulary
        else:
            tokenizer.stem_to_sid = vocabulary
        return tokenizer


class OpenedBm25:
    """bm25s' matrix of scores, documents by words."""

    def __init__(self, retriever: Any, new_tokenizer: Any) -> None:
        self._retriever = retriever
        self._new_tokenizer = new_tokenizer

    def best(self, texts: Sequence[str], k: int, allowed: NDArray[np.bool_] | None) -> list[Found]:
        """The k best documents for each query, and those that tie with the last one."""
        # A tokenizer remembers every word that it has seen, so it is used for one call only.
        words = self._new_tokenizer().streaming_tokenize(list(texts), False, allow_empty=False)
        return [self._best(ids, k, allowed) for ids in words]

    def _best(self, words: list[int], k: int, allowed: NDArray[np.bool_] | None) -> Found:
        if not words:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores: NDArray[np.float32] = self._retriever.get_scores_from_ids(words)
        rows = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
        scores = scores[rows]
        if len(rows) > k:
            kept = scores >= np.partition(scores, -k)[-k]
            rows, scores = rows[kept], scores[kept]
        return rows.astype(np.int64), scores


class _WordLists:
    """A list of word numbers per document, in four bytes per word."""

    def __init__(self) -> None:
        self._words = array("i")
        self._ends = array("q", [0])

    def append(self, words: list[int]) -> None:
        self._words.extend(words)
        self._ends.append(len(self._words))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(len(self)):
            yield self._words[self._ends[number] : self._ends[number + 1]].tolist()
