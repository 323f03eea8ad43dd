"""Ways to encode in int8: how close vectors stay to float32, what nDCG@10 they give, and how fast they are.

usage: python benchmarks/int8_encoders.py --data-dir DIR --models-dir DIR --work-dir DIR [--models NAME ...]
       [--ways NAME ...] [--passages N] [--documents N] [--rounds N]

Every way runs the same tokens and batches, with the pooling of the model. Cosines and nDCG@10 are over all passages
that SciFact's test judgements name, and others up to --passages. Times are of --documents abstracts, and of single
queries, in turn in every round, on one thread. They are processor time, which is the time that passes on an idle
machine. Converted models are kept below --work-dir. What is not installed is left out (openvino, nncf, onnxruntime,
onnx_ir, ctranslate2, torchao). Writes benchmarks/results/int8_encoders.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ibkd_retrieval.encoders.autotune.choice import cosines_between
from ibkd_retrieval.encoders.autotune.cpu import processor_features
from ibkd_retrieval.encoders.backends import onnx_runtime, openvino_runtime
from ibkd_retrieval.encoders.backends.onnx_runtime import INPUTS, OUTPUT
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.tokens import pad_ids, tokenize
from ibkd_retrieval.evaluation.evaluate import evaluate
from ibkd_retrieval.evaluation.significance import paired_t_test
from ibkd_retrieval.files import write_json
from regression_term import judged, ranking

RESULT = Path(__file__).parent / "results" / "int8_encoders.json"
MODELS = ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2", "bge-small-en-v1.5-dequantised")
PACKAGES = ("torch", "openvino", "nncf", "onnxruntime", "ctranslate2", "torchao")
CALIBRATION = 48
METRIC = "ndcg@10"


def named(tokens: Any) -> dict[str, Any]:
    """The inputs of a graph by name."""
    return dict(zip(INPUTS, (tokens.ids, tokens.full_mask), strict=True))


class Ways:
    """Encoders of one model."""

    def __init__(self, folder: Path, work: Path, texts: list[str]) -> None:
        """Take a model, a folder for what is made of it, and texts to calibrate with."""
        self.folder, self.work, self.texts = str(folder), work / folder.name, texts
        self.work.mkdir(parents=True, exist_ok=True)

    def load(self, backend: str = "torch", dtype: str = "float32") -> Encoder:
        """The model in one of the toolkit's own configurations."""
        return Encoder.load(
            self.folder, device="cpu", backend=backend, dtype=dtype, query_prompt="", document_prompt=""
        )

    def by(self, run: Callable[[Any], Any]) -> Encoder:
        """The model with another backend: a function of padded tokens that gives token states."""
        encoder = self.load()

        def backend(tokens: Any) -> dict[str, Any]:
            states = torch.from_numpy(np.asarray(run(tokens)))
            return {"token_embeddings": states, "attention_mask": torch.from_numpy(tokens.full_mask)}

        encoder._loaded = replace(encoder._present, backend=backend)
        return encoder

    def openvino(self, group: int | None = None, rest: str = "bf16", **quantise: Any) -> Encoder:
        """Weights in int8 and ranges for groups of a token, or for no group calibrated ranges."""
        import nncf
        import openvino

        whole = self.work / "whole.xml"
        if not whole.exists():
            openvino_runtime.export_openvino(onnx_runtime.exportable(self.load()._model), whole)
        core = openvino.Core()
        model = core.read_model(whole)
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": rest}
        with onnx_runtime.quiet_converters():
            if group is not None:
                model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
                settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(group)
            else:
                ids = [pad_ids([each], 0) for each in tokenize(self.load()._model, self.texts)]
                inputs = nncf.Dataset(
                    ids, lambda tokens: dict(zip(INPUTS, (tokens.ids, tokens.full_mask), strict=True))
                )
                kind = nncf.ModelType.TRANSFORMER
                model = nncf.quantize(model, inputs, subset_size=len(ids), model_type=kind, **quantise)
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return self.by(lambda tokens: request.infer(named(tokens))[OUTPUT])

    def calibrated_but_narrowing(self) -> Encoder:
        """Calibrated ranges, but for the layers that read GELU's outputs."""
        import nncf

        layers = int(self.load()._model[0].auto_model.config.num_hidden_layers)
        names = [f"__module._lean/aten::linear/MatMul_{number}" for number in range(3, 4 * layers, 4)]
        return self.openvino(ignored_scope=nncf.IgnoredScope(names=names))

    def blocks(self, size: int) -> Encoder:
        """ONNX Runtime's product with weights, and numbers of a token, in blocks with a range each."""
        from onnxruntime.quantization import matmul_nbits_quantizer as blockwise
        from onnxruntime.quantization import quant_utils

        whole, folded, path = (self.work / name for name in ("whole.onnx", "folded.onnx", f"blocks-{size}.onnx"))
        if not path.exists():
            onnx_runtime.export_onnx(self.load()._model, whole)
            onnx_runtime.open_session(whole, folded)
            how = blockwise.DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=True, accuracy_level=4, bits=8)
            quantiser = blockwise.MatMulNBitsQuantizer(quant_utils.load_model_with_shape_infer(folded), algo_config=how)
            quantiser.process()
            quantiser.model.save_model_to_file(str(path), False)
        session = onnx_runtime.open_session(path)
        return self.by(lambda tokens: session.run(None, named(tokens))[0])

    def ctranslate2(self) -> Encoder:
        """CTranslate2: weights by channel, a range for each token."""
        import ctranslate2

        folder = self.work / "ctranslate2"
        if not folder.exists():
            ctranslate2.converters.TransformersConverter(self.folder).convert(str(folder))
        model = ctranslate2.Encoder(str(folder), device="cpu", compute_type="int8", intra_threads=1)

        def run(tokens: Any) -> Any:
            ids, lengths = tokens.ids.astype(np.int32), tokens.full_mask.sum(axis=1).astype(np.int32)
            view = ctranslate2.StorageView.from_array
            return model.forward_batch(view(ids), view(lengths)).last_hidden_state

        return self.by(run)

    def modules(self, change: Callable[[torch.nn.Module], torch.nn.Module]) -> Encoder:
        """The modules of transformers, changed."""
        model = change(self.load()._model[0].auto_model.eval())

        def run(tokens: Any) -> Any:
            ids, mask = (torch.from_numpy(each) for each in (tokens.ids, tokens.full_mask))
            return model(input_ids=ids, attention_mask=mask).last_hidden_state

        return self.by(run)

    def torch_dynamic(self) -> Encoder:
        """The quantised linear layers of torch: weights by channel, a range for each batch."""
        kind = torch.ao.quantization.per_channel_dynamic_qconfig
        return self.modules(lambda model: torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear: kind}))

    def torchao(self) -> Encoder:
        """The layers of torchao: weights by channel, a range for each token, without compilation."""
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        def change(model: torch.nn.Module) -> torch.nn.Module:
            quantize_(model, Int8DynamicActivationInt8WeightConfig())
            return model

        return self.modules(change)

    def all(self) -> dict[str, Callable[[], Encoder]]:
        """How each is made, by name. The first is exact."""
        return {
            "torch float32": self.load,
            "torch bfloat16": lambda: self.load(dtype="bfloat16"),
            "openvino float32": lambda: self.load("openvino"),
            "openvino bfloat16": lambda: self.load("openvino", "bfloat16"),
            "onnx float32": lambda: self.load("onnx"),
            "openvino int8": lambda: self.load("openvino", "int8"),
            "openvino, groups of 32": lambda: self.openvino(32),
            "openvino, groups of 128": lambda: self.openvino(128),
            "openvino, groups of 384": lambda: self.openvino(384),
            "openvino, groups of 64, the rest in float32": lambda: self.openvino(64, "f32"),
            "openvino, weights alone": lambda: self.openvino(0),
            "openvino, calibrated": self.openvino,
            "openvino, calibrated, but narrowing layers": self.calibrated_but_narrowing,
            "onnx int8": lambda: self.load("onnx", "int8"),
            "onnx, blocks of 32": lambda: self.blocks(32),
            "onnx, blocks of 128": lambda: self.blocks(128),
            "ctranslate2": self.ctranslate2,
            "torch, quantised layers": self.torch_dynamic,
            "torchao": self.torchao,
        }


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of every way for one model."""
    data = judged(given.data_dir / "scifact", "test", passages=given.passages)
    ways = Ways(folder, given.work_dir, list(islice(data.passages.values(), CALIBRATION)))
    encoders: dict[str, Encoder] = {}
    found: dict[str, Any] = {}
    for name, make in ways.all().items():
        if given.ways and name not in (*given.ways, "torch float32"):
            continue
        try:
            encoders[name] = make()
            encoders[name].encode(["a trial", "of two texts that differ in length"])
        except (ImportError, RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            encoders.pop(name, None)
            print(f"{name} is left out: {str(error)[:200]}", flush=True)
    exact: Any = None
    scores: dict[str, Any] = {}
    passages = list(data.passages.values())
    for name, encoder in encoders.items() if given.passages else ():
        vectors = encoder.encode(passages)
        exact = vectors if exact is None else exact
        scores[name] = evaluate(ranking(encoder, data, vectors), data.judgements, METRIC).per_query(METRIC)
        cosines = cosines_between(vectors, exact)
        first, own = (list(scores[each].values()) for each in ("torch float32", name))
        found[name] = {"mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}
        found[name] |= {METRIC: float(np.mean(own))}
        found[name]["p"] = None if own == first else float(paired_t_test(own, first).p_value)
        print(name, found[name], flush=True)
    for name, figures in speeds(encoders, passages[:: max(1, len(passages) // given.documents)], data, given).items():
        found[name] = found.get(name, {}) | figures
        print(name, figures, flush=True)
    return found


def speeds(encoders: dict[str, Encoder], texts: list[str], data: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Documents a second and milliseconds a query: medians, and of documents the slowest and fastest round."""
    queries = sorted(data.queries.values(), key=len)[:20]
    taken: dict[str, list[float]] = {name: [] for name in encoders}
    alone: dict[str, list[float]] = {name: [] for name in encoders}
    order = list(encoders)
    for number in range(given.rounds):
        random.Random(number).shuffle(order)
        for name in order:
            encoder = encoders[name]
            encoder.encode(texts[:2])
            taken[name].append(timed(partial(encoder.encode, texts)))
            encoder.encode(queries[:1], "query")
            alone[name] += [timed(partial(encoder.encode, [each], "query")) for each in queries]
    return {
        name: {
            "documents_per_second": len(texts) / statistics.median(taken[name]),
            "documents_per_second_range": [len(texts) / max(taken[name]), len(texts) / min(taken[name])],
            "query_ms": 1000 * statistics.median(alone[name]),
        }
        for name in encoders
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--ways", nargs="+", help="these alone, beside float32")
    parser.add_argument("--passages", type=int, default=1500, help="0: speeds alone")
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    result: dict[str, Any] = json.loads(given.result.read_text("utf-8")) if given.result.exists() else {"models": {}}
    for name in given.models:
        row = result["models"].get(name, {})
        for way, figures in measure(given.models_dir / name, given).items():
            row[way] = row.get(way, {}) | figures
        result["models"][name] = row
        versions = {package: metadata.version(package) for package in PACKAGES if package_is_here(package)}
        environment = read_environment().to_json() | {"features": list(processor_features())} | versions
        setting = {"passages": given.passages, "documents": given.documents, "rounds": given.rounds}
        today = {"date": datetime.date.today().isoformat(), "environment": environment}
        write_json(given.result, result | setting | today)


def package_is_here(package: str) -> bool:
    """Whether a package is installed."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
