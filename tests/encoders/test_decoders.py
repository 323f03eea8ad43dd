"""Decoders: the last token is pooled, padding is on either side, and weights stay in the format of their file."""

import json

import numpy as np
import pytest
import torch
import transformers as t
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from helpers.tiny_models import save_sentence_transformer, sentences, tokenizer
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.students import student_from_layers
from ibkd_retrieval.encoders.weights import weight_hash
from ibkd_retrieval.errors import UserError

INSTRUCTION = "query: read the page and write of the river\nquery: "
TEXTS = [*sentences(8, seed=3), "", "a", "word " * 80]
SHAPE = {
    "vocab_size": len(tokenizer()),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}


def plain_decoder(folder, dtype=torch.float32, kind=t.Qwen3Model, side="left"):
    """The transformers folder of a random Qwen3-shaped model."""
    torch.manual_seed(0)
    kind(t.Qwen3Config(head_dim=8, **SHAPE)).to(dtype).save_pretrained(folder)
    tokenizer("roberta").save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"padding_side": side}))
    return folder


def decoder(folder, dtype=torch.float32, side="left"):
    """A folder like those of Qwen3-Embedding: last token, padding on the left, an instruction."""
    first = Transformer(str(plain_decoder(folder.with_name("plain"), dtype, side=side)))
    modules = [first, Pooling(32, "lasttoken"), Normalize()]
    prompts = {"query": INSTRUCTION, "document": ""}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_equals_sentence_transformers(tmp_path, side):
    folder = decoder(tmp_path / "m", side=side)
    encoder = Encoder.load(folder, device="cpu", dtype="float32")
    reference = SentenceTransformer(str(folder), device="cpu")
    reference.max_seq_length = encoder.max_length
    assert reference.tokenizer.padding_side == side
    for kind in ("query", "document"):
        expected = getattr(reference, f"encode_{kind}")(TEXTS, batch_size=len(TEXTS))
        np.testing.assert_allclose(encoder.encode(TEXTS, kind), expected, atol=2e-7, rtol=0)
    assert encoder.prompts["query"] == INSTRUCTION
    assert np.abs(encoder.encode(TEXTS, "query") - encoder.encode(TEXTS)).max() > 0.01


def test_the_last_token_is_pooled_where_it_is_asked_for(tmp_path):
    encoder = Encoder.load(plain_decoder(tmp_path / "p"), device="cpu", dtype="float32", pooling="lasttoken")
    expected = Encoder.load(decoder(tmp_path / "m"), device="cpu", dtype="float32")
    np.testing.assert_allclose(encoder.encode(TEXTS), expected.encode(TEXTS), atol=1e-6)
    assert encoder.pooling == "lasttoken"


@pytest.mark.parametrize(("kind", "same"), [(t.Qwen3ForCausalLM, "lasttoken"), (t.Qwen3Model, "mean")])
def test_a_plain_folder_is_pooled_by_what_its_model_was_made_for(tmp_path, kind, same):
    folder = plain_decoder(tmp_path / "p", kind=kind)
    unasked, asked = (Encoder.load(folder, device="cpu", dtype="float32", pooling=each) for each in (None, same))
    assert unasked.weight_hash == asked.weight_hash


def test_a_pooling_that_is_given_replaces_that_of_the_folder(tmp_path):
    folder = decoder(tmp_path / "m")
    replaced = Encoder.load(folder, device="cpu", dtype="float32", pooling="mean")
    plain = Encoder.load(tmp_path / "plain", device="cpu", dtype="float32", pooling="mean")
    np.testing.assert_allclose(replaced.encode(TEXTS), plain.encode(TEXTS), atol=1e-6)


def test_weights_stored_in_bfloat16_stay_in_it_from_the_file_to_the_arithmetic(tmp_path):
    folder = decoder(tmp_path / "m", torch.bfloat16)
    half = load_sentence_transformer(str(folder), dtype=torch.bfloat16)
    assert {each.dtype for each in half.parameters()} == {torch.bfloat16}
    whole = load_sentence_transformer(str(folder))
    assert {each.dtype for each in whole.parameters()} == {torch.float32}
    assert weight_hash(half) == weight_hash(whole)
    encoder, exact = (Encoder.load(folder, device="cpu", dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert (encoder.dtype, exact.dtype) == ("bfloat16", "float32")
    assert encoder.weight_hash == exact.weight_hash
    assert encoder.held_bytes == exact.held_bytes / 2
    assert (encoder.encode(TEXTS) * exact.encode(TEXTS)).sum(axis=1).min() > 0.98


def test_weights_stored_in_another_format_are_read_in_float32(tmp_path):
    folder = decoder(tmp_path / "m")
    assert load_sentence_transformer(str(folder), dtype=torch.bfloat16)[0].auto_model.dtype == torch.float32
    half, exact = (Encoder.load(folder, device="cpu", dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert half.weight_hash == exact.weight_hash
    assert half.dtype == "bfloat16"


def test_what_needs_float32_gets_it_from_half_weights(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    folder = decoder(tmp_path / "m", torch.bfloat16)

    def prefer(weight_hash, device):
        return "onnx", "float32"

    exact = Encoder.load(folder, device="cpu", dtype="float32")
    chosen = Encoder.load(folder, device="cpu", dtype="auto", prefer=prefer)
    assert chosen.backend == "onnx"
    np.testing.assert_allclose(chosen.encode(TEXTS), exact.encode(TEXTS), atol=1e-5)


def test_layers_of_a_half_decoder_make_a_student_in_float32_without_a_copy_of_the_others(tmp_path, monkeypatch):
    teacher = load_sentence_transformer(str(decoder(tmp_path / "m", torch.bfloat16)), dtype=torch.bfloat16)
    copied = []
    clone = torch.nn.Parameter.__deepcopy__

    def counted(self, memo):
        copied.append(self.numel())
        return clone(self, memo)

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", counted)
    student = student_from_layers(teacher, 1)
    assert {each.dtype for each in student.parameters()} == {torch.float32}
    assert sum(copied) == sum(each.numel() for each in student.parameters())
    student[0].auto_model.set_attn_implementation("eager")
    assert student[0].auto_model.layers[0].self_attn.config._attn_implementation == "eager"
    assert teacher[0].auto_model.config.num_hidden_layers == 3


def test_a_released_encoder_has_no_weights_until_it_encodes_again(tmp_path):
    folder = str(save_sentence_transformer(tmp_path / "m"))
    model = load_sentence_transformer(folder)
    encoder = Encoder(model, folder, again=lambda: Encoder(load_sentence_transformer(folder), folder))
    cut = encoder.shortened(6, "cut", lambda: Encoder(load_sentence_transformer(folder, max_length=6), folder))
    before, shorter = encoder.encode(TEXTS), cut.encode(TEXTS)
    cut.weight_hash = weight_hash(load_sentence_transformer(folder, max_length=6))
    cut.release()
    assert (encoder.held_bytes, cut.held_bytes) == (0, 0)
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)
    assert cut.held_bytes == 0 < encoder.held_bytes
    np.testing.assert_array_equal(cut.encode(TEXTS), shorter)


def test_a_model_that_is_changed_while_it_is_released_is_refused(tmp_path):
    folder = str(save_sentence_transformer(tmp_path / "m"))
    other = str(save_sentence_transformer(tmp_path / "n", seed=1))
    encoder = Encoder(
        load_sentence_transformer(folder), folder, again=lambda: Encoder(load_sentence_transformer(other), other)
    )
    encoder.release()
    with pytest.raises(UserError, match="was changed while it was in use"):
        encoder.encode(["a"])


def test_an_encoder_that_cannot_load_itself_keeps_its_weights(tmp_path):
    encoder = Encoder.load(save_sentence_transformer(tmp_path / "m"), device="cpu")
    encoder.release()
    assert encoder.held_bytes > 0


def test_a_device_map_is_accelerates_and_changes_no_vector(tmp_path):
    pytest.importorskip("accelerate")
    folder = str(decoder(tmp_path / "m", torch.bfloat16))
    whole, spread = (load_sentence_transformer(folder, device_map=each) for each in (None, "auto"))
    encoders = [Encoder(each, "m", dtype="float32") for each in (whole, spread)]
    assert encoders[0].weight_hash == encoders[1].weight_hash
    np.testing.assert_allclose(encoders[0].encode(TEXTS), encoders[1].encode(TEXTS), atol=1e-6)


def test_an_unknown_device_map_is_refused(tmp_path):
    with pytest.raises(UserError, match="Unknown `teacher_device_map` 'all': use one of auto, balanced, sequential"):
        load_sentence_transformer(str(tmp_path), device_map="all")
