"""Lines of a text file with their numbers, and checks that all readers share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import open_bytes

LONGEST_LINE = 32 << 20
"""The most bytes of a line. It bounds the memory that a small compressed file can use."""
_COMPRESSIONS = frozenset({".gz", ".zst"})


def format_suffix(path: Path) -> str:
    """Return the suffix of a file's format in lower case: `.tsv` for `collection.tsv.gz`."""
    stem = Path(path.stem) if path.suffix in _COMPRESSIONS else path
    return stem.suffix.lower()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the lines of a UTF-8 file, plain or compressed (`.gz`, `.zst`), with numbers from 1 and without line ends.

    Lines that hold nothing but white space are skipped; their numbers are not given to others.

    Raises:
        UserError: as for `whole_lines`.
    """
    for number, line in whole_lines(path):
        if not line.isspace():
            yield number, line.rstrip("\r\n")


def whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read every line of a UTF-8 file, plain or compressed, with its number from 1 and its line end.

    Raises:
        UserError: the file cannot be opened, is not UTF-8, has a line longer than `LONGEST_LINE`, or is compressed and
            damaged or cut off.
    """
    try:
        file = open_bytes(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): check the path and its permissions."
        ) from None
    number = 0
    with file:
        while True:
            try:
                line = file.readline(LONGEST_LINE + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(
                    f"{path} cannot be read past line {number} ({error}): the file is damaged or ends early, so"
                    " fetch it again."
                ) from None
            if not line:
                return
            number += 1
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"{path}, line {number}: longer than {LONGEST_LINE >> 20} MiB; split it into documents of a line"
                    " each."
                )
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: byte {error.start + 1} of the line is not UTF-8; convert the file."
                ) from None
            if text:
                yield number, text


def read_text(path: Path) -> str:
    """Read a whole UTF-8 file that is one text.

    Raises:
        UserError: it cannot be read, is not UTF-8 or is longer than `LONGEST_LINE`.
    """
    try:
        with open_bytes(path) as file:
            content = file.read(LONGEST_LINE + 1)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): check the path and its permissions."
        ) from None
    if len(content) > LONGEST_LINE:
        raise UserError(f"{path}: longer than {LONGEST_LINE >> 20} MiB; split it into several files.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} is not UTF-8; convert the file.") from None


def checked_id(value: object, where: str) -> str:
    """Check the id of a document or query. An integer becomes its digits.

    Args:
        value: the id as read from the source.
        where: the file and line for the error, as in `corpus.jsonl, line 3`.

    Raises:
        UserError: it is no text, is empty or holds white space, which no TREC run could hold.
    """
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: the id is {value!r}; expected text or a whole number.")
    if len(value.split()) != 1 or value.strip() != value:
        problem = "is empty" if not value.strip() else f"{value!r} holds white space"
        raise UserError(f"{where}: the id {problem}; give every line an id of one word.")
    return value


def encodable(text: str, where: str) -> str:
    """Check that a text can be encoded in UTF-8. JSON can contain a lone surrogate, which cannot.

    Args:
        text: the text as read from the source.
        where: the file and line for the error.

    Raises:
        UserError: it holds half of a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: the text holds half of a surrogate pair (\\ud800 to \\udfff); remove it.") from None
    return text
