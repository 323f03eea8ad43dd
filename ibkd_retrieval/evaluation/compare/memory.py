"""The memory of a system: a fresh process loads its model and its index, and answers queries.

This module is also the program of that process. It reads a `Load` as JSON from standard input, and writes its figures
as the last line of standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.errors import WorkFailed
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.json_io import decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibkd_retrieval.search.searcher import Searcher

_PROGRAM = "import sys; sys.path[:] = {path!r}; from ibkd_retrieval.evaluation.compare.memory import main; main()"


@dataclass(frozen=True)
class Load:
    """What the process loads and answers; the fields of the model are those of `Encoder.load`."""

    index: str
    model: str
    device: str
    dtype: str
    backend: str
    pooling: str | None
    max_length: int | None
    dim: int
    query_prompt: str
    document_prompt: str
    search: SearchParams
    queries: tuple[str, ...]

    @classmethod
    def of(cls, searcher: Searcher, queries: Sequence[str]) -> Load:
        """What `searcher` holds."""
        encoder = searcher.encoder
        return cls(
            index=str(searcher.index.folder.resolve()),
            model=encoder.name,
            device=encoder.device,
            dtype=encoder.dtype,
            backend=getattr(encoder, "backend", "torch"),
            pooling=encoder.pooling,
            max_length=encoder.max_length or None,
            dim=encoder.dim,
            query_prompt=encoder.prompts["query"],
            document_prompt=encoder.prompts["document"],
            search=searcher.search_params,
            queries=tuple(queries),
        )


@dataclass(frozen=True)
class Footprint:
    """Bytes: the most that was resident, what was before anything was loaded, the most on the GPU (None without)."""

    peak: int
    before: int
    vram: int | None


def measure_footprint(load: Load) -> Footprint:
    """Start a process that loads and answers, and take its figures.

    Raises:
        WorkFailed: the process ended without them.
    """
    # This process's own search path: the other must import the same code, wherever it was started.
    program = _PROGRAM.format(path=[str(Path(entry).resolve()) for entry in sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(encode(load)),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    try:
        if ended.returncode:
            raise ValueError(f"exit code {ended.returncode}")
        return decode(Footprint, json.loads(ended.stdout.splitlines()[-1]))
    except (ValueError, IndexError) as error:
        said = (ended.stderr.strip().splitlines() or [str(error)])[-1]
        raise WorkFailed(f"The memory of {load.index} with {load.model} could not be measured: {said}.") from error


def take_up(load: Load) -> Footprint:
    """Load, answer each query for ten results, and measure this process."""
    from ibkd_retrieval.indexing.faiss_binding import load_faiss

    load_faiss()  # Before torch: whoever loads OpenMP first decides how its threads wait.

    # Loaded here, so that `before` has the libraries in it.
    import sentence_transformers  # noqa: F401
    import torch

    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.indexing.building.memory import resident_bytes
    from ibkd_retrieval.indexing.index import open_index
    from ibkd_retrieval.search.searcher import Searcher

    before = resident_bytes()
    index = open_index(load.index)
    encoder = Encoder.load(
        load.model,
        device=load.device,
        dtype=load.dtype,
        backend=load.backend,
        pooling=load.pooling,
        max_length=load.max_length,
        dim=load.dim,
        query_prompt=load.query_prompt,
        document_prompt=load.document_prompt,
    )
    searcher = Searcher(index, encoder, search_params=load.search, other_encoder=True)
    for text in load.queries:
        searcher.search(text, 10)
    vram = int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
    return Footprint(own_peak_bytes(), before, vram)


def own_peak_bytes() -> int:
    """The most this very process has had resident.

    `ru_maxrss` would count what the process that started this one took, where that was more.
    """
    try:
        status = Path("/proc/self/status").read_text("ascii", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    except (OSError, StopIteration):
        from ibkd_retrieval.indexing.building.memory import peak_memory_bytes

        return peak_memory_bytes()


def main() -> None:
    """Be the process."""
    request: Any = json.loads(sys.stdin.read())
    sys.stdout.write("\n" + json.dumps(encode(take_up(decode(Load, request)))) + "\n")
