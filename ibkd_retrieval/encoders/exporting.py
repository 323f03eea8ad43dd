"""Export of a model to one graph of ONNX or OpenVINO, from token ids to the vector of a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.backends.onnx_runtime import INPUTS
from ibkd_retrieval.errors import UserError, require
from ibkd_retrieval.files import new_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

GRAPHS = {
    "onnx": ("onnx/model.onnx", "onnx/model_quantized.onnx"),
    "openvino": ("openvino/openvino_model.xml", "openvino/openvino_model_quantized.xml"),
}
"""The files of a graph and of the one in int8, by format. transformers.js looks for those of ONNX."""
_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
_OUTPUTS = ("token_embeddings", "sentence_embedding")
_TOLERANCE = 1e-5
_PROBE = (
    "A river, and the boats on it; 3.14 of them.",
    "Milk",
    "cheese and bread",
    "which river has the most boats?",
    "The harbour was full of small boats, most of them older than the people who sailed them. " * 4,
)


@dataclass(frozen=True)
class ExportedModel:
    """What an export of a model made.

    Attributes:
        folder: the new folder.
        largest_difference: the largest difference between an element of the probe texts' vectors and that of
            sentence-transformers, in float32.
        int8_cosine: the smallest cosine between a probe text's vector in int8 and in float32. None without int8.
    """

    folder: Path
    largest_difference: float
    int8_cosine: float | None = None


def export_model(name: Path | str, output: Path | str, to: str = "onnx", *, int8: bool = False) -> ExportedModel:
    """Write a model as one graph with its tokenizer: of ONNX (transformers.js, fastembed, ONNX Runtime) or of OpenVINO.

    The graph takes `input_ids` and `attention_mask` [n, tokens], int64. It gives `token_embeddings` [n, tokens, width]
    and `sentence_embedding` [n, dim], float32, after pooling, dense layers and normalisation. The vectors of probe
    texts are compared with those of sentence-transformers before the folder appears.

    Args:
        name: the model: a folder or a hub name.
        output: a new or an empty folder. It appears whole or not at all.
        to: "onnx" or "openvino".
        int8: also write the graph with weights in int8.

    Raises:
        UserError: the model cannot be exported, or the folder is taken.
        MissingPackage: a package of the format is not installed.
    """
    from ibkd_retrieval.encoders.loading import load_sentence_transformer
    from ibkd_retrieval.encoders.routes import check_one_route
    from ibkd_retrieval.encoders.students import is_static
    from ibkd_retrieval.encoders.tokens import excluded_prompt_length

    for package in (*_PACKAGES[to], *(["nncf"] if int8 and to == "openvino" else [])):
        require(package, f"`to='{to}'`", to)
    model = load_sentence_transformer(str(name), device="cpu")
    check_one_route(model, f"{name} cannot be one graph")
    if is_static(model):
        raise UserError(
            f"{name} is a static model, a table of token vectors without a network: model2vec and "
            "sentence-transformers read its folder as it is."
        )
    if any(excluded_prompt_length(model, prompt or "") for prompt in (model.prompts or {}).values()):
        raise UserError(f"The pooling of {name} leaves the prompt out, which a graph cannot: it cannot be exported.")
    with new_folder(output) as made:
        whole, quantised = (made / file for file in GRAPHS[to])
        whole.parent.mkdir()
        try:
            _write_graph(model, whole, to)
        except UserError as error:
            # The advice is to take another backend, which an export has not.
            raise UserError(f"{name} cannot be exported: {str(error).rpartition(':')[0]}.") from error
        expected = model.encode(list(_PROBE), convert_to_numpy=True)
        difference = float(np.abs(_vectors(model, whole, to) - expected).max())
        if not difference <= _TOLERANCE:
            raise UserError(
                f"The graph of {name} gives other vectors than the model (by {difference:.1e}): it is not written."
            )
        cosine = None
        if int8:
            _quantise(whole, quantised, to)
            cosine = _smallest_cosine(_vectors(model, quantised, to), expected)
        model.tokenizer.save_pretrained(made)
        transformer: Any = model[0]
        transformer.auto_model.config.save_pretrained(made)
    return ExportedModel(Path(output), difference, cosine)


def _write_graph(model: SentenceTransformer, path: Path, to: str) -> None:
    import torch

    from ibkd_retrieval.encoders.backends.onnx_runtime import export_onnx, exportable
    from ibkd_retrieval.encoders.backends.openvino_runtime import export_openvino

    class Whole(torch.nn.Module):
        """From token ids to token states and the vector."""

        def __init__(self) -> None:
            super().__init__()
            self.transformer = exportable(model)
            self.rest = torch.nn.ModuleList(list(model)[1:])

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            states = self.transformer(input_ids, attention_mask)
            features = {"token_embeddings": states, "attention_mask": attention_mask}
            for module in self.rest:
                features = module(features)
            return states, features["sentence_embedding"]

    if to == "openvino":
        export_openvino(Whole().eval(), path, _OUTPUTS)
    else:
        export_onnx(model, path, Whole().eval(), _OUTPUTS)


def _quantise(whole: Path, quantised: Path, to: str) -> None:
    """Write a graph with weights in int8 beside the whole one."""
    if to == "openvino":
        from ibkd_retrieval.encoders.backends.openvino_runtime import compress_weights

        compress_weights(whole, quantised)
    else:
        from ibkd_retrieval.encoders.backends.onnx_runtime import quantise

        quantise(whole, quantised)


def _vectors(model: SentenceTransformer, path: Path, to: str) -> NDArray[np.float32]:
    """The vectors [n, dim] that a graph gives for the probe texts, in one padded batch."""
    prompt = (model.prompts or {}).get(model.default_prompt_name or "") or ""
    tokens = model.tokenizer(
        [prompt + text for text in _PROBE],
        padding=True,
        truncation=True,
        max_length=model.max_seq_length,
        return_tensors="np",
    )
    inputs = {name: tokens[name].astype(np.int64) for name in INPUTS}
    vectors: NDArray[np.float32]
    if to == "openvino":
        from ibkd_retrieval.encoders.backends.openvino_runtime import compiled

        vectors = compiled(path, "float32")(inputs)["sentence_embedding"]
    else:
        from ibkd_retrieval.encoders.backends.onnx_runtime import open_session

        vectors = open_session(path).run(["sentence_embedding"], inputs)[0]
    return vectors


def _smallest_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    products = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(products.min())
