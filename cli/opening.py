"""Index folders and their encoders, opened as the commands share them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .options import INDEXES

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.search.searcher import Searcher


def index_folder(given: Path | None, progress: Progress) -> Path:
    """The index the user named, or the newest one, announced."""
    from ibkd_retrieval.indexing.manifest import newest_index

    if given is not None:
        return given
    folder = newest_index(INDEXES)
    progress.say(f"index {folder} (the newest in {INDEXES}/; name another with --index)")
    return folder


def open_searcher(
    folder: Path,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    pooling: str | None = None,
    nprobe: int | None = None,
    refine: int | None = None,
    known: dict[str, Encoder] | None = None,
) -> Searcher:
    """Open an index with the encoder it was built with, or with `model`.

    Args:
        folder: the index.
        model: another place of the same encoder.
        device: where to encode queries.
        dtype: number format of the encoder; "auto" takes the one the index was built in where this machine has it.
        pooling: for a plain transformers encoder.
        nprobe: lists to visit.
        refine: candidates per result.
        known: encoders already loaded, by weight hash; filled.
    """
    # faiss before torch: whoever loads OpenMP first decides how its threads wait.
    from ibkd_retrieval.indexing.store import open_index
    from ibkd_retrieval.search.searcher import Searcher

    index = open_index(folder)
    made_by = index.manifest.encoder
    known = {} if known is None else known
    encoder = known.get(made_by.weight_hash) if model is None else None
    if encoder is None:
        from ibkd_retrieval.encoders.encoder import Encoder

        encoder = Encoder.load(
            model or made_by.name,
            device=device,
            dtype=dtype,
            pooling=pooling or made_by.pooling,
            max_length=made_by.max_length or None,
            # An index may hold the leading dimensions of its encoder's vectors only.
            dim=index.manifest.dim if model is None else None,
        )
        known[encoder.weight_hash] = encoder
    return Searcher(index, encoder, nprobe=nprobe, refine=refine)
