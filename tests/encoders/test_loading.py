import time

import pytest

from helpers.tiny_models import save_sentence_transformer
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import (
    load_sentence_transformer,
    position_limit,
    resolve_model_name,
    short_model_name,
)
from ibkd_retrieval.errors import UserError


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    import huggingface_hub

    calls = []

    class Session:
        def head(self, *arguments, **options):
            calls.append(arguments)
            raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "no-cache"))
    return calls


def test_an_unknown_name_is_a_quick_user_error_without_network(no_network):
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"No model `no-one/nothing`.*cannot be reached \(OSError\)"):
        Encoder.load("no-one/nothing", device="cpu")
    assert len(no_network) == 1
    assert time.perf_counter() - began < 10


def test_a_name_that_can_be_no_hub_name_is_a_user_error(no_network):
    with pytest.raises(UserError, match="No model"):
        Encoder.load("what is this?", device="cpu")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(no_network, name):
    with pytest.raises(UserError, match="give an existing folder"):
        Encoder.load(name, device="cpu")
    assert no_network == []


def test_a_folder_without_config_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"neither modules\.json nor config\.json"):
        Encoder.load(str(tmp_path), device="cpu")


def test_a_damaged_model_folder_is_a_user_error(tmp_path):
    folder = save_sentence_transformer(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="Cannot load the model"):
        Encoder.load(str(folder), device="cpu")


def test_a_cosine_model_without_normalisation_gets_one(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Normalize

    model = load_sentence_transformer(str(save_sentence_transformer(tmp_path / "m", normalize=False)))
    assert isinstance(model[len(model) - 1], Normalize)


def test_a_dot_product_model_keeps_its_lengths(tmp_path):
    folder = save_sentence_transformer(tmp_path / "m", normalize=False, similarity="dot")
    assert len(load_sentence_transformer(str(folder))) == 2


def test_position_limits_leave_out_the_padding_positions(bert, mpnet):
    assert position_limit(load_sentence_transformer(str(bert))) == 64
    assert position_limit(load_sentence_transformer(str(mpnet))) == 64


def test_loading_leaves_the_verbosity_of_transformers_as_it_was(bert):
    import transformers

    before = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    load_sentence_transformer(str(bert))
    after = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    assert before == after


def test_a_folder_wins_over_the_embedded_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    assert resolve_model_name("all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"


def test_short_names_are_fit_for_files(tmp_path):
    assert short_model_name("sentence-transformers/all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"
    assert short_model_name("BAAI/bge-small-en-v1.5/") == "bge-small-en-v1.5"
    assert short_model_name(str(tmp_path)) == tmp_path.name
