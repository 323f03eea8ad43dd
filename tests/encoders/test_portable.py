"""Saved folders carry the names and keys that older and other readers of sentence-transformers folders look for."""

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from helpers.tiny_models import save_sentence_transformer, tokenizer
from ibkd_retrieval.encoders.portable import make_portable
from ibkd_retrieval.encoders.students import keep_leading_dimensions
from ibkd_retrieval.encoders.weights import weight_hash

TEXTS = ["A boat on the river", "bread"]


def read(path):
    return json.loads(path.read_text())


def saved(model, folder):
    model.save(str(folder), create_model_card=False)
    make_portable(model, folder)
    return SentenceTransformer(str(folder), device="cpu")


def same(a, b):
    return np.array_equal(a.encode(TEXTS), b.encode(TEXTS)) and weight_hash(a) == weight_hash(b)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("lower", [True, False])
def test_old_names_and_keys_say_the_same(tmp_path, pooling, lower):
    folder = save_sentence_transformer(tmp_path / "m", pooling=pooling, do_lower_case=lower, include_prompt=not lower)
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 17
    keep_leading_dimensions(model, 8)
    again = saved(model, tmp_path / "out")
    assert same(model, again)
    assert again.max_seq_length == 17
    out = tmp_path / "out"
    # sentence-transformers 5, vLLM and llama.cpp's converter.
    assert [entry["type"] for entry in read(out / "modules.json")] == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize")
    ]
    assert read(out / "sentence_bert_config.json") == {"max_seq_length": 17, "do_lower_case": False}
    # text-embeddings-inference looks for one true key among these.
    modes = read(out / "1_Pooling/config.json")
    assert modes.pop("word_embedding_dimension") == 32
    assert modes.pop("include_prompt") is not lower
    named = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}.get(pooling, pooling)
    assert [key for key, on in modes.items() if on] == [f"pooling_mode_{named}"]
    # sentence-transformers 5 hands every key to the module.
    assert set(read(out / "2_Dense/config.json")) == {"in_features", "out_features", "bias", "activation_function"}
    assert read(out / "tokenizer_config.json")["tokenizer_class"] != "TokenizersBackend"


def test_static_models_are_rewritten_too(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=8), Normalize()])
    assert same(model, saved(model, tmp_path / "out"))
    types = [entry["type"] for entry in read(tmp_path / "out" / "modules.json")]
    assert types == ["sentence_transformers.models.StaticEmbedding", "sentence_transformers.models.Normalize"]


def test_what_old_keys_cannot_say_is_left_as_it_is(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    plain = save_sentence_transformer(tmp_path / "m")
    transformer = Transformer(str(plain), processing_kwargs={"text": {"max_length": 9}})
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    model.save(str(tmp_path / "new"), create_model_card=False)
    assert same(model, saved(model, tmp_path / "out"))
    for name in ("modules.json", "sentence_bert_config.json"):
        assert read(tmp_path / "out" / name) == read(tmp_path / "new" / name)
