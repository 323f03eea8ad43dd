"""What this machine does fast, by the features of its processor and by short measurements, which are remembered."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.files import cache_folder, write_json
from ibkd_retrieval.json_io import parse

if TYPE_CHECKING:
    import torch


def recall(what: str, key: dict[str, Any]) -> Any | None:
    """Return the value stored for `what` under a key of JSON types, None where there is no readable value."""
    try:
        kept = parse(_path(what, key).read_bytes())
    except (OSError, ValueError):
        return None
    # The file name is only a digest, so the full key is compared.
    return kept.get("value") if isinstance(kept, dict) and kept.get("key") == key else None


def remember(what: str, key: dict[str, Any], value: Any) -> None:
    """Store a value of JSON types. If the cache cannot be written, it is measured again next time."""
    try:
        write_json(_path(what, key), {"key": key, "value": value})
    except OSError:
        return


def _path(what: str, key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "measured" / f"{what}-{digest[:16]}.json"


_PRODUCT = 1024
_ROUNDS = 5
# The speed-up from which half precision is worth its rounding.
_WORTHWHILE = 1.2
_BFLOAT16 = {"amx", "avx512_bf16"}


@functools.cache
def machine_key() -> dict[str, Any]:
    """Return what identifies a machine for measurements: processor, features, number of threads and torch."""
    import torch

    return {
        "processor": processor_name(),
        "features": list(processor_features()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@functools.cache
def processor_features() -> tuple[str, ...]:
    """Return the processor features that decide the speed of number formats: `avx2`, `amx`, ..."""
    import torch

    asked = {
        "avx2": "_is_avx2_supported",
        "avx512": "_is_avx512_supported",
        "vnni": "_is_vnni_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx": "_is_amx_tile_supported",
    }
    found = []
    for feature, name in asked.items():
        has = getattr(torch.cpu, name, None)
        if has is not None and has():
            found.append(feature)
    return tuple(found)


def device_name(device: str) -> str:
    """Return the name of a GPU, "" for the processor, whose name is in `machine_key`."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else ""


def is_emulated(dtype: str) -> bool:
    """Whether torch emulates a half format on this processor, for lack of instructions.

    Torch knows only the features of x86. Other processors count as emulating.
    """
    import torch

    if dtype == "bfloat16":
        return not _BFLOAT16 & set(processor_features())
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return dtype == "float16" and not (supported is not None and supported())


def bfloat16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 clearly faster than float32. It is measured once and cached.

    Without instructions for it, half precision is emulated and hundreds of times slower. That needs no measurement.
    """
    if is_emulated("bfloat16"):
        return False
    kept = recall("bfloat16", machine_key())
    if not isinstance(kept, float):
        import torch

        kept = matrix_peak(torch.bfloat16) / matrix_peak(torch.float32)
        remember("bfloat16", machine_key(), kept)
    return kept >= _WORTHWHILE


def matrix_peak(dtype: torch.dtype, size: int = _PRODUCT, device: str = "cpu") -> float:
    """Return the operations per second of the fastest of a few square matrix products."""
    import torch

    left = torch.ones(size, size, dtype=dtype, device=device)
    right = torch.ones(size, size, dtype=dtype, device=device)

    def multiply() -> None:
        torch.mm(left, right)
        if device != "cpu":
            torch.cuda.synchronize(device)

    with torch.inference_mode():
        return 2 * size**3 / min(seconds(multiply, _ROUNDS))


def seconds(work: Callable[[], object], rounds: int, warm: bool = False) -> list[float]:
    """Return the time of each of `rounds` runs, after one run to warm up unless `warm`."""
    if not warm:
        work()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found


def packs_weights(dtype: torch.dtype, *, one_by_one: bool = False) -> bool:
    """Whether weights are stored in the layout of oneDNN: in bfloat16, where the processor multiplies it.

    No measurement decides, because the bits of a vector must not depend on the load of the machine. In float32 the
    layout gains a sixth to a quarter for a single query, and next to nothing for a large batch.

    Args:
        dtype: the number format.
        one_by_one: whether all texts are single queries.
    """
    import torch

    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    gains = (dtype == torch.bfloat16 and not is_emulated("bfloat16")) or (dtype == torch.float32 and one_by_one)
    return gains and available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack_linear(weight: torch.Tensor) -> torch.Tensor:
    """Convert a weight [out, in] to the layout of oneDNN."""
    import torch

    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def processor_name() -> str:
    """Return the model name of the processor, "" where it is unknown."""
    return _of_processor("model name", "Model\t")


def processor_flags() -> str:
    """Return all features of the processor in the words of the system. It does not import torch."""
    return _of_processor("flags", "Features")


def _of_processor(*fields: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(fields)]
    return found[0] if found else platform.processor()
