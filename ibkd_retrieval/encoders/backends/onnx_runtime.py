"""The ONNX Runtime backend, on a CPU."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.backends.conversion import INPUTS, cached, export_onnx, opening
from ibkd_retrieval.encoders.backends.protocol import require

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.tokens import PaddedTokens

_PURPOSE = "`backend='onnx'`"


class OnnxBackend:
    """Runs the transformer of a model from an ONNX file in the user's cache folder.

    In int8, the weights of matrix products are quantised once per output channel. The range of the activations is
    computed for every batch, so no calibration is needed and all corpora are treated alike.
    """

    name = "onnx"

    def __init__(self, model: SentenceTransformer, dtype: str, weight_hash: str) -> None:
        """Export `model`, in float32 and on a CPU, unless the file is cached, and open it.

        Raises:
            MissingPackage: onnx or onnxruntime is not installed.
            UserError: the model cannot be exported.
            WorkFailed: the file cannot be kept.
        """
        for package in ("onnx", "onnxruntime"):
            require(package, _PURPOSE, "onnx")
        self.dtype = dtype
        transformer: Any = model[0]
        self._output = str(transformer.module_output_name)
        self._session = _session(onnx_file(model, dtype, weight_hash))

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer. See `Backend`."""
        import torch

        mask = tokens.full_mask
        (states,) = self._session.run(None, dict(zip(INPUTS, (tokens.ids, mask), strict=True)))
        return {self._output: torch.from_numpy(states), "attention_mask": torch.from_numpy(mask)}


def onnx_file(model: SentenceTransformer, dtype: str, weight_hash: str) -> Path:
    """Return the ONNX file of a float32 model, in float32 or quantised. It is made where it is absent."""

    def export(folder: Path) -> None:
        export_onnx(model, folder / "model.onnx")

    whole = cached("onnx", weight_hash[:32], export) / "model.onnx"
    if dtype == "float32":
        return whole

    def quantise(folder: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # The exported graph transposes weights. Only plain constants are quantised.
        folded = folder / "folded.onnx"
        _session(whole, folded)
        with _quiet():
            quantize_dynamic(
                folded,
                folder / "model.onnx",
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                # Without VNNI, 8-bit products are summed in 16 bits, which overflow unless weights have 7 bits.
                reduce_range=not _has_vnni(),
                weight_type=QuantType.QInt8,
            )
        folded.unlink()

    return cached("onnx", f"{weight_hash[:32]}-int8{'' if _has_vnni() else '-7bit'}", quantise) / "model.onnx"


def _has_vnni() -> bool:
    from ibkd_retrieval.encoders.autotune.cpu import processor_features

    return bool({"vnni", "amx"} & set(processor_features()))


def _session(path: Path, folded: Path | None = None) -> Any:
    """Open a model. With `folded`, write the model after constant folding to that path, for any machine."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Idle threads must not spin, because the tokenizer needs the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if folded is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
    with opening("onnx", path):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the advice of the quantiser off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
