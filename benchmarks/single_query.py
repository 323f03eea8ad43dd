"""Milliseconds of one query at a time: this toolkit, its peers, and compiled forms of its forward pass, in one run.

    python benchmarks/single_query.py --models-dir DIR [--model all-MiniLM-L6-v2] [--rounds 40] [--threads 1 2]

In every round each system encodes one query of each length, in an order that changes from round to round. The time
includes tokenising and pooling. The compiled forms have a graph for each length: by
`torch.compile`, and by `torch.export` with AOTInductor, which writes a file. Their time to compile, the time to load,
and the size are written too. Cosines are to sentence-transformers in float32. Each number of threads runs in
a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (8, 16, 32, 64)
WORDS = (
    "which of the vitamins has an effect on the density of bones in older women with little calcium in their food and "
    "how long does it take until the effect can be measured in the blood and in the bones of the hip and of the back "
    "and does it differ from that in men of the same age who take the same amount of it every day of the year or less"
)
PACKAGES = ("openvino", "onnxruntime", "nncf")
Encode = Callable[[str], np.ndarray]


def main() -> None:
    """Measure in a process for each number of threads, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--models-dir", type=Path, required=True)
    options.add_argument("--model", default="all-MiniLM-L6-v2")
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--without", nargs="*", default=[], help="systems to leave out, by the start of their names")
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "single_query.json")
    options.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        print(json.dumps(measure(given, given.child)))
        return
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for threads in given.threads:
            environment = os.environ | {
                "OMP_NUM_THREADS": str(threads),
                "OMP_WAIT_POLICY": "PASSIVE",
                "TORCHINDUCTOR_CACHE_DIR": f"{work}/inductor",
                "HF_HUB_OFFLINE": "1",
            }
            command = [sys.executable, *sys.argv, "--child", str(threads)]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            found[f"{threads} threads"] = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(found, indent=1), flush=True)
    versions = {name: metadata.version(name) for name in PACKAGES if util.find_spec(name)}
    what = {"model": given.model, "rounds": given.rounds, "date": datetime.date.today().isoformat()}
    load = {"load_average_after": os.getloadavg()}
    write_json(given.output, what | found | load | {"environment": read_environment().to_json() | versions})


def measure(given: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Median and least milliseconds of every system by the length of the query, and its least cosine."""
    import torch

    torch.set_num_threads(threads)
    folder = given.models_dir / given.model
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), device="cpu")
    texts = {length: of_length(peer, length) for length in LENGTHS}
    notes: dict[str, dict[str, Any]] = {}
    systems = named(given, {**peers(peer, folder), **ours(folder), **compiled(folder, peer, texts, notes, given)})
    exact = {length: peer.encode([text], normalize_embeddings=True)[0] for length, text in texts.items()}
    cosines: dict[str, list[float]] = {name: [] for name in systems}
    for name, encode in systems.items():
        for length, text in texts.items():
            vector = [encode(text) for _ in range(3)][-1]
            cosines[name].append(float(exact[length] @ vector / np.linalg.norm(vector)))
    taken: dict[str, dict[int, list[float]]] = {name: {length: [] for length in texts} for name in systems}
    for number in range(given.rounds):
        for name in random.Random(number).sample(sorted(systems), len(systems)):
            for length, text in texts.items():
                systems[name](text)  # The caches hold the weights of another system.
                began = time.perf_counter()
                systems[name](text)
                taken[name][length].append(1000 * (time.perf_counter() - began))
    return {
        name: {
            "p50_ms": {str(length): round(statistics.median(each), 3) for length, each in by.items()},
            "least_ms": {str(length): round(min(each), 3) for length, each in by.items()},
            "least_cosine": round(min(cosines[name]), 6),
            **notes.get(name, {}),
        }
        for name, by in taken.items()
    }


def named(given: argparse.Namespace, systems: Mapping[str, Encode]) -> dict[str, Encode]:
    """The systems that are not left out."""
    return {name: each for name, each in systems.items() if not name.startswith(tuple(given.without))}


def of_length(model: Any, length: int) -> str:
    """The beginning of the words that has so many tokens, special ones included."""
    words = WORDS.split()
    beginnings = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
    return min(beginnings, key=lambda text: abs(len(model.tokenizer(text)["input_ids"]) - length))


def peers(peer: Any, folder: Path) -> dict[str, Encode]:
    """sentence-transformers in torch, and ONNX Runtime and OpenVINO as a plain script uses them."""
    import torch
    from sentence_transformers import SentenceTransformer

    half = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    found: dict[str, Encode] = {
        "sentence-transformers float32": lambda text: peer.encode([text], normalize_embeddings=True)[0],
        "sentence-transformers bfloat16": lambda text: half.encode([text], normalize_embeddings=True)[0],
    }
    from ibkd_retrieval.encoders.autotune.choice import candidates
    from ibkd_retrieval.encoders.encoder import Encoder

    for config in candidates("cpu"):
        if config.backend != "torch":
            encoder = Encoder.load(str(folder), device="cpu", backend=config.backend, dtype=config.dtype)
            found[f"plain {config}"] = plain(peer, encoder)
            found[f"ibkd Encoder {config}"] = lambda text, encoder=encoder: encoder.encode([text], "query")[0]
    return found


def plain(peer: Any, encoder: Any) -> Encode:
    """The same runtime and file, with the tokenizer of transformers and mean pooling by numpy."""
    from ibkd_retrieval.encoders.tokens import PaddedTokens

    def encode(text: str) -> np.ndarray:
        ids = peer.tokenizer([text], return_tensors="np")["input_ids"].astype(np.int64)
        states = next(iter(encoder._backend(PaddedTokens(ids, None)).values())).numpy()
        mean = states[0].mean(axis=0)
        return mean / np.linalg.norm(mean)

    return encode


def ours(folder: Path) -> dict[str, Encode]:
    """The encoder of this toolkit, and that of single questions, which is opened by its record."""
    from ibkd_retrieval.encoders import quick
    from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.encoders.query_encoder import QueryEncoder

    found: dict[str, Encode] = {}

    def add(name: str, encoder: Any) -> None:
        found[name] = lambda text: encoder.encode([text], "query")[0]

    def refuse() -> Any:
        raise SystemExit("a query encoder asked for the full one")

    for dtype in ("float32", *(["bfloat16"] if bfloat16_is_fast() else [])):
        full = Encoder.load(str(folder), device="cpu", dtype=dtype)
        add(f"ibkd Encoder torch {dtype}", full)
        settings = {"backend": "torch", "dtype": dtype, "device": "cpu", "pooling": None}
        full.keep_for_queries(str(folder), settings)
        record = json.loads(quick._path(quick._key(folder, settings)).read_text("utf-8"))
        weights = (folder / record["weights"]).read_bytes()
        for backend, each in (("torch", dtype), ("numpy", "float32"), *(("openvino", d) for d in openvino_dtypes())):
            name = f"ibkd QueryEncoder {backend} {each}"
            if name not in found and (backend != "numpy" or dtype == "float32"):
                add(name, QueryEncoder(record | {"dtype": each}, weights, refuse, backend))
    return found


def openvino_dtypes() -> list[str]:
    """The number formats in which OpenVINO runs here."""
    from ibkd_retrieval.encoders.autotune.choice import candidates

    return [config.dtype for config in candidates("cpu") if config.backend == "openvino"]


def compiled(
    folder: Path, peer: Any, texts: Mapping[int, str], notes: dict[str, dict[str, Any]], given: argparse.Namespace
) -> dict[str, Encode]:
    """Our forward pass by torch.compile and by AOTInductor, a graph for each length, with its mean and norm."""
    import torch
    from transformers import AutoModel

    from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast
    from ibkd_retrieval.encoders.backends.lean import LeanTransformer

    torch._inductor.config.freezing = True  # type: ignore[attr-defined]
    whole = AutoModel.from_pretrained(str(folder)).eval()

    class Vector(torch.nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.lean = LeanTransformer(copy.deepcopy(whole).to(dtype))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.lean(ids, None).float().mean(1), dim=-1)

    def ids_of(text: str) -> torch.Tensor:
        return torch.tensor([peer.tokenizer(text)["input_ids"]])

    found: dict[str, Encode] = {}
    dtype = "bfloat16" if bfloat16_is_fast() else "float32"
    vector = Vector(getattr(torch, dtype))
    for way in named(given, dict.fromkeys(("torch.compile", "AOTInductor"), plain)):
        name = f"{way} {dtype}"
        graphs: dict[int, Any] = {}
        sizes = seconds = loading = 0.0
        with torch.no_grad(), tempfile.TemporaryDirectory() as work:
            for text in texts.values():
                ids = ids_of(text)
                began = time.perf_counter()
                if way == "torch.compile":
                    graph = graphs[ids.shape[1]] = torch.compile(vector, dynamic=False)
                    graph(ids)
                    seconds += time.perf_counter() - began
                    continue
                path = f"{work}/{ids.shape[1]}.pt2"
                exported = torch.export.export(vector, (ids,))
                settings = {"freezing": True}
                torch._inductor.aoti_compile_and_package(exported, package_path=path, inductor_configs=settings)
                seconds += time.perf_counter() - began
                began = time.perf_counter()
                graphs[ids.shape[1]] = torch._inductor.aoti_load_package(path)
                loading += time.perf_counter() - began
                sizes += os.path.getsize(path)

        def encode(text: str, graphs: dict[int, Any] = graphs) -> np.ndarray:
            ids = ids_of(text)
            with torch.no_grad():
                return graphs[ids.shape[1]](ids)[0].numpy()

        found[name] = encode
        notes[name] = {"compile_seconds": round(seconds, 1), "load_seconds": round(loading, 2), "bytes": int(sizes)}
    return found


if __name__ == "__main__":
    main()
