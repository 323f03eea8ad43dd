"""From a model and the names of a backend and a number format to what runs it."""

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
    """Open what runs the transformer of a float32 model that is on its device.

    Args:
        model: taken over; torch converts its transformer in place.
        backend: "torch", "onnx" or "openvino"; "auto" is torch, and for int8 the first that is installed and can.
        dtype: "auto" is what the backend computes in fastest without losing more than a half format does.
        weight_hash: of the model; what is made of it is kept under this name.
        sample: tokens of texts such as will be encoded, which int8 is calibrated on where the backend does so.
        run: how the model may run in torch; the other backends run what may run lean or on token ids.

    Raises:
        UserError: an unknown name, or what the backend or the device cannot do.
        MissingPackage: the backend is not installed.
        WorkFailed: what is made for the backend cannot be kept.
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
