"""The interface of a backend, the names of backends, and the choice of one by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ibkd_retrieval.encoders.device import choose_dtype
from ibkd_retrieval.errors import MissingPackage, UserError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.backends.torch_modules import Run
    from ibkd_retrieval.encoders.tokens import PaddedTokens

BACKENDS = ("auto", "torch", "onnx", "openvino")
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
# The number formats of each backend, without those that it only emulates.
_COMPUTES_IN = {
    "torch": ("float32", "bfloat16", "float16"),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8"),
}


class Backend(Protocol):
    """Runs one transformer.

    Attributes:
        name: "torch", "onnx" or "openvino".
        dtype: the number format of the arithmetic.
    """

    name: str
    dtype: str

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer.

        Args:
            tokens: the ids of n texts and their mask.

        Returns:
            The features that the further modules of the model read: the token states, float32 [n, longest, width],
            under the key of the model's transformer, and the attention mask.
        """


def check_choice(backend: str, dtype: str, device: str) -> None:
    """Refuse unknown names and unsupported combinations.

    Raises:
        UserError: a name is unknown, or the backend does not support the number format or the device.
    """
    if backend not in BACKENDS:
        raise UserError(f"Unknown backend `{backend}`: use one of {', '.join(BACKENDS)}.")
    if dtype not in DTYPES:
        raise UserError(f"Unknown dtype `{dtype}`: use one of {', '.join(DTYPES)}.")
    if backend in ("onnx", "openvino") and device != "cpu":
        raise UserError(f"`backend='{backend}'` runs on the processor only: give `device='cpu'`, or `backend='torch'`.")
    if backend != "auto" and dtype != "auto" and dtype not in _COMPUTES_IN[backend]:
        able = [f"`backend='{name}'`" for name, known in _COMPUTES_IN.items() if dtype in known]
        raise UserError(
            f"`backend='{backend}'` does not compute in {dtype}: use {', '.join(_COMPUTES_IN[backend])}, or "
            f"{' or '.join(able)}."
        )
    if dtype == "int8" and device != "cpu":
        raise UserError("`dtype='int8'` runs on the processor only: give `device='cpu'`, or `dtype='float16'`.")


def check_static(name: str, backend: str, dtype: str) -> None:
    """Refuse a backend or a number format for a static model.

    Raises:
        UserError: it is another one than torch and float32.
    """
    if backend not in ("auto", "torch") or dtype not in ("auto", "float32"):
        raise UserError(
            f"`{name}` is a static model, which looks vectors up in float32 and has no transformer to run otherwise: "
            "leave `backend` and `dtype` out."
        )


def weights_in(dtype: str, backend: str, device: str) -> torch.dtype | None:
    """Return the half format that weights may keep from their file to the arithmetic. None for float32."""
    if backend not in ("auto", "torch") or dtype not in ("auto", "bfloat16", "float16"):
        return None
    found = choose_dtype(dtype, device)
    return None if found.itemsize == 4 else found


def installed() -> tuple[str, ...]:
    """Return the backends whose packages are installed. Torch always is."""
    import importlib.util

    packages = {"torch": ("torch",), "onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
    return tuple(name for name, needed in packages.items() if all(map(importlib.util.find_spec, needed)))


def open_backend(
    model: SentenceTransformer,
    backend: str,
    dtype: str,
    weight_hash: str,
    *,
    run: Run = "lean",
) -> Backend:
    """Open the backend for the transformer of a float32 model on its device.

    Args:
        model: the model. Torch converts its transformer in place.
        backend: "torch", "onnx" or "openvino". "auto" is torch, and for int8 the first installed one with int8.
        dtype: the number format. "auto" is the fastest of the backend that is at least as exact as a half format.
        weight_hash: the weight hash of the model, which names its cached files.
        run: how the model may run in torch. The other backends need "lean" or "tokens".

    Raises:
        UserError: the name is unknown, or the backend or the device does not support the choice.
        MissingPackage: the backend is not installed.
        WorkFailed: the files for the backend cannot be stored.
    """
    device = str(model.device)
    check_choice(backend, dtype, device)
    if backend == "auto":
        backend = "torch" if dtype != "int8" else _first_for_int8()
    if run == "whole" and backend != "torch":
        raise UserError(
            "This model has settings that only sentence-transformers honours (a chat template, lengths by kind, token "
            "types, or the like), and it runs in torch: use `backend='torch'`, and another `dtype` than int8."
        )
    if backend == "onnx":
        from ibkd_retrieval.encoders.backends.onnx_runtime import OnnxBackend

        return OnnxBackend(model, "float32" if dtype == "auto" else dtype, weight_hash)
    if backend == "openvino":
        from ibkd_retrieval.encoders.backends.openvino_runtime import OpenVinoBackend

        return OpenVinoBackend(model, dtype, weight_hash)
    from ibkd_retrieval.encoders.backends.torch_modules import TorchBackend

    chosen = TorchBackend(model, choose_dtype(dtype, device), lean=run == "lean")
    if run != "lean" and chosen.dtype != "float32" and (fault := chosen.fault()):
        if dtype != "auto":
            raise UserError(f"This architecture does not compute in {dtype} ({fault}): use `dtype='float32'`.")
        return TorchBackend(model, choose_dtype("float32", device), lean=False)
    return chosen


def _first_for_int8() -> str:
    able = [name for name in installed() if name != "torch"]
    if not able:
        raise MissingPackage("onnxruntime", "`dtype='int8'`", "onnx")
    return able[0]
