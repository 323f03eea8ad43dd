"""The OpenVINO backend, on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.backends.onnx_runtime import (
    INPUTS,
    OUTPUT,
    cached,
    cached_folder,
    example_inputs,
    exportable,
    not_exportable,
    opening,
    quiet_converters,
    tracing,
)
from ibkd_retrieval.errors import require

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.tokens import PaddedTokens

_PURPOSE = "`backend='openvino'`"
# So many numbers of a token share a range. With 32, vectors are hardly closer, and encoding takes an eighth longer.
# With 128, the mean cosine of MiniLM-L6 falls below 0.999.
_GROUP = 64
_FILE = "model.xml"


class OpenVinoBackend:
    """Runs the transformer of a model from an OpenVINO file in the user's cache folder.

    In int8, NNCF rounds the weights by output channel. OpenVINO rounds what they are multiplied with as it goes, with a
    range for each token and group of numbers. So nothing is calibrated. The rest runs in
    bfloat16 where that is fast. Several threads may call it.
    """

    name = "openvino"

    def __init__(self, model: SentenceTransformer, dtype: str, weight_hash: str) -> None:
        """Convert `model`, in float32 and on a CPU, unless the file is cached, and compile it.

        Raises:
            MissingPackage: openvino, or for int8 nncf, is not installed.
            UserError: the model cannot be converted.
            WorkFailed: the file cannot be kept.
        """
        require("openvino", _PURPOSE, "openvino")
        transformer: Any = model[0]
        self.dtype = _fastest_format() if dtype == "auto" else dtype
        self._output = str(transformer.module_output_name)
        self._states = inference(compiled(openvino_file(model, self.dtype, weight_hash), self.dtype))

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer. See `Backend`."""
        import torch

        mask = tokens.full_mask
        return {
            self._output: torch.from_numpy(self._states(tokens.ids, mask)),
            "attention_mask": torch.from_numpy(mask),
        }


def inference(model: Any) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]:
    """Return a function from ids and mask [n, longest] to states [n, longest, width]. Several threads may call it."""
    own = threading.local()

    def states(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        # A shared request could give a thread the result of another.
        request = getattr(own, "request", None)
        if request is None:
            request = own.request = model.create_infer_request()
        # The next run overwrites this memory. The vectors are computed before.
        found: NDArray[np.float32] = request.infer(dict(zip(INPUTS, (ids, mask), strict=True)), share_inputs=True)[
            OUTPUT
        ]
        return found

    return states


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
    """Write an OpenVINO file with its weights in int8, one scale and zero for each output channel."""
    import nncf
    import openvino

    with quiet_converters():
        model = nncf.compress_weights(openvino.Core().read_model(whole), mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(model, compressed, compress_to_fp16=False)


def openvino_file(model: SentenceTransformer, dtype: str, weight_hash: str) -> Path:
    """Return the OpenVINO file of a float32 model, plain or with weights in int8. It is made where it is absent."""

    def convert(folder: Path) -> None:
        export_openvino(exportable(model), folder / _FILE)

    whole = cached("openvino", _named(weight_hash, "float32"), convert) / _FILE
    if dtype != "int8":
        return whole
    require("nncf", f"{_PURPOSE} with `dtype='int8'`", "openvino")

    def compress(folder: Path) -> None:
        with opening("openvino", whole):
            compress_weights(whole, folder / _FILE)

    return cached("openvino", _named(weight_hash, dtype), compress) / _FILE


def cached_openvino_file(weight_hash: str, dtype: str) -> Path:
    """Return where `openvino_file` leaves its file."""
    return cached_folder("openvino", _named(weight_hash, dtype)) / _FILE


def _named(weight_hash: str, dtype: str) -> str:
    return f"{weight_hash[:32]}-int8" if dtype == "int8" else weight_hash[:32]


def _fastest_format() -> str:
    from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast

    return "bfloat16" if bfloat16_is_fast() else "float32"


def compiled(path: Path, dtype: str, threads: int | None = None, rest: str | None = None) -> Any:
    """Compile an OpenVINO file for the CPU.

    Args:
        path: the file.
        dtype: the number format.
        threads: the number of threads. None is that of torch.
        rest: the number format of what int8 leaves. None is the fastest here, which needs torch.
    """
    import openvino

    if threads is None:
        import torch

        threads = torch.get_num_threads()
    rest = dtype if dtype != "int8" else rest or _fastest_format()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Its default is bfloat16 where the processor has it.
        "INFERENCE_PRECISION_HINT": "bf16" if rest == "bfloat16" else "f32",
    }
    if dtype == "int8":
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _GROUP
    with opening("openvino", path):
        return openvino.Core().compile_model(path, "CPU", settings)
