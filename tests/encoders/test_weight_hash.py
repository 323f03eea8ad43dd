import json

import numpy as np
import pytest
import torch

from helpers.tiny_models import save_plain_transformer, save_sentence_transformer, sentences
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.weights import weight_hash
from ibkd_retrieval.errors import UserError


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


def change_config(folder, **settings):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


@pytest.mark.parametrize(
    "setting",
    [{"layer_norm_eps": 0.5}, {"is_decoder": True}, {"chunk_size": 3}, {"pad_token_id": 3}],
    ids=lambda setting: next(iter(setting)),
)
def test_a_setting_of_the_architecture_that_is_not_known_to_be_harmless_changes_the_hash(tmp_path, setting):
    folder = save_sentence_transformer(tmp_path / "m")
    before = hash_of(folder)
    change_config(folder, **setting)
    assert hash_of(folder) != before


def test_settings_that_decide_no_vector_leave_the_hash_as_it_is(tmp_path):
    folder = save_sentence_transformer(tmp_path / "m")
    before = hash_of(folder)
    harmless = {"hidden_dropout_prob": 0.3, "initializer_range": 0.5, "use_cache": False, "architectures": ["Other"]}
    change_config(folder, **harmless, id2label={"0": "a"}, dtype="bfloat16", layer_norm_eps=1e-12)
    assert hash_of(folder) == before


@pytest.mark.parametrize(
    "settings", [{"query_length": 5}, {"document_length": 5}, {"processing_kwargs": {"text": {"padding": "longest"}}}]
)
def test_how_texts_are_given_to_the_model_changes_the_hash(tmp_path, settings):
    folder = save_sentence_transformer(tmp_path / "m")
    before = hash_of(folder)
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert hash_of(folder) != before


def test_a_model_with_the_settings_of_its_architecture_has_the_hash_of_version_0_1_0(bert):
    encoder = Encoder.load(str(bert), device="cpu", dtype="float32")
    assert encoder.former_hash == encoder.weight_hash


@pytest.fixture
def older_index(tmp_path):
    """An index of a model with other settings than its architecture's, with the hash that version 0.1.0 recorded."""
    from ibkd_retrieval.indexing.api import build_index

    folder = save_sentence_transformer(tmp_path / "m")
    change_config(folder, layer_norm_eps=1e-3)
    build_index(sentences(5), str(folder), tmp_path / "i", device="cpu", dtype="float32")
    encoder = Encoder.load(str(folder), device="cpu", dtype="float32")
    assert encoder.former_hash != encoder.weight_hash
    manifest = json.loads((tmp_path / "i" / "index.json").read_text())
    manifest["encoder"]["weight_hash"] = encoder.former_hash
    del manifest["encoder"]["hash_version"]
    (tmp_path / "i" / "index.json").write_text(json.dumps(manifest))
    return tmp_path / "i", folder


def test_an_index_of_version_0_1_0_opens_with_one_line_once_its_documents_confirm_the_model(older_index):
    from ibkd_retrieval.indexing.api import append
    from ibkd_retrieval.search.open import open_searcher

    said = []
    progress = Told(said)
    searcher = open_searcher(older_index[0], device="cpu", dtype="float32", progress=progress)
    (line,) = said
    assert "made by version 0.1.0" in line
    assert "confirmed by 3 of its documents" in line
    assert searcher.search(sentences(5)[2], 1)[0].score == pytest.approx(1, abs=1e-5)
    assert (
        append(
            older_index[0], [{"_id": "new", "text": "one more"}], device="cpu", dtype="float32"
        ).manifest.document_count
        == 6
    )


def test_an_index_of_version_0_1_0_is_refused_where_a_setting_changed(older_index):
    from ibkd_retrieval.search.open import open_searcher

    index, folder = older_index
    change_config(folder, layer_norm_eps=5.0)
    with pytest.raises(UserError, match=r"whose settings have changed since: .* cosine of 0\.\d\d"):
        open_searcher(index, device="cpu", dtype="float32")


def test_a_complete_hash_is_not_taken_for_one_of_version_0_1_0(tmp_path):
    """The hash of a model with default settings is the same in both versions; a small change must be noticed still."""
    from ibkd_retrieval.indexing.api import append, build_index
    from ibkd_retrieval.search.open import open_searcher

    folder, index = save_sentence_transformer(tmp_path / "m"), tmp_path / "i"
    build_index(sentences(5), str(folder), index, device="cpu", dtype="float32")
    change_config(folder, layer_norm_eps=1e-6)
    with pytest.raises(UserError):
        open_searcher(index, device="cpu", dtype="float32")
    with pytest.raises(UserError, match="weight_hash"):
        append(index, [{"_id": "new", "text": "one more"}], device="cpu", dtype="float32")


class Told:
    def __init__(self, said):
        self.say = said.append

    def task(self, *given, **options):
        from ibkd_retrieval.progress import SILENT

        return SILENT.task("", None, "")
