import numpy as np
import pytest
import torch

from helpers.tiny_models import save_plain_transformer, save_sentence_transformer, sentences
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.weights import weight_hash


def hash_of(folder, **options):
    return Encoder.load(str(folder), device="cpu", **({"dtype": "float32"} | options)).weight_hash


def test_neither_reloading_nor_dtype_nor_encoding_changes_the_hash(bert):
    encoder = Encoder.load(str(bert), device="cpu", dtype="float32")
    encoder.encode(sentences(5))
    assert weight_hash(encoder._model) == encoder.weight_hash == hash_of(bert) == hash_of(bert, dtype="bfloat16")


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_saving_and_loading_keeps_the_hash(tmp_path, kind):
    model = load_sentence_transformer(str(save_sentence_transformer(tmp_path / "m", kind)))
    model.save(str(tmp_path / "again"), create_model_card=False)
    assert hash_of(tmp_path / "again") == weight_hash(model)


def test_one_changed_weight_changes_the_hash(bert):
    model = load_sentence_transformer(str(bert))
    before = weight_hash(model)
    with torch.no_grad():
        next(model.parameters())[3, 5] += 1e-3
    assert weight_hash(model) != before


def test_prompts_length_and_pooling_change_the_hash(bert, plain_bert):
    model = load_sentence_transformer(str(bert))
    before = weight_hash(model)
    model.prompts["query"] = "query: "
    assert weight_hash(model) != before
    assert hash_of(bert, max_length=32) != hash_of(bert)
    assert hash_of(plain_bert, pooling="cls") != hash_of(plain_bert, pooling="mean")


def test_another_tokenizer_changes_the_hash(tmp_path):
    from helpers.tiny_models import tokenizer

    folder = save_sentence_transformer(tmp_path / "m")
    before = hash_of(folder)
    tokenizer(lowercase=False).save_pretrained(folder)
    assert hash_of(folder) != before


def test_a_checkpoint_without_pooler_has_a_stable_hash(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_plain_transformer(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    assert any("pooler" in name for name in weights)
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    first, second = (Encoder.load(str(folder), device="cpu", dtype="float32") for _ in range(2))
    assert first.weight_hash == second.weight_hash
    np.testing.assert_array_equal(first.encode(["river bank"]), second.encode(["river bank"]))
