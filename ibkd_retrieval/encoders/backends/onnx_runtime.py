"""Export of a transformer to ONNX, once for each set of weights, and the ONNX Runtime backend, on a CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.errors import UserError, WorkFailed, reason_of, require
from ibkd_retrieval.files import cache_folder, sync_directory, sync_tree

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.tokens import PaddedTokens

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "token_states"
# Part of every file name. It is raised when the exported graph changes.
_VERSION = 1
_OPSET = 18
# An ONNX file is one protobuf message, which holds at most 2 GiB.
_MOST_BYTES = 2**31 - 2**24


def cached(backend: str, name: str, make: Callable[[Path], None]) -> Path:
    """Return the cache folder that `make` fills. It is made where it is absent, and appears only when complete.

    Raises:
        WorkFailed: the user's cache folder cannot be written.
    """
    folder = cached_folder(backend, name)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            make(temporary)
            sync_tree(temporary)  # After a power cut, no name may exist without its content.
            # Another process may have written the same content first.
            with contextlib.suppress(FileExistsError, OSError) if folder.is_dir() else contextlib.nullcontext():
                os.replace(temporary, folder)
            sync_directory(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():
            return folder
        raise WorkFailed(
            f"The model for `backend='{backend}'` cannot be kept in {folder.parent} ({error.strerror or error}): "
            "make room there, set XDG_CACHE_HOME to a folder that can be written, or give `backend='torch'`."
        ) from error
    return folder


def cached_folder(backend: str, name: str) -> Path:
    """Return the cache folder that `cached` fills."""
    return cache_folder() / backend / f"{name}-v{_VERSION}"


@contextlib.contextmanager
def opening(backend: str, path: Path) -> Iterator[None]:
    """Turn the error of a runtime that cannot open a cached file into a message.

    Raises:
        WorkFailed: the file cannot be opened.
    """
    try:
        yield
    except Exception as error:  # Each runtime has its own error classes.
        raise WorkFailed(
            f"{path}, made before for `backend='{backend}'`, cannot be opened ({reason_of(error)}): delete the folder "
            f"{path.parent}, and it is made anew, or give `backend='torch'`."
        ) from error


def exportable(model: SentenceTransformer) -> Any:
    """Return a module `input_ids, attention_mask -> token states` for tracers. It shares the model's parameters.

    Raises:
        UserError: further modules of the model read more than token states.
    """
    from ibkd_retrieval.encoders.backends.lean import TracedTransformer
    from ibkd_retrieval.encoders.backends.torch_modules import gives_token_states

    if not gives_token_states(model):
        raise UserError(
            "This model's pooling reads more of its transformer than the last layer's states, which only torch gives: "
            "use `backend='torch'`."
        )
    transformer: Any = model[0]
    return TracedTransformer(transformer.auto_model)


def export_onnx(
    model: SentenceTransformer, path: Path, graph: torch.nn.Module | None = None, outputs: Sequence[str] = (OUTPUT,)
) -> None:
    """Write a float32 model on a CPU as an ONNX file. Batch size and length are dynamic.

    Args:
        model: the model.
        path: the file to write.
        graph: a module `input_ids, attention_mask -> outputs`. None is the transformer of the model.
        outputs: the names of the outputs. Token states have the axes texts, tokens and width.

    Raises:
        UserError: the model is too large for a file, or of an architecture that cannot be exported.
    """
    import torch

    transformer: Any = model[0]
    size = sum(p.numel() * p.element_size() for p in transformer.auto_model.parameters())
    if size > _MOST_BYTES:
        raise UserError(
            f"The model has {size / 1e9:.1f} GB of weights, and an ONNX file holds 2: use `backend='torch'`."
        )
    with tracing():
        try:
            torch.onnx.export(
                exportable(model) if graph is None else graph,
                example_inputs(),
                str(path),
                input_names=list(INPUTS),
                output_names=list(outputs),
                dynamic_axes={name: {0: "texts", 1: "tokens"} for name in (*INPUTS, outputs[0])}
                | {name: {0: "texts"} for name in outputs[1:]},
                opset_version=_OPSET,
                dynamo=False,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise not_exportable("onnx", error) from error


def not_exportable(backend: str, error: Exception) -> UserError:
    """Return the error for a model that the converter of a runtime does not support."""
    return UserError(
        f"The model cannot be converted for `backend='{backend}'` ({reason_of(error)}): use `backend='torch'`."
    )


def example_inputs() -> tuple[Any, Any]:
    """Return the example for tracers: two texts, one of them padded."""
    import torch

    ids = torch.full((2, 9), 5, dtype=torch.int64)
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    return ids, mask


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Trace without gradients and without the warnings of tracers."""
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
        self._session = open_session(onnx_file(model, dtype, weight_hash))

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

    def make(folder: Path) -> None:
        quantise(whole, folder / "model.onnx")

    return cached("onnx", f"{weight_hash[:32]}-int8{'' if _has_vnni() else '-7bit'}", make) / "model.onnx"


def quantise(whole: Path, path: Path) -> None:
    """Write an ONNX model with the weights of its matrix products in int8, one scale per output channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The exported graph transposes weights. Only plain constants are quantised.
    folded = path.with_name("folded.onnx")
    open_session(whole, folded)
    with quiet_converters():
        quantize_dynamic(
            folded,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            # Without VNNI, 8-bit products are summed in 16 bits, which overflow unless weights have 7 bits.
            reduce_range=not _has_vnni(),
            weight_type=QuantType.QInt8,
        )
    folded.unlink()


def _has_vnni() -> bool:
    from ibkd_retrieval.encoders.autotune.cpu import processor_features

    return bool({"vnni", "amx"} & set(processor_features()))


def open_session(path: Path, folded: Path | None = None) -> Any:
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
def quiet_converters() -> Iterator[None]:
    """Keep the advice and the progress bars of converters off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
