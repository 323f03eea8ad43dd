"""A model that is opened again for single queries, without the libraries."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.tiny_models import save_sentence_transformer, sentences, tokenizer
from ibkd_retrieval.encoders import quick
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.query_encoder import QueryEncoder
from ibkd_retrieval.encoders.quick import load_quickly
from ibkd_retrieval.progress import SILENT

SETTINGS = {"backend": "auto", "dtype": "auto", "device": "cpu", "pooling": None, "purpose": "queries"}
TEXTS = [*sentences(12), "", "UPPER [SEP] case", "word " * 200, "don't 🙂 東京"]


def load(folder, **settings):
    return load_quickly(str(folder), sample=list, progress=SILENT, **SETTINGS | settings)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def static(folder, normalised=True):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    torch.manual_seed(0)
    modules = [StaticEmbedding(tokenizer()._tokenizer, embedding_dim=16), *([Normalize()] if normalised else [])]
    SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="cosine" if normalised else "dot").save(
        str(folder), create_model_card=False
    )
    return folder


def with_dense(folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense
    from torch.nn import Identity

    model = SentenceTransformer(str(save_sentence_transformer(folder / "whole", normalize=False)), device="cpu")
    model.append(Dense(32, 8, activation_function=Identity()))
    model.save(str(folder / "dense"), create_model_card=False)
    return folder / "dense"


MODELS = {
    "bert": save_sentence_transformer,
    "roberta": lambda folder: save_sentence_transformer(folder, "roberta", pooling="cls"),
    "mpnet": lambda folder: save_sentence_transformer(folder, "mpnet"),
    "prompts": lambda folder: save_sentence_transformer(folder, prompts={"query": "query: ", "document": "page: "}),
    "lower case": lambda folder: save_sentence_transformer(folder, do_lower_case=True),
    "dense": with_dense,
    "static": static,
    "static, not normalised": lambda folder: static(folder, normalised=False),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_second_opening_gives_the_vectors_of_the_first(tmp_path, kind, dtype):
    if kind.startswith("static") and dtype != "float32":
        pytest.skip("A static model has one number format.")
    folder = MODELS[kind](tmp_path / "model")
    first, second = (load(folder, dtype=dtype if not kind.startswith("static") else "auto") for _ in range(2))
    assert isinstance(first, Encoder)
    assert isinstance(second, QueryEncoder)
    for name in ("name", "weight_hash", "former_hash", "dim", "max_length", "pooling", "dtype", "device"):
        assert getattr(first, name) == getattr(second, name), name
    assert dict(first.prompts) == second.prompts
    theirs = np.concatenate([first.encode([text], "query") for text in TEXTS])
    np.testing.assert_allclose(second.encode(TEXTS, "query"), theirs, atol=1e-6)
    (path,) = records()
    record = json.loads(path.read_text())
    assert record["numpy"] is (dtype == "float32")
    if record["numpy"]:
        third = QueryEncoder(record, (folder / record["weights"]).read_bytes(), lambda: first, "numpy")
        np.testing.assert_allclose(third.encode(TEXTS, "query"), theirs, atol=1e-6)


def test_without_the_libraries(tmp_path, bert):
    code = (
        "import sys\n"
        "from ibkd_retrieval.encoders.quick import load_quickly\n"
        "from ibkd_retrieval.progress import SILENT\n"
        f"settings = {SETTINGS} | {{'dtype': sys.argv[2]}}\n"
        "encoder = load_quickly(sys.argv[1], sample=list, progress=SILENT, **settings)\n"
        "print(encoder.encode(['a river'], 'query').shape[1])\n"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])\n"
    )
    for folder, dtype, dim, loaded in (
        (bert, "bfloat16", 32, "['torch']"),
        (bert, "float32", 32, "[]"),
        (static(tmp_path / "static"), "auto", 16, "[]"),
    ):
        load(folder, dtype=dtype)
        command = [sys.executable, "-c", code, str(folder), dtype]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[:2] == [str(dim), loaded]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json", "modules.json"])
def test_a_changed_file_is_read_anew(tmp_path, bert, name):
    folder = shutil.copytree(bert, tmp_path / "model")
    load(folder)
    assert isinstance(load(folder), QueryEncoder)
    path = folder / name
    content = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(content + b"\n")
    else:
        path.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    assert isinstance(load(folder), Encoder)


def records() -> list[Path]:
    return list((quick.cache_folder() / "queries").iterdir())


def test_a_damaged_record_is_as_good_as_none(bert):
    load(bert)
    (record,) = records()
    whole = json.loads(record.read_text())
    for damaged in (b"", b"{", b"[]", json.dumps(whole | {"tokenizer": "{}"}).encode(), b"\xff" * 99):
        record.write_bytes(damaged)
        assert isinstance(load(bert), Encoder)
        assert isinstance(load(bert), QueryEncoder)


def test_other_settings_and_other_packages_have_other_records(bert, monkeypatch):
    load(bert)
    assert isinstance(load(bert, query_prompt="query: "), Encoder)
    assert load(bert, query_prompt="query: ").prompts["query"] == "query: "
    monkeypatch.setattr(quick.metadata, "version", lambda package: "99")
    assert isinstance(load(bert), Encoder)


def test_a_model_that_is_run_otherwise_has_no_record(tmp_path):
    folder = save_sentence_transformer(tmp_path / "model", prompts={"query": "query: "}, include_prompt=False)
    for _ in range(2):
        assert isinstance(load(folder), Encoder)
    assert not (quick.cache_folder() / "queries").exists()


def test_a_token_without_a_row_is_refused_as_by_the_full_encoder(tmp_path):
    from ibkd_retrieval.errors import UserError

    folder = static(tmp_path / "model")
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    rows = 1 + max(token["id"] for token in described["added_tokens"])
    rows = max(rows, *(described["model"]["vocab"].values())) + 1
    described["added_tokens"].append(
        {"id": rows, "content": "<new>", "special": False, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    )
    path.write_text(json.dumps(described))
    load(folder)
    second = load(folder)
    assert isinstance(second, QueryEncoder)
    with pytest.raises(UserError, match="holds the token '<new>'"):
        second.encode(["a <new> river"], "query")


def test_the_command_asks_by_the_record(tmp_path):
    from ibkd_retrieval.indexing.api import build_index

    build_index(dict(enumerate(sentences(12))), str(static(tmp_path / "model")), tmp_path / "i")
    code = (
        "import sys\n"
        "from ibkd_cli.app import main\n"
        "try:\n    main()\n"
        "finally:\n    print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, "search", "a river", "--index", str(tmp_path / "i"), "--quiet"]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert [each.strip().rpartition("\n")[2] for each in outputs] == ["['torch', 'transformers']", "[]"]


def test_what_was_measured_as_the_best_for_queries_opens_without_torch(tmp_path, bert):
    pytest.importorskip("openvino")
    from ibkd_retrieval.encoders.autotune.choice import BackendConfig, remember_choice

    whole = Encoder.load(str(bert), device="cpu", backend="openvino", dtype="float32")  # leaves its file in the cache
    load(bert)
    remember_choice(whole.weight_hash, "cpu", "queries", BackendConfig("openvino", "float32"))
    found = load(bert)
    assert isinstance(found, QueryEncoder)
    assert (found.backend, found.dtype) == ("openvino", "float32")
    texts = [text for text in TEXTS if text]
    theirs = np.concatenate([whole.encode([text], "query") for text in texts])
    np.testing.assert_allclose(found.encode(texts, "query"), theirs, atol=1e-6)
    code = (
        "import sys\n"
        "from ibkd_retrieval.encoders.quick import load_quickly\n"
        "from ibkd_retrieval.progress import SILENT\n"
        f"encoder = load_quickly(sys.argv[1], sample=list, progress=SILENT, **{SETTINGS})\n"
        "encoder.encode(['a river'], 'query')\n"
        "print([name for name in ('openvino', 'torch', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bert)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['openvino']"
    shutil.rmtree(quick.cache_folder() / "openvino")
    assert load(bert).backend in ("torch", "numpy")
    assert load(bert, dtype="float32").backend != "openvino"
