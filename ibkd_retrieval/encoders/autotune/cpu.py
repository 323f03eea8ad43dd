"""What the processor multiplies fast: its features, and short matrix products that show what they are worth."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.autotune.cache import recall, remember

if TYPE_CHECKING:
    import torch

_PRODUCT = 1024
_ROUNDS = 5
# Below this, half precision is not worth its rounding.
_WORTHWHILE = 1.2
_BFLOAT16 = {"amx", "avx512_bf16"}


@functools.cache
def machine_key() -> dict[str, Any]:
    """What tells machines apart whose measurements do not carry over: processor, its features, threads, torch."""
    import torch

    return {
        "processor": processor_name(),
        "features": list(processor_features()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@functools.cache
def processor_features() -> tuple[str, ...]:
    """The features that decide which number formats are fast, of those torch knows: `avx2`, `amx`, ..."""
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
    """What a GPU is called, "" for the processor, whose name is in `machine_key`."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else ""


def is_emulated(dtype: str) -> bool:
    """Whether torch computes in a half format on this processor by converting every number, for want of instructions.

    Of processors other than x86 it knows nothing, and takes them for such.
    """
    import torch

    if dtype == "bfloat16":
        return not _BFLOAT16 & set(processor_features())
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return dtype == "float16" and not (supported is not None and supported())


def bfloat16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 clearly faster than float32: measured once, then remembered.

    Without instructions for it, half precision is emulated, hundreds of times slower; that needs no measuring.
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
    """Operations a second in the fastest of a few square matrix products, two for each multiplication and addition."""
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
    """How long each of `rounds` runs took, after one to warm up where it is not `warm` already."""
    if not warm:
        work()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found


def packs_weights(dtype: torch.dtype) -> bool:
    """Whether weights are laid out for oneDNN: in bfloat16, where the processor multiplies it.

    No clock decides: the bits of a vector must not depend on what else a machine did when the model was loaded. In
    float32 packing gains nothing.
    """
    import torch

    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return (
        dtype == torch.bfloat16
        and available
        and not is_emulated("bfloat16")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack_linear(weight: torch.Tensor) -> torch.Tensor:
    """A weight [out, in] in the layout that oneDNN multiplies from."""
    import torch

    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def processor_name() -> str:
    """Model name of the processor, "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model\t"))]
    return names[0] if names else platform.processor()
