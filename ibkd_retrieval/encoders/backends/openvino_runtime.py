"""The OpenVINO backend, on a CPU."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.backends.onnx_runtime import (
    INPUTS,
    OUTPUT,
    cached,
    example_inputs,
    exportable,
    not_exportable,
    opening,
    quiet_converters,
    tracing,
)
from ibkd_retrieval.errors import UserError, require

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.tokens import PaddedTokens

_PURPOSE = "`backend='openvino'`"


class OpenVinoBackend:
    """Runs the transformer of a model from an OpenVINO file in the user's cache folder.

    In int8, NNCF quantises weights and activations. It calibrates their ranges on a sample of texts. Several threads
    may call it.
    """

    name = "openvino"

    def __init__(
        self, model: SentenceTransformer, dtype: str, weight_hash: str, sample: Sequence[PaddedTokens]
    ) -> None:
        """Convert `model`, in float32 and on a CPU, unless the file is cached, and compile it.

        Raises:
            MissingPackage: openvino, or for int8 nncf, is not installed.
            UserError: the model cannot be converted, or there is no sample for int8.
            WorkFailed: the file cannot be kept.
        """
        require("openvino", _PURPOSE, "openvino")
        from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast

        transformer: Any = model[0]
        self.dtype = ("bfloat16" if bfloat16_is_fast() else "float32") if dtype == "auto" else dtype
        self._output = str(transformer.module_output_name)
        self._compiled = compiled(openvino_file(model, self.dtype, weight_hash, sample), self.dtype)
        self._own = threading.local()

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer. See `Backend`."""
        import torch

        mask = tokens.full_mask
        found = self._request().infer(dict(zip(INPUTS, (tokens.ids, mask), strict=True)), share_inputs=True)
        # The next run overwrites this memory. The vectors are computed before.
        return {self._output: torch.from_numpy(found[OUTPUT]), "attention_mask": torch.from_numpy(mask)}

    def _request(self) -> Any:
        """Return the request of the calling thread. A shared one could give a thread the result of another."""
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        return request


def export_openvino(graph: torch.nn.Module, path: Path, outputs: Sequence[str] = (OUTPUT,)) -> None:
    """Write a module `input_ids, attention_mask -> outputs` as an OpenVINO file. Batch size and length are dynamic.

    Raises:
        UserError: the architecture cannot be converted.
    """
    import openvino

    with tracing(), quiet_converters():
        try:
            converted = openvino.convert_model(graph, example_input=example_inputs())
        except (RuntimeError, openvino.frontend.OpConversionFailure) as error:
            raise not_exportable("openvino", error) from error
    for port, name in zip(converted.inputs, INPUTS, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
    for port, name in zip(converted.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(converted, path, compress_to_fp16=False)


def compress_weights(whole: Path, compressed: Path) -> None:
    """Write an OpenVINO file with its weights in int8. Activations stay in floating point."""
    import nncf
    import openvino

    with quiet_converters():
        model = nncf.compress_weights(openvino.Core().read_model(whole), mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(model, compressed, compress_to_fp16=False)


def openvino_file(model: SentenceTransformer, dtype: str, weight_hash: str, sample: Sequence[PaddedTokens]) -> Path:
    """Return the OpenVINO file of a float32 model, plain or quantised. It is made where it is absent."""

    def convert(folder: Path) -> None:
        export_openvino(exportable(model), folder / "model.xml")

    whole = cached("openvino", weight_hash[:32], convert) / "model.xml"
    if dtype != "int8":
        return whole
    require("nncf", f"{_PURPOSE} with `dtype='int8'`", "openvino")
    if not sample:
        raise UserError("`backend='openvino'` with `dtype='int8'` is calibrated on documents, and there are none here.")

    def quantise(folder: Path) -> None:
        import nncf
        import openvino

        with opening("openvino", whole):
            read = openvino.Core().read_model(whole)
        with quiet_converters():
            quantised = nncf.quantize(
                read,
                nncf.Dataset(sample, lambda tokens: dict(zip(INPUTS, (tokens.ids, tokens.full_mask), strict=True))),
                subset_size=len(sample),
                model_type=nncf.ModelType.TRANSFORMER,
            )
        openvino.save_model(quantised, folder / "model.xml", compress_to_fp16=False)

    digest = hashlib.sha256(b"".join(tokens.ids.tobytes() for tokens in sample)).hexdigest()
    return cached("openvino", f"{weight_hash[:32]}-int8-{digest[:16]}", quantise) / "model.xml"


def compiled(path: Path, dtype: str) -> Any:
    """Compile an OpenVINO file for the CPU, to compute in float32 or bfloat16."""
    import openvino
    import torch

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        # Its default is bfloat16 where the processor has it.
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
    }
    with opening("openvino", path):
        return openvino.Core().compile_model(path, "CPU", settings)
