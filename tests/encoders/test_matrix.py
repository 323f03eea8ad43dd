"""Every family of encoders that transformers builds, with the modules and settings that sentence-transformers has.

Vectors equal those of `encode_query` and `encode_document` within 1e-5 in float32, or the folder is refused.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as t
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    Transformer,
    WeightedLayerPooling,
)

from helpers.tiny_models import sentences, tokenizer
from ibkd_retrieval.encoders.backends.torch_modules import check_trainable
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer, position_limit
from ibkd_retrieval.encoders.students import student_from_layers
from ibkd_retrieval.encoders.weights import weight_hash
from ibkd_retrieval.errors import UserError

VOCABULARY = len(tokenizer())
WORDS, POSITIONS = {"vocab_size": VOCABULARY}, {"max_position_embeddings": 66}
SIZE = {
    **WORDS,
    **POSITIONS,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
GROUPED = {**SIZE, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8, "sliding_window": 8}
MARKS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}

FAMILIES = {
    "BERT": lambda: t.BertModel(t.BertConfig(**SIZE)),
    "RoBERTa": lambda: t.RobertaModel(t.RobertaConfig(**SIZE)),
    "XLM-RoBERTa": lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**SIZE)),
    "MPNet": lambda: t.MPNetModel(t.MPNetConfig(**SIZE)),
    "DistilBERT": lambda: t.DistilBertModel(
        t.DistilBertConfig(**WORDS, **POSITIONS, dim=32, n_layers=3, n_heads=4, hidden_dim=64, initializer_range=0.2)
    ),
    "DeBERTa v2": lambda: t.DebertaV2Model(
        t.DebertaV2Config(relative_attention=True, pos_att_type=["p2c", "c2p"], **SIZE)
    ),
    "ELECTRA": lambda: t.ElectraModel(t.ElectraConfig(embedding_size=16, **SIZE)),
    "ALBERT": lambda: t.AlbertModel(t.AlbertConfig(embedding_size=16, **SIZE)),
    "ModernBERT": lambda: t.ModernBertModel(t.ModernBertConfig(local_attention=8, **SIZE, **MARKS)),
    "NomicBERT": lambda: t.NomicBertModel(t.NomicBertConfig(**SIZE)),
    "EuroBERT": lambda: t.EuroBertModel(t.EuroBertConfig(**GROUPED)),
    "BigBird": lambda: t.BigBirdModel(
        t.BigBirdConfig(block_size=4, num_random_blocks=1, **{**SIZE, "max_position_embeddings": 64})
    ),
    "Longformer": lambda: t.LongformerModel(t.LongformerConfig(attention_window=8, **SIZE)),
    "ESM": lambda: t.EsmModel(t.EsmConfig(position_embedding_type="rotary", mask_token_id=4, **SIZE)),
    "XLNet": lambda: t.XLNetModel(
        t.XLNetConfig(**WORDS, d_model=32, n_layer=3, n_head=4, d_inner=64, pad_token_id=0, initializer_range=0.2)
    ),
    "T5 encoder": lambda: t.T5EncoderModel(
        t.T5Config(**WORDS, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, dropout_rate=0)
    ),
    "GPT-2": lambda: t.GPT2Model(
        t.GPT2Config(**WORDS, n_embd=32, n_layer=3, n_head=4, n_positions=66, pad_token_id=0, initializer_range=0.2)
    ),
    "Llama": lambda: t.LlamaModel(t.LlamaConfig(**GROUPED)),
    "Mistral": lambda: t.MistralModel(t.MistralConfig(sliding_window=8, **GROUPED)),
    "Qwen2": lambda: t.Qwen2Model(t.Qwen2Config(**GROUPED)),
    "Qwen3": lambda: t.Qwen3Model(t.Qwen3Config(head_dim=8, **GROUPED)),
    "Gemma 2": lambda: t.Gemma2Model(t.Gemma2Config(**GEMMA)),
    "Gemma 3": lambda: t.Gemma3TextModel(t.Gemma3TextConfig(use_bidirectional_attention=True, **GEMMA)),
}
# Their layers are one that is run several times.
WITHOUT_LAYERS = {"ALBERT"}

TEXTS = [*sentences(8, seed=3), "", "a", "River BANK", "word " * 200]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Where a family's transformers folder is, made once."""
    root = tmp_path_factory.mktemp("families")

    def folder(family):
        path = root / family.replace(" ", "-")
        if not path.exists():
            torch.manual_seed(0)
            FAMILIES[family]().eval().save_pretrained(path)
            tokenizer("roberta").save_pretrained(path)  # Without a length of its own.
        return path

    return folder


def save(folder, source, modules=lambda: [Normalize()], pooling="mean", settings=None, include_prompt=True, **more):
    torch.manual_seed(1)
    first = Transformer(str(source), **(settings or {}))
    pool = Pooling(first.get_embedding_dimension(), pooling, include_prompt=include_prompt)
    SentenceTransformer(modules=[first, pool, *modules()], device="cpu", **more).save(
        str(folder), create_model_card=False
    )
    return folder


def assert_equal(folder, unit=False, **options):
    encoder = Encoder.load(str(folder), device="cpu", dtype="float32", **options)
    reference = SentenceTransformer(str(folder), device="cpu")
    limit = position_limit(reference)
    if limit is not None and reference.max_seq_length > limit:  # What it crashes beyond.
        reference.max_seq_length = limit
    reference.encode("a")  # With a short text, BigBird changes to full attention, and stays with it.
    for kind in ("query", "document"):
        method = getattr(reference, f"encode_{kind}")
        expected = method(TEXTS, batch_size=len(TEXTS), show_progress_bar=False)
        if unit:
            expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(encoder.encode(TEXTS, kind), expected, atol=1e-5, rtol=0)
    return encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_vectors_of_sentence_transformers(plain, tmp_path, family):
    encoder = assert_equal(save(tmp_path / "m", plain(family)))
    lean = {"BERT", "RoBERTa", "XLM-RoBERTa", "MPNet"}
    assert encoder._run == ("lean" if family in lean else "tokens")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_with_further_modules_prompts_and_a_cut_gives_them_too(plain, tmp_path, family):
    pooling = "lasttoken" if family in {"GPT-2", "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma 2"} else "cls"
    prompts = {"query": "river: ", "document": "page: "}
    further = lambda: [Normalize(), Dense(32, 24), LayerNorm(24)]  # noqa: E731
    folder = save(tmp_path / "m", plain(family), further, pooling, prompts=prompts, truncate_dim=12)
    assert_equal(folder, unit=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_a_family_make_a_student_that_is_the_same_when_it_is_loaded(plain, tmp_path, family):
    teacher = load_sentence_transformer(str(plain(family)))
    if family in WITHOUT_LAYERS:
        with pytest.raises(UserError, match="Cannot take layers from"):
            student_from_layers(teacher, 2)
        return
    student = student_from_layers(teacher, 2)
    student.save(str(tmp_path / "s"), create_model_card=False)
    loaded = load_sentence_transformer(str(tmp_path / "s"))
    assert weight_hash(loaded) == weight_hash(student)
    np.testing.assert_allclose(loaded.encode(TEXTS[:4]), student.encode(TEXTS[:4]), atol=1e-6)


@pytest.mark.parametrize("family", ["T5 encoder", "ModernBERT"])
def test_a_layer_is_not_put_in_a_place_that_has_other_parts(plain, family):
    with pytest.raises(UserError, match="layer 0 among them"):
        student_from_layers(load_sentence_transformer(str(plain(family))), 1)


SIBLINGS = {
    "SqueezeBERT": lambda: t.SqueezeBertModel(t.SqueezeBertConfig(embedding_size=32, **SIZE)),  # Calls its pooler.
    "LayoutLM": lambda: t.LayoutLMModel(t.LayoutLMConfig(**SIZE)),
    "FNet": lambda: t.FNetModel(t.FNetConfig(**{k: v for k, v in SIZE.items() if k != "num_attention_heads"})),
    "no layers": lambda: t.BertModel(t.BertConfig(**{**SIZE, "num_hidden_layers": 0})),
}


def made(folder, family):
    torch.manual_seed(0)
    SIBLINGS[family]().eval().save_pretrained(folder)
    tokenizer("roberta").save_pretrained(folder)
    return save(folder.with_name("made"), folder)


@pytest.mark.parametrize("family", SIBLINGS)
def test_a_family_with_a_way_of_its_own_gives_them_in_either_number_format(tmp_path, family):
    folder = str(made(tmp_path / "p", family))
    reference = SentenceTransformer(folder, device="cpu").encode_document(TEXTS[:8])
    exact, either = (Encoder.load(folder, device="cpu", dtype=dtype).encode(TEXTS[:8]) for dtype in ("float32", "auto"))
    np.testing.assert_allclose(exact, reference, atol=1e-5, rtol=0)
    assert (either * reference).sum(axis=1).min() > 0.99


def test_a_number_format_that_an_architecture_lacks_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"does not compute in bfloat16 .* use `dtype='float32'`"):
        Encoder.load(str(made(tmp_path / "p", "FNet")), device="cpu", dtype="bfloat16")


def test_layers_in_groups_are_not_taken_for_layers(tmp_path):
    t.AlbertModel(t.AlbertConfig(embedding_size=16, num_hidden_groups=3, **SIZE)).save_pretrained(tmp_path)
    tokenizer("roberta").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="Cannot take layers from"):
        student_from_layers(load_sentence_transformer(str(tmp_path)), 2)


@pytest.mark.parametrize("family", ["XLNet", "T5 encoder", "DeBERTa v2", "GPT-2"])
def test_a_family_is_trained(plain, family):
    from ibkd_retrieval.distill.training.student_module import StudentModule
    from ibkd_retrieval.encoders.tokens import pad, tokenize

    model = load_sentence_transformer(str(plain(family)))
    texts = TEXTS[:4]
    vectors, inputs = StudentModule(model, "float32")(pad(model, tokenize(model, texts)))
    table = model[0].auto_model.get_input_embeddings().weight
    assert inputs.shape == (len(texts), table.shape[1])
    np.testing.assert_allclose(vectors.detach(), model.encode(texts), atol=1e-5)
    if family in ("XLNet", "T5 encoder"):  # Their input is the token vectors alone.
        expected = torch.stack([table[ids].mean(0) for ids in tokenize(model, texts)])
        np.testing.assert_allclose(inputs, expected.detach(), atol=1e-6)


def with_router(plain, folder):
    router = Router.for_query_document([Dense(32, 16)], [Dense(32, 16, activation_function=torch.nn.ReLU())])
    modules = [Transformer(str(plain("BERT"))), Pooling(32), router, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


def test_ways_by_kind_are_taken(plain, tmp_path):
    assert_equal(with_router(plain, tmp_path / "m"))


def test_one_pooling_in_place_of_two_has_its_length(plain, tmp_path):
    folder = save(tmp_path / "m", plain("BERT"), pooling=("cls", "mean"))
    one = Encoder.load(str(folder), device="cpu", dtype="float32", pooling="cls")
    plainly = Encoder.load(str(save(tmp_path / "n", plain("BERT"), pooling="cls")), device="cpu", dtype="float32")
    np.testing.assert_allclose(one.encode(TEXTS), plainly.encode(TEXTS), atol=1e-6)


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder)


@pytest.mark.parametrize("length", [0, -1, "9", 9.5, True])
def test_a_length_that_is_none_is_refused(plain, tmp_path, length):
    folder = save(tmp_path / "m", plain("BERT"))
    with pytest.raises(UserError, match=r"`truncate_dim` .* is no length"):
        load_sentence_transformer(change(folder, "config_sentence_transformers.json", truncate_dim=length))
    with pytest.raises(UserError, match="max_seq_length"):
        load_sentence_transformer(change(folder, "sentence_bert_config.json", max_seq_length=length))


def test_dimensions_that_the_vectors_do_not_have_are_refused(plain, tmp_path):
    folder = save(tmp_path / "m", plain("BERT"))
    with pytest.raises(UserError, match="state 16 dimensions, and its vectors have 32"):
        load_sentence_transformer(change(folder, "1_Pooling/config.json", embedding_dimension=16))


def test_a_text_that_an_architecture_cannot_read_is_told(plain, tmp_path):
    folder = save(tmp_path / "m", plain("BERT"), settings={"processing_kwargs": {"text": {"truncation": False}}})
    with pytest.raises(UserError, match="cannot read a batch of 1 texts of up to 202 tokens"):
        Encoder.load(str(folder), device="cpu", dtype="float32").encode(["word " * 200])


SETTINGS = {
    "lengths by kind": {"settings": {"query_length": 6, "document_length": 5}},
    "no special tokens": {"settings": {"processing_kwargs": {"text": {"add_special_tokens": False}}}},
    "a length of its own": {"settings": {"max_seq_length": 9}},
    "lower case": {"settings": {"do_lower_case": True}},
    "prompts": {"prompts": {"query": "river: ", "document": "page: "}},
    "a default prompt": {"prompts": {"query": "", "document": "", "a": "river: "}, "default_prompt_name": "a"},
    "prompts left out of pooling": {"prompts": {"query": "river bank: "}, "include_prompt": False},
    "cls": {"pooling": "cls"},
    "max": {"pooling": "max"},
    "mean over root": {"pooling": "mean_sqrt_len_tokens"},
    "weighted mean": {"pooling": "weightedmean"},
    "last token": {"pooling": "lasttoken"},
    "two poolings": {"pooling": ("cls", "mean")},
    "no normalisation, dot": {"modules": list, "similarity_fn_name": "dot"},
    "cut, dot": {"similarity_fn_name": "dot", "truncate_dim": 8},
    "unit vectors, euclidean": {"similarity_fn_name": "euclidean"},
}
UNIT = {
    "no normalisation": {"modules": list},
    "normalisation before a layer": {"modules": lambda: [Normalize(), Dense(32, 16)]},
    "cut": {"truncate_dim": 8},
    "cut, no normalisation": {"truncate_dim": 8, "modules": list},
}


@pytest.mark.parametrize("setting", [*SETTINGS, *UNIT])
@pytest.mark.parametrize("family", ["BERT", "Llama"])
def test_a_setting_is_honoured(plain, tmp_path, family, setting):
    chosen = SETTINGS.get(setting) or UNIT[setting]
    assert_equal(save(tmp_path / "m", plain(family), **chosen), unit=setting in UNIT)


def test_layers_that_are_weighed_are(plain, tmp_path):
    first = Transformer(str(plain("BERT")), config_kwargs={"output_hidden_states": True})
    modules = [first, WeightedLayerPooling(32, num_hidden_layers=3, layer_start=1), Pooling(32), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "m"), create_model_card=False)
    assert_equal(tmp_path / "m")
    with pytest.raises(UserError, match="WeightedLayerPooling"):
        student_from_layers(load_sentence_transformer(str(tmp_path / "m")), 2)


def with_chat_template(plain, folder):
    shutil.copytree(plain("Qwen2"), folder)
    words = tokenizer("roberta")
    words.chat_template = "{% for m in messages %}[CLS] {{ m['role'] }} {{ m['content'] }} [SEP]{% endfor %}"
    words.save_pretrained(folder)
    return save(folder.with_name("chat"), folder, pooling="lasttoken", prompts={"query": "river"})


def test_a_chat_template_is_filled_in_and_only_by_torch(plain, tmp_path):
    folder = with_chat_template(plain, tmp_path / "p")
    assert assert_equal(folder)._run == "whole"
    with pytest.raises(UserError, match="settings that only sentence-transformers honours"):
        Encoder.load(str(folder), device="cpu", backend="onnx")
    with pytest.raises(UserError, match="is trained on token ids alone"):
        check_trainable(load_sentence_transformer(str(folder)), {"query": "river", "document": ""})


def test_what_sentence_transformers_encodes_as_a_whole_goes_by_the_same_rules(plain, tmp_path, monkeypatch):
    encoder = Encoder.load(str(with_chat_template(plain, tmp_path / "p")), device="cpu", dtype="float32")
    whole = encoder.encode(TEXTS)
    monkeypatch.setattr(encoder, "_window", 5)
    np.testing.assert_allclose(encoder.encode(TEXTS), whole, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_prepared(encoder.prepare(TEXTS)), whole, atol=1e-6)
    assert encoder.token_counts(["a"]) < encoder.token_counts(["a river"])
    with pytest.raises(UserError, match="Text number 6 is None"):
        encoder.encode([*["a"] * 6, None])


def add_token(folder, number):
    words = json.loads((folder / "tokenizer.json").read_text())
    plain_token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    words["added_tokens"].append({"id": number, "content": "zzriver", **plain_token})
    (folder / "tokenizer.json").write_text(json.dumps(words))


@pytest.mark.parametrize("chat", [False, True])
def test_a_token_that_the_model_has_no_vector_for_is_named(plain, tmp_path, chat):
    folder = with_chat_template(plain, tmp_path / "p") if chat else save(tmp_path / "m", plain("BERT"))
    add_token(folder, 900)
    encoder = Encoder.load(str(folder), device="cpu", dtype="float32")
    with pytest.raises(UserError, match=rf"Text number 2 holds the token 'zzriver' \(id \d+\).* {VOCABULARY} rows"):
        encoder.encode(["a", "b", "the zzriver"])
