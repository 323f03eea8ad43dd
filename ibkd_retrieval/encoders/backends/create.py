"""Choice of the backend object by the names of a backend and a number format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ibkd_retrieval.encoders.backends.protocol import Backend, check_choice, installed
from ibkd_retrieval.encoders.device import choose_dtype
from ibkd_retrieval.errors import MissingPackage, UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.faithful import Run
    from ibkd_retrieval.encoders.tokens import PaddedTokens


def open_backend(
    model: SentenceTransformer,
    backend: str,
    dtype: str,
    weight_hash: str,
    sample: Sequence[PaddedTokens] = (),
    *,
    run: Run = "lean",
) -> Backend:
    """Open the backend for the transformer of a float32 model on its device.

    Args:
        model: the model. Torch converts its transformer in place.
        backend: "torch", "onnx" or "openvino". "auto" is torch, and for int8 the first installed one with int8.
        dtype: the number format. "auto" is the fastest of the backend that is at least as exact as a half format.
        weight_hash: the weight hash of the model, which names its cached files.
        sample: tokens of sample texts, for the calibration of int8 where the backend needs one.
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

        return OpenVinoBackend(model, dtype, weight_hash, sample)
    from ibkd_retrieval.encoders.backends.torch_modules import TorchBackend

    return TorchBackend(model, choose_dtype(dtype, device), lean=run == "lean")


def _first_for_int8() -> str:
    able = [name for name in installed() if name != "torch"]
    if not able:
        raise MissingPackage("onnxruntime", "`dtype='int8'`", "onnx")
    return able[0]
