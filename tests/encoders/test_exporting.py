"""One ONNX graph from token ids to the vector, run by ONNX Runtime as other tools run it."""

import importlib.util

import numpy as np
import pytest

from helpers.tiny_models import save_plain_transformer, save_sentence_transformer
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.exporting import export_model
from ibkd_retrieval.encoders.students import keep_leading_dimensions
from ibkd_retrieval.errors import UserError

TEXTS = ["a boat on the river", "bread", "cheese and bread and a boat on the river by the bank"]


def run(folder, texts, file="model.onnx"):
    """The outputs of a graph for texts, with the tokenizer of its folder."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(str(folder / "onnx" / file), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [each.name for each in session.get_outputs()] == ["token_embeddings", "sentence_embedding"]
    return session.run(None, {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")})


def test_openvino_gives_the_vectors_of_the_model_for_any_number_and_length_of_texts(tmp_path):
    openvino = pytest.importorskip("openvino")
    from transformers import AutoTokenizer

    folder = save_sentence_transformer(tmp_path / "tiny", "mpnet")
    with_int8 = importlib.util.find_spec("nncf") is not None
    made = export_model(folder, tmp_path / "out", "openvino", int8=with_int8)
    assert made.largest_difference <= 1e-5
    encoder = Encoder.load(folder, device="cpu", dtype="float32")
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    for file in ("openvino_model.xml", "openvino_model_quantized.xml")[: 1 + with_int8]:
        graph = openvino.Core().compile_model(tmp_path / "out" / "openvino" / file, "CPU", precise)
        assert [port.any_name for port in graph.inputs] == ["input_ids", "attention_mask"]
        assert [port.any_name for port in graph.outputs] == ["token_embeddings", "sentence_embedding"]
        for texts in (TEXTS, TEXTS[:1]):
            tokens = AutoTokenizer.from_pretrained(tmp_path / "out")(texts, padding=True, return_tensors="np")
            found = graph({name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")})
            difference = np.abs(found["sentence_embedding"] - encoder.encode(texts)).max()
            assert difference <= 1e-5 if file == "openvino_model.xml" else 1e-5 < difference < 0.1
            assert found["token_embeddings"].shape[::2] == (len(texts), encoder.width)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("bert", {}), ("bert", {"pooling": "cls"}), ("roberta", {"normalize": False}), ("mpnet", {})],
)
def test_the_graph_gives_the_vectors_of_the_model_for_any_number_and_length_of_texts(tmp_path, kind, options):
    folder = save_sentence_transformer(tmp_path / "tiny", kind, **options)
    made = export_model(folder, tmp_path / "out")
    assert made.largest_difference <= 1e-5
    encoder = Encoder.load(folder, device="cpu", dtype="float32")
    for texts in (TEXTS, TEXTS[:1]):
        states, vectors = run(tmp_path / "out", texts)
        assert np.allclose(vectors, encoder.encode(texts), atol=1e-5)
        assert states.shape[::2] == (len(texts), encoder.width)


def test_dense_layers_are_part_of_the_graph(tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(save_sentence_transformer(tmp_path / "tiny")), device="cpu")
    keep_leading_dimensions(model, 8)
    model.save(str(tmp_path / "cut"), create_model_card=False)
    export_model(tmp_path / "cut", tmp_path / "out")
    assert np.allclose(run(tmp_path / "out", TEXTS)[1], model.encode(TEXTS), atol=1e-5)


def test_int8_is_written_beside_and_its_cosine_is_measured(tmp_path):
    folder = save_sentence_transformer(tmp_path / "tiny")
    made = export_model(folder, tmp_path / "out", int8=True)
    assert 0.9 < made.int8_cosine < 1
    vectors = run(tmp_path / "out", TEXTS, "model_quantized.onnx")[1]
    exact = run(tmp_path / "out", TEXTS)[1]
    assert (vectors * exact).sum(1).min() > 0.9
    assert not np.array_equal(vectors, exact)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path):
    pytest.importorskip("onnxruntime")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from helpers.tiny_models import tokenizer

    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=8)])
    static.save(str(tmp_path / "static"), create_model_card=False)
    with pytest.raises(UserError, match="is a static model"):
        export_model(tmp_path / "static", tmp_path / "out")
    prompted = save_sentence_transformer(
        tmp_path / "prompted", prompts={"query": "query: ", "document": ""}, include_prompt=False
    )
    with pytest.raises(UserError, match="leaves the prompt out"):
        export_model(prompted, tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        export_model(save_plain_transformer(tmp_path / "plain"), tmp_path / "taken")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))
