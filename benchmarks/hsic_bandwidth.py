"""What the forgetting term sees: bandwidth 1 on vectors as they come against the median bandwidth on unit vectors.

usage: python benchmarks/hsic_bandwidth.py --data-dir DIR --models-dir DIR [--model NAME] [--batches N]

DIR/scifact is the BEIR folder whose documents are encoded; models are folders of their names below --models-dir. X is
a model's mean-pooled embedding-layer output, S its mean-pooled output. Each figure is the median over batches. Writes
benchmarks/results/hsic_bandwidth.json.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import statistics
from pathlib import Path

import torch

from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.distill.objectives.functional import cka, gaussian_kernel, hsic, off_diagonal_mean, unbiased_hsic
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.tokens import pad, tokenize
from ibkd_retrieval.files import write_json

BATCH = 256
MAX_LENGTH = 96
MODELS = ("all-MiniLM-L6-v2", "all-mpnet-base-v2")
# Bandwidth, and the length that vectors are brought to; None leaves each its own.
CASES = {
    "gamma 1, vectors as they come": (1.0, None),
    "gamma 1, vectors of norm 6": (1.0, 6.0),
    "gamma 1, unit vectors": (1.0, 1.0),
    "median, vectors as they come": ("median", None),
    "median, unit vectors": ("median", 1.0),
}


def pooled(model, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over tokens of the embedding layer's output and of the last layer's, [n, e] and [n, h], not normalised."""
    inputs, outputs = [], []
    transformer = model[0].auto_model
    hook = transformer.embeddings.register_forward_hook(lambda module, arguments, output: embedded.append(output))
    token_ids = tokenize(model, texts)
    for start in range(0, len(texts), 64):
        embedded: list[torch.Tensor] = []
        features = pad(model, token_ids[start : start + 64])
        with torch.inference_mode():
            last = transformer(**features).last_hidden_state
        mask = features["attention_mask"][..., None].float()
        inputs.append((embedded[0] * mask).sum(1) / mask.sum(1))
        outputs.append((last * mask).sum(1) / mask.sum(1))
    hook.remove()
    return torch.cat(inputs).clone(), torch.cat(outputs).clone()


def look(x: torch.Tensor, s: torch.Tensor, bandwidth: float | str, length: float | None) -> dict[str, float]:
    """What HSIC and its gradient are for one batch."""
    if length is not None:
        x, s = (length * torch.nn.functional.normalize(each, dim=-1) for each in (x, s))
    s = s.clone().requires_grad_(True)
    kernel_x, kernel_s = gaussian_kernel(x, bandwidth), gaussian_kernel(s, bandwidth)
    value = hsic(kernel_x, kernel_s)
    (gradient,) = torch.autograd.grad(value, s, retain_graph=True)
    return {
        "norm_x": float(x.norm(dim=1).mean()),
        "norm_s": float(s.detach().norm(dim=1).mean()),
        "kernel_x_off_diagonal": float(off_diagonal_mean(kernel_x)),
        "kernel_s_off_diagonal": float(off_diagonal_mean(kernel_s.detach())),
        "hsic": float(value.detach()),
        "hsic_of_identity_kernels": 1 / (len(x) - 1),
        "unbiased_hsic": float(unbiased_hsic(kernel_x, kernel_s.detach())),
        "cka": float(cka(kernel_x, kernel_s.detach())),
        # Of the vectors' directions and lengths together, relative to their size, so that the cases compare.
        "relative_gradient_norm": float(gradient.norm() * s.detach().norm()),
    }


def main() -> None:
    """Measure all cases and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--model", action="append", help="folder below --models-dir, repeatable")
    parser.add_argument("--batches", type=int, default=5)
    given = parser.parse_args()
    documents = itertools.islice(open_corpus(str(given.data_dir / "scifact")).documents(), BATCH * given.batches)
    texts = [document.content for document in documents]
    rows = []
    for name in given.model or MODELS:
        model = load_sentence_transformer(str(given.models_dir / name), max_length=MAX_LENGTH)
        x, s = pooled(model, texts)
        for case, (bandwidth, length) in CASES.items():
            looks = [
                look(x[start : start + BATCH], s[start : start + BATCH], bandwidth, length)
                for start in range(0, BATCH * given.batches, BATCH)
            ]
            medians = {key: statistics.median(each[key] for each in looks) for key in looks[0]}
            rows.append({"model": name, "case": case} | medians)
            print(rows[-1])
    result = {
        "data_set": f"the first {len(texts)} documents of BEIR SciFact, {MAX_LENGTH} tokens of each",
        "batch": BATCH,
        "batches": given.batches,
        "rows": rows,
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(Path(__file__).parent / "results" / "hsic_bandwidth.json", result)


if __name__ == "__main__":
    main()
