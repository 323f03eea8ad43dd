"""A token table cut to the tokens of some texts."""

import numpy as np
import pytest

from helpers.tiny_models import SPECIAL, WORDS, save_sentence_transformer, sentences
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.vocabulary import cut_vocabulary
from ibkd_retrieval.errors import UserError

pytest.importorskip("skeletoken")
TEXTS = [text.upper() for text in sentences(30) if "egg" not in text]


def table(rest):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    return SentenceTransformer(modules=[StaticEmbedding(rest, embedding_dim=12), Normalize()], device="cpu")


def rows(model):
    weights = [
        each for name, each in model.named_parameters() if "word_embeddings" in name or "embedding.weight" in name
    ]
    return len(weights[0])


@pytest.mark.parametrize("kind", ["bert", "mpnet", "lower", "static"])
def test_the_texts_keep_their_vectors_in_a_smaller_folder(kind, tmp_path):
    lower, family = kind == "lower", "mpnet" if kind == "mpnet" else "bert"
    whole = load_sentence_transformer(str(save_sentence_transformer(tmp_path / "m", family, do_lower_case=lower)))
    if kind == "static":
        whole = table(whole.tokenizer)
    cut = cut_vocabulary(whole, TEXTS)
    cut.save(str(tmp_path / "cut"), create_model_card=False)
    found = load_sentence_transformer(str(tmp_path / "cut"))
    np.testing.assert_array_equal(found.encode(TEXTS), whole.encode(TEXTS))
    names = set(found.tokenizer.get_vocab())
    assert rows(found) == len(names) < rows(whole)
    assert set(SPECIAL) <= names
    assert "egg" not in names
    # A word that no text has is read letter by letter.
    pieces = found.tokenizer.encode("egg")
    pieces = pieces.tokens if kind == "static" else found.tokenizer.convert_ids_to_tokens(pieces)
    assert [piece for piece in pieces if piece not in SPECIAL] == ["e", "##g", "##g"]


def test_words_of_prompts_stay(tmp_path):
    folder = save_sentence_transformer(tmp_path / "m", prompts={"query": "egg: "})
    cut = cut_vocabulary(load_sentence_transformer(str(folder)), TEXTS)
    assert "egg" in cut.tokenizer.get_vocab()


def test_unigram_tokens_are_left_out_and_bpe_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = [chr(ord("a") + place) for place in range(26)]
    words = dict.fromkeys(WORDS)
    pieces = [("<unk>", 0.0), *((word, -2.0) for word in words), *((letter, -9.0) for letter in letters)]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = table(unigram)
    cut = cut_vocabulary(whole, ["river bank", "water"])
    assert rows(cut) == 1 + 3 + len(letters)
    np.testing.assert_array_equal(cut.encode(["bank water river"]), whole.encode(["bank water river"]))
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    with pytest.raises(UserError, match="neither WordPiece nor Unigram"):
        cut_vocabulary(table(bpe), ["ab"])
