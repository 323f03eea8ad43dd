"""Every backend gives the vectors of float32 torch, and says in one sentence what it cannot do."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.tiny_models import save_sentence_transformer, sentences
from ibkd_retrieval.encoders.autotune.choice import LEAST_COSINE, MEAN_COSINE
from ibkd_retrieval.encoders.backends.lean import LeanTransformer, is_lean
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import MissingPackage, UserError, WorkFailed

TEXTS = [*sentences(30, seed=1), "", "a", "word " * 200, "Ünïcode, 東京!", "[PAD] river [PAD]"]
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """One cache folder for the module, so that a model is converted once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=["onnx", "openvino"])
def other(request):
    """A backend other than torch, where it is installed."""
    for package in PACKAGES[request.param]:
        pytest.importorskip(package)
    return request.param


def load(folder, **options):
    return Encoder.load(str(folder), device="cpu", **({"dtype": "float32"} | options))


@pytest.mark.parametrize("kind", ["bert", "mpnet", "roberta"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_a_backend_gives_the_vectors_of_torch_whatever_the_batching(tmp_path, other, kind, batch_tokens):
    folder = save_sentence_transformer(tmp_path / kind, kind)
    encoder = load(folder, backend=other, batch_tokens=batch_tokens)
    assert (encoder.backend, encoder.dtype) == (other, "float32")
    np.testing.assert_allclose(encoder.encode(TEXTS), load(folder).encode(TEXTS), atol=1e-5)


def test_an_architecture_that_has_no_lean_form_is_converted_from_transformers(tmp_path, other, monkeypatch):
    folder = save_sentence_transformer(tmp_path / "m", "bert", seed=7)
    expected = load(folder).encode(TEXTS)
    monkeypatch.setattr("ibkd_retrieval.encoders.backends.lean.is_lean", lambda model: False)
    np.testing.assert_allclose(load(folder).encode(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(load(folder, backend=other).encode(TEXTS), expected, atol=1e-5)


def test_prompts_pooling_and_length_are_those_of_torch(prompted, plain_bert, other):
    for kind in ("query", "document"):
        expected = load(prompted).encode(TEXTS, kind)
        np.testing.assert_allclose(load(prompted, backend=other).encode(TEXTS, kind), expected, atol=1e-5)
    settings = {"pooling": "cls", "max_length": 7, "dim": 8}
    expected = load(plain_bert, **settings).encode(TEXTS)
    np.testing.assert_allclose(load(plain_bert, backend=other, **settings).encode(TEXTS), expected, atol=1e-5)


def test_a_backend_keeps_the_weight_hash_of_the_weights(bert, other):
    assert load(bert, backend=other).weight_hash == load(bert).weight_hash


def test_a_model_is_converted_once_for_its_weights(tmp_path, other, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, two = (save_sentence_transformer(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    for _ in range(2):
        load(one, backend=other)
    made = list((tmp_path / "cache" / "ibkd" / other).iterdir())
    assert len(made) == 1
    before = {path: path.stat().st_mtime_ns for path in made[0].iterdir()}
    load(two, backend=other)
    assert len(list((tmp_path / "cache" / "ibkd" / other).iterdir())) == 2
    assert {path: path.stat().st_mtime_ns for path in made[0].iterdir()} == before


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path, other, monkeypatch):
    from ibkd_retrieval.encoders.backends import onnx_runtime as export

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def broken(path):
        (path / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(WorkFailed, match=r"No space left on device.*XDG_CACHE_HOME"):
        export.cached(other, "name", broken)
    assert list((tmp_path / "cache" / "ibkd" / other).iterdir()) == []


def test_a_file_of_the_cache_that_does_not_open_is_named_with_what_to_do(tmp_path, other, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = save_sentence_transformer(tmp_path / "m", seed=4)
    load(folder, backend=other)
    (made,) = (tmp_path / "cache" / "ibkd" / other).iterdir()
    for path in made.iterdir():
        path.write_bytes(b"")
    with pytest.raises(WorkFailed, match=f"cannot be opened .*delete the folder {made}, .*`backend='torch'`"):
        load(folder, backend=other)


def test_what_a_runtime_cannot_open_is_a_sentence(tmp_path):
    from ibkd_retrieval.encoders.backends.onnx_runtime import opening

    path = tmp_path / "name-v1" / "model.onnx"
    sentence = (
        r"model.onnx, made before for `backend='onnx'`, cannot be opened \(no graph\): delete the folder .*name-v1,"
    )
    with pytest.raises(WorkFailed, match=sentence), opening("onnx", path):
        raise RuntimeError("no graph.\nand more")


def test_what_is_kept_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    import os

    from ibkd_retrieval.encoders.backends import onnx_runtime as export

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda of: done.append(Path(os.readlink(f"/proc/self/fd/{of}")).name) or sync(of))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or replace(*names))
    folder = export.cached("onnx", "name", lambda path: (path / "model.onnx").write_bytes(b"graph") and None)
    assert (folder / "model.onnx").read_bytes() == b"graph"
    assert done.index("model.onnx") < done.index("renamed")


def test_int8_points_where_float32_points(tmp_path, other):
    if other == "openvino":
        pytest.importorskip("nncf")
    folder = save_sentence_transformer(tmp_path / "m", "bert", seed=3)
    encoder = load(folder, backend=other, dtype="int8")
    got, exact = encoder.encode(TEXTS), load(folder).encode(TEXTS)
    assert encoder.dtype == "int8"
    assert np.abs(got - exact).max() > 1e-4, "nothing was quantised"
    assert (got * exact).sum(1).mean() > 0.95


def test_int8_of_openvino_is_close_enough_for_auto_whatever_the_batch(tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    folder = save_sentence_transformer(tmp_path / "m", "bert", seed=3)
    exact = load(folder).encode(TEXTS)
    for most in (1, 4096):
        cosines = (load(folder, backend="openvino", dtype="int8", batch_tokens=most).encode(TEXTS) * exact).sum(1)
        assert cosines.mean() >= MEAN_COSINE
        assert cosines.min() >= LEAST_COSINE


def test_int8_without_a_backend_takes_one_that_can(bert, other, monkeypatch):
    monkeypatch.setattr("ibkd_retrieval.encoders.backends.backend.installed", lambda: ("torch", "onnx"))
    pytest.importorskip("onnxruntime")
    assert load(bert, backend="auto", dtype="int8").backend == "onnx"
    monkeypatch.setattr("ibkd_retrieval.encoders.backends.backend.installed", lambda: ("torch",))
    with pytest.raises(MissingPackage, match="`dtype='int8'` needs onnxruntime"):
        load(bert, backend="auto", dtype="int8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "tensorflow"}, "Unknown backend `tensorflow`: use one of auto, torch, onnx, openvino"),
        (
            {"backend": "onnx", "dtype": "bfloat16"},
            "onnx'` does not compute in bfloat16.*`backend='torch'` or `backend='openvino'`",
        ),
        ({"backend": "openvino", "dtype": "float16"}, "openvino'` does not compute in float16"),
        (
            {"backend": "torch", "dtype": "int8"},
            "torch'` does not compute in int8.*`backend='onnx'` or `backend='openvino'`",
        ),
    ],
)
def test_what_a_backend_cannot_do_is_said_before_anything_is_converted(bert, options, words):
    with pytest.raises(UserError, match=words):
        load(bert, **options)


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_missing_package_is_named_with_the_line_to_type(bert, package, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == package else find(name, *more))
    backend = "onnx" if package == "onnxruntime" else "openvino"
    if backend == "onnx":
        pytest.importorskip("onnx")
    with pytest.raises(MissingPackage, match=rf"`backend='{backend}'` needs {package}: type `pip install"):
        load(bert, backend=backend)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "roberta"])
def test_the_lean_transformer_gives_the_states_of_transformers(kind):
    from helpers.tiny_models import transformer

    model = transformer(kind)
    assert is_lean(model)
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[0, 4] = 0  # a padding id amid a text, which RoBERTa and MPNet do not count
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    ids[1, 7:] = 0
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        lean = LeanTransformer(model)
        got, unmasked = lean(ids, mask), lean(ids[:1], None)
        seen = mask.bool()
        lengths = mask.sum(1).tolist()
        positions = torch.arange(12).expand(3, 12)[seen]
        packed = torch.zeros_like(expected)
        packed[seen] = lean.packed(ids[seen], positions, lengths, None)
        lean.pack_weights()
        laid_out = lean(ids, mask)
        still = model(input_ids=ids, attention_mask=mask).last_hidden_state
    for states in (got, packed, laid_out, still):
        torch.testing.assert_close(states[seen], expected[seen], atol=1e-5, rtol=0)
    torch.testing.assert_close(unmasked[0], expected[0], atol=1e-5, rtol=0)


def test_the_lean_transformer_takes_no_memory_of_its_own():
    from helpers.tiny_models import transformer

    model = transformer("bert")
    lean = LeanTransformer(model)
    attention = model.encoder.layer[0].attention.self
    whole = lean._layers[0].inputs.weight
    assert attention.query.weight.data_ptr() == whole.data_ptr()
    assert attention.value.weight.data_ptr() == whole[2 * whole.shape[1] :].data_ptr()


def test_one_relative_bias_is_kept_whatever_the_lengths():
    from helpers.tiny_models import transformer

    model = transformer("mpnet")
    lean = LeanTransformer(model)
    with torch.inference_mode():
        for length in (12, 5, 30, 7):
            ids = torch.randint(5, 60, (2, length), generator=torch.Generator().manual_seed(length))
            expected = model(input_ids=ids).last_hidden_state
            flat = lean.packed(ids.view(-1), torch.arange(length).repeat(2), [length] * 2, None)
            torch.testing.assert_close(lean(ids, None), expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(flat.view(2, length, -1), expected, atol=1e-5, rtol=0)
    kept = [each.shape for each in vars(lean).values() if isinstance(each, torch.Tensor) and each.dim() == 4]
    assert kept == [(1, 4, 30, 30)]


@pytest.mark.parametrize(
    "change", [{"hidden_act": "relu"}, {"is_decoder": True}, {"position_embedding_type": "relative_key"}]
)
def test_other_architectures_are_left_to_transformers(change):
    from helpers.tiny_models import transformer

    model = transformer("bert")
    for name, value in change.items():
        setattr(model.config, name, value)
    assert not is_lean(model)


def test_an_adapter_is_not_left_out():
    from helpers.tiny_models import transformer

    class Adapted(torch.nn.Linear):
        pass

    model = transformer("bert")
    model.encoder.layer[0].output.dense = Adapted(64, 32)
    assert not is_lean(model)


class LowRank(torch.nn.Module):
    """A linear layer with an adapter beside it, in the shape in which peft puts them into a model."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(2, base.out_features, bias=False)})

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, states):
        return self.base_layer(states) + self.lora_B["default"](self.lora_A["default"](states))


@pytest.mark.parametrize("kind", ["bert", "mpnet", "roberta"])
def test_an_adapter_around_a_plain_layer_is_not_left_out(kind):
    from helpers.tiny_models import transformer

    model = transformer(kind)
    attention = model.encoder.layer[0].attention
    if kind == "mpnet":
        attention.attn.q = LowRank(attention.attn.q)
    else:
        attention.self.query = LowRank(attention.self.query)
    assert not is_lean(model)


@pytest.mark.parametrize(("hidden", "can"), [(32, True), (24, False), (4 * 256, True), (4 * 264, False)])
def test_one_attention_over_all_lengths_is_for_heads_of_widths_that_it_takes(hidden, can, monkeypatch):
    from helpers.tiny_models import transformer

    monkeypatch.setattr("ibkd_retrieval.encoders.backends.lean.has_varlen", lambda device, dtype: True)
    assert LeanTransformer(transformer("bert", layers=1, hidden=hidden)).can_vary() is can


MEGABYTE = "river bank water " * 60_000
UNKNOWN = "☃ ☄ ☕ 𓀀"
ODD = ["", " ", "\n\t", MEGABYTE, "x" * 1_000_000, UNKNOWN, "река 東京 nehir ποτάμι نهر", "\x00\x07", "🙂" * 300]


WAYS = [("torch", "float32"), ("torch", "bfloat16"), ("onnx", "float32"), ("openvino", "float32")]


@pytest.mark.parametrize(
    ("backend", "dtype", "kind"),
    [*((*way, "bert") for way in WAYS), *((*way, kind) for way in WAYS[:2] for kind in ("mpnet", "roberta"))],
)
def test_odd_texts_have_vectors_that_do_not_depend_on_their_neighbours(tmp_path, backend, dtype, kind):
    for package in PACKAGES.get(backend, ()):
        pytest.importorskip(package)
    folder = save_sentence_transformer(tmp_path / kind, kind)
    # The tokenizers of the other two set no limit, and a model reads no more than it has positions for.
    encoder = load(folder, backend=backend, dtype=dtype, max_length=64)
    together = encoder.encode([*ODD, *sentences(5)])
    # What a sum of numbers of 8 bits comes to depends on the shapes of the products around it.
    near = 1e-5 if dtype == "float32" else 0.02
    assert np.isfinite(together).all()
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    for row, text in enumerate(ODD):
        np.testing.assert_allclose(encoder.encode([text])[0], together[row], atol=near)
    if dtype != "float32":
        assert ((together * load(folder, max_length=64).encode([*ODD, *sentences(5)])).sum(1) > 0.998).all()
    # All that is read of a long text is its beginning.
    np.testing.assert_allclose(encoder.encode([MEGABYTE[:2000]])[0], together[3], atol=near)


@pytest.mark.parametrize(("backend", "dtype"), WAYS)
@pytest.mark.parametrize("wrong", [None, 7, "a\ud800", b"bytes", ("a", "b")])
def test_what_is_no_text_is_named_in_every_backend(bert, backend, dtype, wrong):
    for package in PACKAGES.get(backend, ()):
        pytest.importorskip(package)
    with pytest.raises(UserError, match="Text number 2 "):
        load(bert, backend=backend, dtype=dtype).encode(["a", "b", wrong])


@pytest.mark.parametrize(("backend", "dtype"), WAYS)
def test_threads_that_share_an_encoder_are_each_given_their_own_vectors(bert, backend, dtype):
    for package in PACKAGES.get(backend, ()):
        pytest.importorskip(package)
    encoder = load(bert, backend=backend, dtype=dtype)
    # Of one length, so that nothing but the values tells one thread's from another's.
    texts = [" ".join([word] * 50) for word in ("river", "bank", "cloud", "stone", "bread", "train")]
    alone = [encoder.encode([text]) for text in texts]

    def ask(turn: int) -> bool:
        return np.array_equal(encoder.encode([texts[turn % len(texts)]]), alone[turn % len(texts)])

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(ask, range(300)))


def test_openvino_is_run_by_a_request_of_each_thread(bert, monkeypatch):
    from ibkd_retrieval.encoders.backends import openvino_runtime
    from ibkd_retrieval.encoders.tokens import pad_ids

    class Request:
        def __init__(self):
            self.callers = set()

        def infer(self, inputs, share_inputs):
            self.callers.add(threading.get_ident())
            return {openvino_runtime.OUTPUT: np.zeros((*inputs["input_ids"].shape, 8), np.float32)}

    requests = []

    class Compiled:
        def create_infer_request(self):
            requests.append(Request())
            return requests[-1]

    monkeypatch.setattr(openvino_runtime, "require", lambda *named: None)
    monkeypatch.setattr(openvino_runtime, "openvino_file", lambda *of: None)
    monkeypatch.setattr(openvino_runtime, "compiled", lambda *of: Compiled())
    backend = openvino_runtime.OpenVinoBackend(load(bert)._model, "float32", "hash")
    together = threading.Barrier(2)

    def run(_):
        together.wait(10)
        for _ in range(3):
            backend(pad_ids([[1, 2, 3]], 0))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, range(2)))
    assert len(requests) == 2
    assert all(len(request.callers) == 1 for request in requests)
