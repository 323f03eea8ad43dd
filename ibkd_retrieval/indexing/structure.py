"""Writing a faiss index to a file, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.indexing.faiss_binding import load_faiss


def write_structure(index: Any, path: Path) -> None:
    """Write a faiss index.

    faiss writes through the Python file, so that a full disk is the same OSError as everywhere else.

    Raises:
        OSError: the file cannot be written.
    """
    faiss = load_faiss()
    with atomic_write(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, 1 << 20))
