"""Texts tokenised word by word, every word once."""

import dataclasses
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_models import sentences, tokenizer
from ibkd_retrieval.encoders import word_tokenizer as words
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.word_tokenizer import WordTokens, reads_words_alone

FLAT = words.flat_ids
ODD = [
    "",
    "   ",
    "River,  BANK!water?",
    "a[SEP]b [MASK] c",
    "[sep] [ MASK ]",
    "x" * 300,
    "река 東京 nehir ποτάμιΣ İstanbul é e\u0301 !\u0301x",
    "a\tb\nc\x0bd\x1ce\x85f\u00a0g\u2003h\u200bi\u3000j",
    "\x00a\x07b\ufffdc",
    "a` ´b ½ ﬁ K",
    "word " * 700,
]


def by_itself(tokens, texts):
    found = [each.ids for each in tokens.encode_batch_fast(texts, add_special_tokens=False)]
    return list(chain.from_iterable(found)), list(map(len, found))


def cut(lowercase=True, limit=None):
    tokens = tokenizer(lowercase=lowercase)._tokenizer
    if limit is not None:
        tokens.enable_truncation(limit)
    return tokens


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("limit", [None, 5, 512])
def test_ids_are_those_of_the_tokenizer_for_odd_texts_too(lowercase, limit):
    tokens = cut(lowercase, limit)
    assert reads_words_alone(tokens)
    by_word = WordTokens(tokens)
    for texts in (ODD, ODD[::-1], [*sentences(40), *ODD], [""], []):
        ids, lengths = by_word(texts)
        assert (ids.tolist(), lengths.tolist()) == by_itself(tokens, texts)
        assert ids.dtype == np.int32


characters = st.sampled_from(list("aB1 .[]`~\n\t\x00\x1c\x85\u00a0\u0301\u200bé東Σßİ🙂")) | st.characters(
    exclude_categories=["Cs"]
)
pieces = st.sampled_from(["[SEP]", "[PAD]", "river", "Bank"]) | characters


@given(st.lists(st.lists(pieces, max_size=20).map("".join), max_size=6), st.booleans(), st.sampled_from([None, 4]))
def test_ids_are_those_of_the_tokenizer_for_any_texts(texts, lowercase, limit):
    tokens = cut(lowercase, limit)
    ids, lengths = WordTokens(tokens)(texts)
    assert (ids.tolist(), lengths.tolist()) == by_itself(tokens, texts)


def test_words_are_tokenised_once_and_forgotten_when_there_are_too_many(monkeypatch):
    tokens = cut()
    asked = []
    monkeypatch.setattr(words, "flat_ids", lambda by, texts: asked.extend(texts) or FLAT(by, texts))
    monkeypatch.setattr(words, "_MOST_WORDS", 6)
    by_word = WordTokens(tokens)
    for text in ("river bank", "bank river", "boat bank", "lake fish rain storm"):
        ids, _ = by_word([text])
        assert ids.tolist() == by_itself(tokens, [text])[0]
    # Joined by a token that is none of theirs; when the last four came, there was no room for them beside three.
    assert asked == ["river[PAD]bank[PAD]", "boat[PAD]", "lake[PAD]fish[PAD]rain[PAD]storm[PAD]"]
    by_word(["river"])
    assert asked[-1] == "river[PAD]"


def test_what_is_kept_does_not_grow_with_texts_without_spaces(monkeypatch):
    tokens = cut()
    by_word = WordTokens(tokens)
    for seed in range(5):
        texts = [
            "".join(map(chr, range(0x4E00 + 100 * seed + text, 0x4E00 + 100 * seed + text + 65))) for text in range(9)
        ]
        texts = [f"river {text} bank {text}x river" for text in texts]
        ids, lengths = by_word(texts)
        assert (ids.tolist(), lengths.tolist()) == by_itself(tokens, texts)
    assert set(by_word._known.numbers) == {"river", "bank"}
    assert len(by_word._known.ids) == len(by_word._known.counts) == 2


def test_characters_and_tokens_are_bounded_too(monkeypatch):
    tokens = cut()
    monkeypatch.setattr(words, "_MOST_PIECES", 2000)
    by_word = WordTokens(tokens)
    for number in range(200):
        text = f"{number:060d} river"
        ids, lengths = by_word([text])
        assert (ids.tolist(), lengths.tolist()) == by_itself(tokens, [text])
        known = by_word._known
        assert known.characters == sum(map(len, known.numbers))
        assert known.characters + len(known.ids) <= 2000 + 60


def test_words_with_the_joining_token_in_them_are_tokenised_apart():
    tokens = cut(limit=512)
    texts = ["a[PAD]b river", "[PAD][PAD]", *(f"word{number} {'é' * number}" for number in range(200))]
    ids, lengths = WordTokens(tokens)(texts)
    assert (ids.tolist(), lengths.tolist()) == by_itself(tokens, texts)


def test_threads_may_share_it():
    from concurrent.futures import ThreadPoolExecutor

    tokens = cut()
    by_word = WordTokens(tokens)
    parts = [sentences(50, seed=seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for part, (ids, lengths) in zip(parts, pool.map(by_word, parts), strict=True):
            assert (ids.tolist(), lengths.tolist()) == by_itself(tokens, part)


@pytest.mark.parametrize("change", ["metaspace", "normalized", "left", "lower"])
def test_other_tokenizers_are_left_alone(change):
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    tokens = cut()
    if change == "metaspace":
        tokens.pre_tokenizer = pre_tokenizers.Metaspace()
    elif change == "normalized":
        tokens.add_tokens([AddedToken("of course", normalized=True)])
    elif change == "left":
        tokens.enable_truncation(5, direction="left")
    else:
        tokens.normalizer = normalizers.NFC()
    assert not reads_words_alone(tokens)


def test_a_static_model_gives_the_vectors_of_its_own_tokenizer_and_names_bad_texts(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from ibkd_retrieval.errors import UserError

    tokens = cut(limit=50)
    SentenceTransformer(modules=[StaticEmbedding(tokens, embedding_dim=16)], device="cpu").save(
        str(tmp_path / "m"), create_model_card=False
    )
    encoder = Encoder.load(str(tmp_path / "m"), device="cpu")
    assert encoder._words is not None
    got = encoder.encode([*ODD, *sentences(30)])
    encoder._loaded = dataclasses.replace(encoder._loaded, words=None)
    np.testing.assert_array_equal(got, encoder.encode([*ODD, *sentences(30)]))
    encoder = Encoder.load(str(tmp_path / "m"), device="cpu")
    for wrong, words_ in ((None, "is None"), (b"x", "not a string"), ("a\ud800", "lone surrogate")):
        with pytest.raises(UserError, match=f"Text number 1 .*{words_}"):
            encoder.encode(["a", wrong])
