"""Languages of lexical search: a stemmer, stop words, and a way to cut scripts without spaces into words."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from ibkd_retrieval.errors import MissingPackage, UserError

_STEMMED = {
    **{"ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english"},
    **{"es": "spanish", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi"},
    **{"hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali"},
    **{"nl": "dutch", "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian"},
    **{"sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish"},
}
"""The languages of Snowball's stemmers, by their ISO 639-1 codes."""

_STOPPED = {
    *("danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese", "russian", "spanish"),
    *("swedish", "turkish", "chinese"),
}
"""The languages of bm25s' lists of stop words, without Korean, whose words are compared in parts."""

_CUT = {"zh": "chinese", "th": "thai"}
_PAIRED = {"ja": "japanese", "ko": "korean"}
NO_LANGUAGE = "none"
LANGUAGES = (*sorted([*_STEMMED.values(), *_CUT.values(), *_PAIRED.values()]), NO_LANGUAGE)
"""The names of the languages. The last one compares words as they are."""

PAIRS = "nfkc, bigrams of unspaced scripts"


@dataclass(frozen=True)
class Language:
    """How the words of a language are compared.

    Attributes:
        stemmer: Snowball's name of the stemmer. None leaves words as they are.
        stopwords: bm25s' name of the stop words. None drops no words.
        words: how words are found, as in the settings of an index.
        cut: cuts a run of an unspaced script into words. None makes pairs of characters.
    """

    stemmer: str | None
    stopwords: str | None
    words: str = PAIRS
    cut: Callable[[str], list[str]] | None = None


def check_language(name: str) -> str:
    """The full name of a language that is given by name or by ISO 639-1 code.

    Raises:
        UserError: there is no such language.

    Example:
        >>> check_language("de"), check_language("Thai")
        ('german', 'thai')
    """
    known = _STEMMED | _CUT | _PAIRED
    full = known.get(name.lower(), name.lower())
    if full not in LANGUAGES:
        raise UserError(f"There is no `language` {name!r} for words: use {', '.join(LANGUAGES[:-1])} or {NO_LANGUAGE}.")
    return full


def open_language(name: str) -> Language:
    """The language of this name or code. The library that cuts its words is loaded.

    Raises:
        UserError: there is no such language.
        MissingPackage: the library is not installed.
    """
    name = check_language(name)
    stopwords = name if name in _STOPPED else None
    if name not in _CUT.values():
        return Language(name if name in _STEMMED.values() else None, stopwords)
    package = {"chinese": "rjieba", "thai": "pythainlp"}[name]
    try:
        library = importlib.import_module({"chinese": "rjieba", "thai": "pythainlp.tokenize"}[name])
    except ImportError as error:
        raise MissingPackage(package, f"BM25 search in {name.capitalize()}", "languages") from error
    # Long words are found by their parts, too.
    cut = library.cut_for_search if name == "chinese" else library.word_tokenize
    return Language(None, stopwords, f"nfkc, words of {package} {metadata.version(package)}", cut)
