import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.tiny_models import save_sentence_transformer, sentences
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import UserError

TEXTS = sentences(4)


def load(folder, **options):
    return Encoder.load(str(folder), device="cpu", **({"dtype": "float32"} | options))


@pytest.fixture
def plain(tmp_path):
    return save_sentence_transformer(tmp_path / "m")


def test_prompts_that_are_given_stand_before_texts_and_are_part_of_the_hash(plain, tmp_path):
    given = load(plain, query_prompt="query: ", document_prompt="page: ")
    registered = load(save_sentence_transformer(tmp_path / "p", prompts={"query": "query: ", "document": "page: "}))
    for kind in ("query", "document"):
        np.testing.assert_array_equal(given.encode(TEXTS, kind), registered.encode(TEXTS, kind))
    assert given.weight_hash == registered.weight_hash != load(plain).weight_hash
    assert given.prompts == {"query": "query: ", "document": "page: "}


def test_the_models_own_prompts_given_again_change_nothing(prompted):
    own = load(prompted)
    again = load(prompted, query_prompt=own.prompts["query"], document_prompt=own.prompts["document"])
    assert again.weight_hash == own.weight_hash


def test_a_prompt_that_is_no_text_is_refused(plain):
    with pytest.raises(UserError, match=r"`query_prompt` .* is no text"):
        Encoder.load(str(plain), query_prompt="river \udcff")


def test_prompts_can_be_taken_away(prompted, plain):
    bare = load(prompted, query_prompt="", document_prompt="")
    assert bare.prompts == {"query": "", "document": ""}
    np.testing.assert_array_equal(bare.encode(TEXTS), bare.encode(TEXTS, "query"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("e5-small-v2", '`query_prompt` "query: " and `document_prompt` "passage: "'),
        ("multilingual-e5-base", '`query_prompt` "query: "'),
        ("bge-small-en-v1.5", '`query_prompt` "Represent this sentence for searching relevant passages: "'),
        ("nomic-embed-text-v1.5", '"search_query: " and `document_prompt` "search_document: "'),
        ("snowflake-arctic-embed-m", '`query_prompt` "Represent this sentence for searching relevant passages: "'),
        ("snowflake-arctic-embed-l-v2.0", '`query_prompt` "query: "'),
        ("Qwen3-Embedding-8B", '`query_prompt` "Instruct: Given a web search query'),
        ("embeddinggemma-300m", '"task: search result | query: " and `document_prompt` "title: none | text: "'),
        ("gte-Qwen2-1.5B-instruct", '`query_prompt` "Instruct: Given a web search query'),
    ],
)
def test_a_model_that_registers_no_prompts_is_spoken_of_once(tmp_path, name, words):
    folder = save_sentence_transformer(tmp_path / name)
    with pytest.warns(UserWarning, match="registers no prompts") as said:
        load(folder)
    assert len(said) == 1
    assert words in str(said[0].message)


def test_an_unknown_model_without_prompts_is_spoken_of_where_an_index_is_made(plain, tmp_path):
    from ibkd_retrieval.indexing.api import build_index
    from ibkd_retrieval.progress import SILENT

    said = []
    progress = SimpleNamespace(say=said.append, task=SILENT.task)
    build_index(TEXTS, str(plain), tmp_path / "i", device="cpu", progress=progress)
    word = (
        "m registers no prompts, so none is put before queries and documents: if its model card asks for some, give "
        "`query_prompt` and `document_prompt`."
    )
    assert said.count(word) == 1
    said.clear()
    build_index(TEXTS, str(plain), tmp_path / "j", device="cpu", query_prompt="", progress=progress)
    assert word not in said


@pytest.mark.parametrize("name", ["gte-base", "bge-m3", "all-MiniLM-L6-v2", "multi-qa-mpnet-base-dot-v1"])
def test_a_family_that_is_trained_without_prompts_is_not_spoken_of(tmp_path, name):
    folder = save_sentence_transformer(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)


def test_a_renamed_folder_is_known_by_the_name_in_its_config(tmp_path):
    folder = save_sentence_transformer(tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "intfloat/e5-base"}))
    with pytest.warns(UserWarning, match="passage: "):
        load(folder)


def test_prompts_that_are_registered_or_given_are_not_spoken_of(prompted, plain):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(prompted)
        load(plain, query_prompt="")


def test_an_index_is_searched_with_the_prompts_that_it_was_made_with(plain, tmp_path):
    from ibkd_retrieval.indexing.api import build_index
    from ibkd_retrieval.indexing.format.manifest import read_manifest
    from ibkd_retrieval.search.open import open_searcher

    documents = [{"_id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)]
    prompts = {"query_prompt": "query: ", "document_prompt": "page: "}
    build_index(documents, str(plain), tmp_path / "i", device="cpu", dtype="float32", **prompts)
    assert read_manifest(tmp_path / "i").encoder.prompts == {"query": "query: ", "document": "page: "}
    searcher = open_searcher(tmp_path / "i", device="cpu", dtype="float32")
    assert searcher.encoder.prompts == {"query": "query: ", "document": "page: "}
    given = load(plain, **prompts)
    expected = given.encode([TEXTS[0]], "query") @ given.encode(TEXTS).T
    assert searcher.search(TEXTS[0], 1)[0].score == pytest.approx(float(expected.max()), abs=1e-5)


def test_sentences_get_no_prompt_but_the_folders_default(tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = save_sentence_transformer(tmp_path / "m", prompts={"query": "query: ", "document": "page: ", "sts": "a: "})
    for default in (None, "sts"):
        settings = json.loads((folder / "config_sentence_transformers.json").read_text())
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps(settings | {"default_prompt_name": default}))
        encoder = load(folder)
        expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        np.testing.assert_allclose(encoder.for_sentences().encode(TEXTS), expected, atol=1e-5)
        assert encoder.prompts == {"query": "query: ", "document": "page: "}
