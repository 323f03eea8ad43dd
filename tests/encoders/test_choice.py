from types import SimpleNamespace

import numpy as np
import pytest

from helpers.tiny_models import sentences
from ibkd_retrieval.encoders.autotune import choice
from ibkd_retrieval.encoders.autotune import cpu as machine
from ibkd_retrieval.encoders.autotune import cpu as remembered
from ibkd_retrieval.encoders.autotune.choice import BackendConfig, Measured, cosines_between, fastest, sample_texts
from ibkd_retrieval.encoders.autotune.load import load_encoder
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import WorkFailed
from ibkd_retrieval.progress import SILENT

EXACT = Measured(BackendConfig("torch", "float32"), 10.0, 0.010, 1.0, 1.0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_fastest_that_keeps_the_vectors_is_taken_for_each_purpose():
    near = Measured(BackendConfig("onnx", "float32"), 8.0, 0.005, 0.9999, 0.999)
    half = Measured(BackendConfig("torch", "bfloat16"), 30.0, 0.011, 0.9995, 0.996)
    assert fastest([EXACT, near, half], "documents").config == half.config
    assert fastest([EXACT, near, half], "queries").config == near.config


@pytest.mark.parametrize(("mean", "least"), [(0.9989, 0.998), (0.9995, 0.9949)])
def test_a_faster_one_whose_vectors_differ_is_refused_by_name(mean, least):
    rough = Measured(BackendConfig("onnx", "int8"), 40.0, 0.002, mean, least)
    chosen = fastest([EXACT, rough], "documents")
    assert chosen.config == EXACT.config
    assert "onnx int8 would give 40 documents/s" in chosen.reason
    assert f"{least:.5f} at least" in chosen.reason


def test_the_sample_is_spread_and_always_the_same():
    texts = [str(number) for number in range(5000)]
    assert sample_texts(texts) == sample_texts(iter(texts)) == [str(n) for n in range(0, 1536, 16)]
    assert sample_texts(["a", "b"]) == ["a"]


def test_cosines_are_those_of_the_formula():
    left, right = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    left[3] = right[3] = 0
    expected = [
        1.0 if i == 3 else left[i] @ right[i] / np.linalg.norm(left[i]) / np.linalg.norm(right[i]) for i in range(5)
    ]
    np.testing.assert_allclose(cosines_between(left, right), expected, atol=1e-6)


def test_measuring_tells_an_encoder_from_its_half_precision(bert):
    exact, half = (Encoder.load(str(bert), device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    found = choice.measure(
        {BackendConfig("torch", "float32"): exact, BackendConfig("torch", "bfloat16"): half}, sentences(20), rounds=1
    )
    assert found[0].mean_cosine == pytest.approx(1.0)
    assert found[1].least_cosine < 0.999999
    assert all(one.documents_per_second > 0 and one.query_seconds > 0 for one in found)


def test_what_cannot_run_is_left_out_whatever_it_raises(bert, monkeypatch):
    configs = [BackendConfig("torch", "float32"), *(BackendConfig("onnx", str(number)) for number in range(4))]
    monkeypatch.setattr(choice, "candidates", lambda device: configs)

    class RuntimeOfSomeone(Exception):
        pass

    def load(backend, dtype):
        if backend == "torch":
            return Encoder.load(str(bert), device="cpu", dtype="float32")
        if dtype == "3":  # It loads, and then does not run.
            return SimpleNamespace(max_length=64, encode=lambda texts: 1 // 0)
        raise (WorkFailed("The model cannot be kept."), RuntimeOfSomeone("no\nmore"), RuntimeError())[int(dtype)]

    said = []
    progress = SimpleNamespace(say=said.append)
    assert list(choice.load_candidates(load, "cpu", progress)) == configs[:1]
    assert said == [
        "onnx 0 is left out: The model cannot be kept.",
        "onnx 1 is left out: RuntimeOfSomeone (no)",
        "onnx 2 is left out: RuntimeError",
        "onnx 3 is left out: ZeroDivisionError (integer division or modulo by zero)",
    ]
    with pytest.raises(WorkFailed):
        choice.load_candidates(lambda backend, dtype: load("onnx", "0"), "cpu", progress)


def test_a_choice_is_remembered_for_the_model_the_machine_and_the_purpose(bert, monkeypatch):
    monkeypatch.setattr(
        choice, "candidates", lambda device: [BackendConfig("torch", "float32"), BackendConfig("torch", "bfloat16")]
    )
    loaded = []

    def load(backend, dtype):
        loaded.append((backend, dtype))
        return Encoder.load(str(bert), device="cpu", backend=backend, dtype=dtype)

    chosen = choice.choose(load, sentences(8), "cpu")
    assert loaded == [("torch", "float32"), ("torch", "bfloat16")]
    hash_ = load("torch", "float32").weight_hash
    assert choice.remembered_choice(hash_, "cpu", "documents") == chosen.config
    choice.remember_choice("a model", "cpu", "documents", chosen.config)
    assert choice.remembered_choice("a model", "cpu", "queries") is None
    assert choice.remembered_choice("another", "cpu", "documents") is None
    for name, other in (
        ("machine_key", lambda: {"processor": "another"}),
        ("device_name", lambda device: "another"),
        ("__version__", "another"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(choice, name, other)
            assert choice.remembered_choice(hash_, "cpu", "documents") is None
    assert choice.remembered_choice(hash_, "cpu", "documents") == chosen.config


def test_one_measurement_chooses_for_documents_and_for_queries(bert, monkeypatch):
    configs = [BackendConfig("torch", "float32"), BackendConfig("torch", "bfloat16")]
    measured = [Measured(configs[0], 10.0, 0.002, 1.0, 1.0), Measured(configs[1], 20.0, 0.003, 0.9999, 0.999)]
    monkeypatch.setattr(choice, "candidates", lambda device: configs)
    monkeypatch.setattr(choice, "measure", lambda encoders, texts: measured)
    said = []
    load = lambda backend, dtype: Encoder.load(str(bert), device="cpu", backend=backend, dtype=dtype)  # noqa: E731
    found = choice.choose(load, sentences(8), "cpu", progress=SimpleNamespace(say=said.append))
    weights = load("torch", "float32").weight_hash
    assert found.config == choice.remembered_choice(weights, "cpu", "documents") == configs[1]
    assert choice.remembered_choice(weights, "cpu", "queries") == configs[0]
    assert [line.partition(":")[0] for line in said] == ["torch bfloat16 for documents", "torch float32 for queries"]


def test_for_few_queries_no_library_is_opened_that_takes_long(bert):
    pytest.importorskip("onnxruntime")
    weights = Encoder.load(str(bert), device="cpu").weight_hash
    choice.remember_choice(weights, "cpu", "queries", BackendConfig("onnx", "float32"))
    how = {"purpose": "queries", "progress": SILENT, "device": "cpu"}
    assert load_encoder(str(bert), "auto", "auto", list, **how).backend == "onnx"
    assert load_encoder(str(bert), "auto", "auto", list, few=True, **how).backend == "torch"


@pytest.fixture
def loads(monkeypatch):
    """The names of the models that are read from disk."""
    from ibkd_retrieval.encoders import encoder

    read, load = [], encoder.load_sentence_transformer
    monkeypatch.setattr(
        encoder, "load_sentence_transformer", lambda name, **how: read.append(name) or load(name, **how)
    )
    return read


def test_a_model_is_read_once_where_a_choice_is_remembered(bert, loads):
    found = Encoder.load(str(bert), device="cpu")
    other = BackendConfig("torch", "float32" if found.dtype == "bfloat16" else "bfloat16")
    choice.remember_choice(found.weight_hash, "cpu", "documents", other)
    loads.clear()
    encoder = load_encoder(str(bert), "auto", "auto", list, purpose="documents", progress=SILENT, device="cpu")
    assert (encoder.backend, encoder.dtype) == (other.backend, other.dtype)
    assert loads == [str(bert)]
    expected = Encoder.load(str(bert), device="cpu", dtype=other.dtype).encode(sentences(5))
    np.testing.assert_array_equal(encoder.encode(sentences(5)), expected)


def test_a_model_is_read_once_for_each_configuration_that_is_measured(bert, loads, monkeypatch):
    configs = [BackendConfig("torch", "float32"), BackendConfig("torch", "bfloat16")]
    monkeypatch.setattr(choice, "candidates", lambda device: configs)
    how = {"purpose": "documents", "measure": lambda: True, "progress": SILENT, "device": "cpu"}
    encoder = load_encoder(str(bert), "auto", "auto", lambda: sentences(8), **how)
    assert len(loads) == 2
    assert choice.remembered_choice(encoder.weight_hash, "cpu", "documents") == BackendConfig("torch", encoder.dtype)


def test_what_is_remembered_is_read_back_and_damage_is_taken_for_nothing(tmp_path):
    remembered.remember("thing", {"a": 1}, 2.5)
    assert remembered.recall("thing", {"a": 1}) == 2.5
    assert remembered.recall("thing", {"a": 2}) is None
    assert remembered.recall("other", {"a": 1}) is None
    (path,) = (tmp_path / "cache" / "ibkd" / "measured").iterdir()
    path.write_text("{")
    assert remembered.recall("thing", {"a": 1}) is None


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remembered.remember("thing", {"a": 1}, 2.5)
    assert remembered.recall("thing", {"a": 1}) is None


def test_half_precision_is_taken_only_where_a_measurement_shows_it_fast(monkeypatch):
    import torch

    rates = {torch.float32: 1e11, torch.bfloat16: 4e11}
    asked = []
    monkeypatch.setattr(machine, "matrix_peak", lambda dtype: asked.append(dtype) or rates[dtype])
    monkeypatch.setattr(machine, "processor_features", lambda: ("avx2",))
    assert not machine.bfloat16_is_fast()
    assert asked == []
    monkeypatch.setattr(machine, "processor_features", lambda: ("avx2", "amx"))
    assert machine.bfloat16_is_fast()
    assert machine.bfloat16_is_fast()
    assert len(asked) == 2, "measured once, then remembered"
