"""Load an encoder in the best backend configuration of this machine, and find the newest student."""

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
"""The last file written to a student folder. A folder with this file is complete."""


def newest_student(folder: Path | str = MODELS) -> Path:
    """Find the newest complete student in a folder.

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
    """Load a model in a backend and number format. "auto" takes the best measured configuration for the purpose.

    Args:
        name: the model: a folder or a hub name.
        backend: "auto", "torch", "onnx" or "openvino".
        dtype: "auto", "float32", "bfloat16", "float16" or "int8".
        sample: the function that reads a sample of the texts to encode, for int8 and for measuring.
        purpose: "documents" (many at once) or "queries" (one at a time).
        measure: whether to measure where there is no earlier choice. If false, torch is used.
        progress: the display. It shows what was measured and warns of slow formats.
        settings: further arguments of `Encoder.load`.

    Raises:
        UserError: as `Encoder.load` does.
    """
    from ibkd_retrieval.encoders.autotune.choice import BackendConfig, candidates, choose, remembered_choice, why
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
    config = remembered_choice(encoder.weight_hash, encoder.device, purpose)
    if config is not None:
        progress.say(f"{config}: measured before as the best here for {purpose} (`bench_encode()` measures anew).")
    elif len(candidates(encoder.device)) > 1 and measure():
        config = choose(load, sample(), encoder.device, purpose, progress).config
    if config is None or config == BackendConfig(encoder.backend, encoder.dtype):
        return encoder
    try:
        return load(config.backend, config.dtype)
    except Exception as error:  # Each runtime has its own error classes. This is optional.
        taken = BackendConfig(encoder.backend, encoder.dtype)
        progress.say(f"{config} does not load here any more: {why(error).rstrip('.')}; {taken} is taken instead.")
        return encoder
