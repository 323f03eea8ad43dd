"""Loading an encoder in the backend and number format that are best here, and finding the newest student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import MODELS
from ibkd_retrieval.progress import SILENT

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.autotune.choice import Purpose
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.progress import Progress

STUDENT_RECORD = "ibkd.json"
"""The file that is written last into a student's folder: a folder that has it is finished."""


def newest_student(folder: Path | str = MODELS) -> Path:
    """The finished student written last below a folder.

    Raises:
        UserError: there is none.
    """
    finished = sorted(Path(folder).glob(f"*/{STUDENT_RECORD}"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise UserError(f"No finished student below {folder}: run `distill()` first, or name a model with `model`.")
    return finished[-1].parent


def load_encoder(
    name: str,
    backend: str,
    dtype: str,
    sample: Callable[[], list[str]],
    *,
    purpose: Purpose,
    measure: Callable[[], bool] = lambda: False,
    progress: Progress,
    **settings: Any,
) -> Encoder:
    """Load a model in a backend and number format; "auto" takes what was measured to be best here for the purpose.

    Args:
        name: the model: a folder or a hub name.
        backend: "auto", "torch", "onnx" or "openvino".
        dtype: "auto", "float32", "bfloat16", "float16" or "int8".
        sample: reads texts such as will be encoded, for int8 and for measuring.
        purpose: "documents" (many in one go) or "queries" (one at a time).
        measure: whether to measure where nothing was measured before. If false, torch is taken then.
        progress: told what was measured, and what will be slow.
        settings: further arguments of `Encoder.load`.

    Raises:
        UserError: as `Encoder.load` does.
    """
    from ibkd_retrieval.encoders.autotune.choice import Way, candidates, choose, remembered_choice, why
    from ibkd_retrieval.encoders.autotune.cpu import is_emulated
    from ibkd_retrieval.encoders.encoder import Encoder

    def load(backend: str, dtype: str, told: Progress = SILENT) -> Encoder:
        texts = sample() if dtype == "int8" else []
        return Encoder.load(name, backend=backend, dtype=dtype, sample=texts, progress=told, **settings)

    encoder = load(backend, dtype, progress)
    if encoder.device == "cpu" and encoder.backend == "torch" and is_emulated(encoder.dtype):
        progress.say(
            f"This processor has no instructions for {encoder.dtype} and emulates it, which may take hundreds of times "
            "as long as float32: interrupt, and encode where there is a GPU or a processor that has them, or encode "
            "all anew with `dtype='float32'`."
        )
    if (backend, dtype) != ("auto", "auto") or encoder.max_length == 0:
        return encoder
    way = remembered_choice(encoder.weight_hash, encoder.device, purpose)
    if way is not None:
        progress.say(f"{way}: measured before as the best here for {purpose} (`bench_encode()` measures anew).")
    elif len(candidates(encoder.device)) > 1 and measure():
        way = choose(load, sample(), encoder.device, purpose, progress).way
    if way is None or way == Way(encoder.backend, encoder.dtype):
        return encoder
    try:
        return load(way.backend, way.dtype)
    except Exception as error:  # Runtimes have classes of their own, and nobody asked for this one.
        taken = Way(encoder.backend, encoder.dtype)
        progress.say(f"{way} does not load here any more: {why(error).rstrip('.')}; {taken} is taken instead.")
        return encoder
