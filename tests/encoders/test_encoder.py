import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.tiny_models import save_plain_transformer, save_sentence_transformer, sentences
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import UserError

TEXTS = [*sentences(30, seed=1), "", "a", "word " * 200, "Ünïcode, 東京!"]


def by_sentence_transformers(folder, texts, **options):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=7, **options)


def load(folder, **options):
    return Encoder.load(str(folder), device="cpu", **({"dtype": "float32"} | options))


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_vectors_equal_those_of_sentence_transformers_in_order_whatever_the_batching(bert, batch_tokens):
    got = load(bert, batch_tokens=batch_tokens).encode(TEXTS)
    np.testing.assert_allclose(got, by_sentence_transformers(bert, TEXTS), atol=1e-5)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got.shape == (len(TEXTS), 32)


@pytest.mark.parametrize("kind", ["mpnet", "roberta"])
def test_models_without_token_types_give_the_vectors_of_sentence_transformers(tmp_path, kind):
    folder = save_sentence_transformer(tmp_path / kind, kind)
    np.testing.assert_allclose(load(folder).encode(TEXTS[:20]), by_sentence_transformers(folder, TEXTS[:20]), atol=1e-5)


@pytest.mark.parametrize("kind", ["mpnet", "roberta"])
def test_a_tokenizer_without_limit_is_cut_at_the_positions_there_are(tmp_path, kind):
    encoder = load(save_plain_transformer(tmp_path / kind, kind))
    assert encoder.max_length == 64
    assert np.isfinite(encoder.encode(["word " * 500])).all()


@pytest.mark.parametrize("window", [5, 8192])
def test_preparing_and_encoding_apart_gives_the_same_bits(bert, window, monkeypatch):
    monkeypatch.setattr("ibkd_retrieval.encoders.encoder._WINDOW", window)
    encoder = load(bert, batch_tokens=200)
    prepared = encoder.prepare(TEXTS)
    assert encoder.encode_prepared(prepared).tobytes() == encoder.encode(TEXTS).tobytes()
    assert encoder.encode_prepared(encoder.prepare([])).shape == (0, 32)


def test_windows_do_not_show_in_the_result(bert, monkeypatch):
    whole = load(bert).encode(TEXTS)
    monkeypatch.setattr("ibkd_retrieval.encoders.encoder._WINDOW", 5)
    np.testing.assert_allclose(load(bert).encode(TEXTS), whole, atol=1e-6)


def test_no_texts_give_an_empty_matrix(bert):
    assert load(bert).encode([]).shape == (0, 32)


def test_bfloat16_points_where_float32_points(bert):
    half = load(bert, dtype="bfloat16")
    assert half.dtype == "bfloat16"
    assert ((load(bert).encode(TEXTS) * half.encode(TEXTS)).sum(1) >= 0.999).all()


def test_queries_and_documents_get_their_prompts(prompted):
    encoder = load(prompted)
    assert encoder.prompts == {"query": "query: ", "document": "page: "}
    for kind, name in (("query", "query"), ("document", "passage")):
        expected = by_sentence_transformers(prompted, TEXTS, prompt_name=name)
        np.testing.assert_allclose(encoder.encode(TEXTS, kind), expected, atol=1e-5)
    assert np.abs(encoder.encode(TEXTS, "query") - encoder.encode(TEXTS)).max() > 1e-3


def test_prompt_tokens_stay_out_of_pooling_where_the_model_says_so(tmp_path):
    folder = save_sentence_transformer(tmp_path / "m", prompts={"query": "query: "}, include_prompt=False)
    texts = TEXTS[:10]
    expected = by_sentence_transformers(folder, texts, prompt_name="query")
    np.testing.assert_allclose(load(folder).encode(texts, "query"), expected, atol=1e-5)


def test_lower_casing_is_done_as_sentence_transformers_does_it(tmp_path):
    folder = save_sentence_transformer(tmp_path / "m", do_lower_case=True)
    texts = ["River BANK", "river bank", "A [SEP] b", "ABBA"]
    got = load(folder).encode(texts)
    np.testing.assert_allclose(got, by_sentence_transformers(folder, texts), atol=1e-5)
    np.testing.assert_allclose(got[0], got[1], atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_plain_transformer_is_pooled_as_asked_and_made_unit(plain_bert, pooling):
    import torch
    from transformers import AutoModel, AutoTokenizer

    cut = AutoTokenizer.from_pretrained(plain_bert)
    model = AutoModel.from_pretrained(plain_bert).eval()
    for text in TEXTS[:3]:
        with torch.no_grad():
            states = model(**cut(text, return_tensors="pt")).last_hidden_state[0]
        expected = states.mean(0) if pooling == "mean" else states[0]
        expected = (expected / expected.norm()).numpy()
        np.testing.assert_allclose(load(plain_bert, pooling=pooling).encode([text])[0], expected, atol=1e-5)


def test_mean_pooling_is_what_a_plain_transformer_gets_unasked(plain_bert):
    assert load(plain_bert).weight_hash == load(plain_bert, pooling="mean").weight_hash


def test_max_length_cuts_texts(bert):
    short = load(bert, max_length=6)
    assert short.max_length == 6
    # Four words and the two special tokens.
    same = short.encode(["river bank water boat fish lake", "river bank water boat"])
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)
    assert np.abs(same[0] - load(bert).encode(["river bank water boat fish lake"])[0]).max() > 1e-3


@pytest.mark.parametrize("length", [65, 1])
def test_a_length_the_model_cannot_read_is_refused(bert, length):
    with pytest.raises(UserError, match=f"cannot read {length} tokens.*between 2 and 64"):
        load(bert, max_length=length)


def test_position_numbers_reserved_for_padding_are_not_offered(mpnet):
    assert load(mpnet, max_length=64).max_length == 64
    with pytest.raises(UserError, match="between 2 and 64"):
        load(mpnet, max_length=65)


@pytest.mark.parametrize("position", [0, 4])
def test_what_is_no_text_is_named_by_its_position(bert, prompted, monkeypatch, position):
    monkeypatch.setattr("ibkd_retrieval.encoders.encoder._WINDOW", 3)
    for folder in (bert, prompted):
        for wrong, words in ((7, "is 7, not a string"), (None, "is None"), ("a\ud800", "lone surrogate")):
            texts = ["a", "b", "c", "d", "e"]
            texts[position] = wrong
            with pytest.raises(UserError, match=f"Text number {position} .*{words}"):
                load(folder).encode(texts)


def test_a_static_model_is_encoded_as_it_would_encode_itself(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from helpers.tiny_models import tokenizer

    module = StaticEmbedding(tokenizer()._tokenizer, embedding_dim=16)
    model = SentenceTransformer(modules=[module], device="cpu", prompts={"query": "query: "})
    model.default_prompt_name = "query"
    model.save(str(tmp_path / "static"), create_model_card=False)
    encoder = load(tmp_path / "static")
    expected = by_sentence_transformers(tmp_path / "static", TEXTS[:9], prompt="", normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(TEXTS[:9]), expected, atol=1e-6)
    assert (encoder.dim, encoder.dtype) == (16, "float32")
    with pytest.raises(UserError, match="static"):
        load(tmp_path / "static", max_length=8)
    assert load(tmp_path / "static").weight_hash == encoder.weight_hash
    for options in ({"backend": "torch", "dtype": "float32"}, {"backend": "auto", "dtype": "auto"}):
        assert load(tmp_path / "static", **options).weight_hash == encoder.weight_hash
    for options in ({"backend": "openvino"}, {"dtype": "bfloat16"}, {"backend": "auto", "dtype": "int8"}):
        with pytest.raises(UserError, match=r"is a static model, which .* leave `backend` and `dtype` out"):
            load(tmp_path / "static", **options)


def test_parameters_are_counted_by_part(bert):
    import torch
    from transformers import AutoModel

    encoder = load(bert)
    model = AutoModel.from_pretrained(bert, add_pooling_layer=False)
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    assert encoder.parameters["embedding"] == tables
    assert encoder.parameters.total == sum(p.numel() for p in model.parameters())


class Steps:
    done = 0

    def advance(self, count=1, note=""):
        self.done += count


def test_progress_is_told_of_every_text(bert):
    steps = Steps()
    load(bert).encode(TEXTS, progress=steps)
    assert steps.done == len(TEXTS)


@pytest.mark.parametrize("option", [{"device": "gpu9"}, {"dtype": "int3"}, {"batch_tokens": 0}, {"pooling": "max"}])
def test_unknown_settings_are_user_errors(bert, option):
    with pytest.raises(UserError):
        Encoder.load(str(bert), **({"device": "cpu"} | option))


def test_the_last_queries_are_remembered_where_that_is_asked_for(bert, monkeypatch):
    encoder = load(bert)
    encoder.remembered_queries = 2
    asked = []
    encoded = encoder._encoded
    monkeypatch.setattr(encoder, "_encoded", lambda texts, *more: asked.append(texts[0]) or encoded(texts, *more))
    first = encoder.encode(["river"], "query")
    for query in ("bank", "river", "boat", "river", "bank"):
        encoder.encode([query], "query")
    assert asked == ["river", "bank", "boat", "bank"]
    again = encoder.encode(["river"], "query")
    assert again.tobytes() == first.tobytes()
    again[:] = 0
    assert encoder.encode(["river"], "query").tobytes() == first.tobytes(), "a caller changed what is remembered"
    encoder.encode(["river"])
    assert asked[-1] == "river", "documents are not remembered"


def test_threads_may_ask_for_what_is_remembered(bert, monkeypatch):
    encoder = load(bert)
    encoder.remembered_queries = 2
    # The encoding itself would leave threads little time to meet in.
    monkeypatch.setattr(encoder, "_encoded", lambda texts, *more: np.full((1, 32), len(texts[0]), np.float32))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as threads:
            asked = ["a" * (1 + number % 5) for number in range(30_000)]
            found = threads.map(lambda query: encoder.encode([query], "query")[0, 0], asked)
            assert list(found) == list(map(len, asked))
    finally:
        sys.setswitchinterval(before)
    assert len(encoder._recent) == 2


def test_nothing_but_texts_is_tokenised_while_encoding(tmp_path, monkeypatch):
    folder = save_sentence_transformer(tmp_path / "m", prompts={"query": "query: "}, include_prompt=False)
    encoder = load(folder)
    shared = encoder._model.tokenizer.backend_tokenizer
    assert shared.truncation["max_length"] == 64
    expected = encoder.encode(TEXTS, "query")

    def untruncated(*given, **options):
        raise AssertionError("a call of transformers' tokenizer would have other threads' texts not cut")

    monkeypatch.setattr(type(encoder._model.tokenizer), "__call__", untruncated)
    np.testing.assert_array_equal(encoder.encode(TEXTS, "query"), expected)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_the_width_is_of_the_transformer_whatever_is_kept_of_its_vectors(tmp_path, kind):
    encoder = load(save_sentence_transformer(tmp_path / kind, kind), dim=8)
    assert (encoder.dim, encoder.width) == (8, 32)


def test_static_texts_are_encoded_alike_whatever_the_windows(tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from helpers.tiny_models import tokenizer

    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer()._tokenizer, embedding_dim=16)], device="cpu")
    model.save(str(tmp_path / "static"), create_model_card=False)
    whole = load(tmp_path / "static").encode(TEXTS)
    monkeypatch.setattr("ibkd_retrieval.encoders.encoder._WINDOW", 5)
    encoder = load(tmp_path / "static")
    np.testing.assert_allclose(encoder.encode(TEXTS), whole, atol=1e-6)
    assert encoder.encode_prepared(encoder.prepare(TEXTS)).tobytes() == encoder.encode(TEXTS).tobytes()
    with pytest.raises(UserError, match=r"Text number 7 .*lone surrogate"):
        encoder.encode([*["a"] * 7, "\ud800"])


def test_texts_tokenised_beside_encoding_keep_their_order_and_vectors(bert, monkeypatch):
    encoder = load(bert)
    whole = encoder.encode(TEXTS)
    monkeypatch.setattr(encoder, "_window", 2)
    np.testing.assert_allclose(encoder.encode(TEXTS), whole, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(encoder.encode_prepared(encoder.prepare(TEXTS)), encoder.encode(TEXTS))


def test_a_text_that_is_none_is_refused_by_its_position_when_tokenised_beside_encoding(bert, monkeypatch):
    encoder = load(bert)
    monkeypatch.setattr(encoder, "_window", 2)
    with pytest.raises(UserError, match="number 5"):
        encoder.encode(["a river"] * 5 + [None])


def test_the_public_door_takes_folders_and_kinds_in_the_plural(prompted):
    import ibkd_retrieval as ibkd

    encoder = ibkd.Encoder.load(prompted, device="cpu", dtype="float32")
    for plural, singular in (("queries", "query"), ("documents", "document")):
        np.testing.assert_array_equal(encoder.encode(TEXTS, plural), encoder.encode(TEXTS, singular))
    assert repr(encoder) == f"<encoder {prompted}: 32 dimensions, torch float32 on cpu>"
    with pytest.raises(UserError, match="Unknown kind `passages`"):
        encoder.encode(TEXTS, "passages")
    with pytest.raises(UserError, match="is one text"):
        encoder.encode("a boat")
