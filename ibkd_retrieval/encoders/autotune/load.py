"""Load an encoder in the best backend configuration of this machine, and find the newest student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.model_folder import STUDENT_RECORD
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import MODELS
from ibkd_retrieval.progress import SILENT

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.autotune.choice import Purpose
    from ibkd_retrieval.encoders.encoder import Encoder, Prefer
    from ibkd_retrieval.progress import Progress


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
    few: bool = False,
    progress: Progress,
    **settings: Any,
) -> Encoder:
    """Load a model in a backend and number format. "auto" takes the best measured configuration for the purpose.

    The model is read once: what was measured before is looked up by its weight hash before a backend is opened.

    Args:
        name: the model: a folder or a hub name.
        backend: "auto", "torch", "onnx" or "openvino".
        dtype: "auto", "float32", "bfloat16", "float16" or "int8".
        sample: the function that reads a sample of the texts to encode, for measuring.
        purpose: "documents" (many at once) or "queries" (one at a time).
        measure: whether to measure where there is no earlier choice. If false, torch is used.
        few: whether only a few texts follow. Opening another library than torch takes longer than it saves then.
        progress: the display. It shows what was measured and warns of slow formats.
        settings: further arguments of `Encoder.load`.

    Raises:
        UserError: as `Encoder.load` does.
    """
    from ibkd_retrieval.encoders.autotune.choice import BackendConfig, candidates, choose, remembered_choice, why
    from ibkd_retrieval.encoders.autotune.cpu import is_emulated
    from ibkd_retrieval.encoders.encoder import Encoder

    def load(backend: str, dtype: str, told: Progress = SILENT, prefer: Prefer | None = None) -> Encoder:
        return Encoder.load(name, backend=backend, dtype=dtype, prefer=prefer, progress=told, **settings)

    remembered: list[BackendConfig] = []

    def prefer(weight_hash: str, device: str) -> tuple[str, str] | None:
        config = remembered_choice(weight_hash, device, purpose)
        if config is None or (few and config.backend != "torch"):
            return None
        remembered.append(config)
        progress.say(f"{config}: measured before as the best here for {purpose} (`bench_encode()` measures anew).")
        return config.backend, config.dtype

    automatic = (backend, dtype) == ("auto", "auto")
    try:
        encoder = load(backend, dtype, progress, prefer if automatic else None)
    except Exception as error:  # Each runtime has its own error classes. What was remembered is optional.
        if not remembered:
            raise
        encoder = load(backend, dtype)
        taken = BackendConfig(encoder.backend, encoder.dtype)
        progress.say(
            f"{remembered[0]} does not load here any more: {why(error).rstrip('.')}; {taken} is taken instead."
        )
    if encoder.device == "cpu" and encoder.backend == "torch" and is_emulated(encoder.dtype):
        progress.say(
            f"This processor has no instructions for {encoder.dtype} and emulates it, which may take hundreds of times "
            "as long as float32: interrupt, and encode where there is a GPU or a processor that has them, or encode "
            "all anew with `dtype='float32'`."
        )
    if not automatic or remembered or encoder.max_length == 0:
        return encoder
    if len(candidates(encoder.device)) < 2 or not measure():
        return encoder
    loaded = {BackendConfig(encoder.backend, encoder.dtype): encoder}

    def load_once(backend: str, dtype: str) -> Encoder:
        config = BackendConfig(backend, dtype)
        if config not in loaded:
            loaded[config] = load(backend, dtype)
        return loaded[config]

    return loaded[choose(load_once, sample(), encoder.device, purpose, progress).config]
