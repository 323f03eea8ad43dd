"""Model folders that are refused, each in one sentence, and what is never done with any."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.tiny_models import save_plain_transformer, save_sentence_transformer
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import sha256_file


@pytest.fixture
def folder(tmp_path):
    return save_sentence_transformer(tmp_path / "m")


def refused(folder, words):
    with pytest.raises(UserError, match=words) as raised:
        Encoder.load(str(folder), device="cpu", dtype="float32")
    assert "\n" not in str(raised.value)


def change_weights(folder, change):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_byte_in_a_file_that_the_record_of_a_student_lists_is_noticed(folder, name):
    path = folder / name
    listed = {name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}}
    (folder / "ibkd.json").write_text(json.dumps({"files": listed}))
    Encoder.load(str(folder), device="cpu", dtype="float32")
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(before[:-3] + bytes([before[-3] ^ 1]) + before[-2:])
    refused(folder, f"{name} is damaged or was changed .*: bring it back from a copy")
    (folder / name).unlink()
    refused(folder, f"{name} is damaged or was changed .it is missing")
    (folder / name).write_bytes(before)
    (folder / "ibkd.json").write_text("{}")
    Encoder.load(str(folder), device="cpu", dtype="float32")


def test_weights_under_other_names_are_named_as_missing(folder):
    change_weights(folder, lambda weights: {f"module.{name}": value for name, value in weights.items()})
    refused(folder, r"The weights of .* lack embeddings\.\S+, .* and \d+ more, so its vectors would be random")


def test_a_layer_that_a_checkpoint_lacks_is_named(folder):
    change_weights(folder, lambda weights: {name: value for name, value in weights.items() if "layer.2." not in name})
    refused(folder, r"lack encoder\.layer\.2\.")


def test_vectors_that_are_no_numbers_are_refused(folder):
    change_weights(folder, lambda weights: {name: torch.full_like(value, torch.nan) for name, value in weights.items()})
    refused(folder, "are not numbers")


def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path, capfd):
    folder = save_plain_transformer(tmp_path / "m")
    from safetensors.torch import load_file

    expected = Encoder.load(str(folder), device="cpu", dtype="float32").encode(["river bank"])
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="as a pickle") as raised:
        load_sentence_transformer(str(folder))
    code = str(raised.value).split('python -c "')[1].split('"`')[0]
    exec(code, {})
    found = Encoder.load(f"{folder}-safe", device="cpu", dtype="float32").encode(["river bank"])
    np.testing.assert_array_equal(found, expected)


def test_a_pickled_module_is_refused(folder):
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text("{}")
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules[:2], dense]))
    refused(folder, "2_Dense/pytorch_model.bin holds weights as a pickle")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "sentence_bert_config.json"])
@pytest.mark.parametrize(("text", "kind"), [("null", "null"), ("[1]", "a list"), ('"a"', "a text"), ("3", "a number")])
def test_settings_that_are_no_object_are_named(folder, name, text, kind):
    (folder / name).write_text(text)
    refused(folder, rf"{name} is no JSON object \({kind}\)")


@pytest.mark.parametrize("text", ["null", "{}", "[]", '[{"path": 3, "type": "a"}]', "[3]"])
def test_a_list_of_modules_that_is_none_is_refused(folder, text):
    (folder / "modules.json").write_text(text)
    refused(folder, r"modules\.json (is no list|names no module)")


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_settings_that_are_not_json_are_refused(folder, text):
    (folder / "tokenizer_config.json").write_text(text)
    refused(folder, "not readable JSON")


@pytest.mark.parametrize("setting", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"])
def test_text_where_a_number_is_due_is_refused(folder, setting):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {setting: "many"}))
    refused(folder, "Cannot load the model")


def with_own_code(folder: Path, what: str) -> Path:
    ran = folder.parent / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    if what == "architecture":
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        modules = json.loads((folder / "modules.json").read_text())
        modules[0]["type"] = "own.Module"
        (folder / "modules.json").write_text(json.dumps(modules))
    return ran


@pytest.mark.parametrize("what", ["architecture", "module"])
def test_code_of_a_folder_never_runs_and_is_never_asked_about(folder, what, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *given: pytest.fail("asked"))
    ran = with_own_code(folder, what)
    refused(folder, "needs code of its own")
    assert not ran.exists()


def test_code_of_a_cross_encoder_never_runs_and_is_never_asked_about(tmp_path, monkeypatch):
    from ibkd_retrieval.encoders.cross_encoder import check_cross_encoder, load_pair_scorer

    monkeypatch.setattr("builtins.input", lambda *given: pytest.fail("asked"))
    folder = save_plain_transformer(tmp_path / "m")
    ran = with_own_code(folder, "architecture")
    for load in (check_cross_encoder, load_pair_scorer):
        with pytest.raises(UserError, match="needs code of its own"):
            load(str(folder))
    assert not ran.exists()


def test_token_vectors_without_pooling_are_refused(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    refused(folder, "gives a vector of each token and none of a text")


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_distances_that_no_inner_product_orders_alike_are_refused(tmp_path, similarity):
    refused(save_sentence_transformer(tmp_path / "m", normalize=False, similarity=similarity), f"{similarity} distance")


def test_unit_vectors_are_ordered_alike_by_distance_and_by_cosine(tmp_path):
    folder = save_sentence_transformer(tmp_path / "m", similarity="euclidean")
    assert Encoder.load(str(folder), device="cpu", dtype="float32").dim == 32


def test_a_copy_of_a_folder_is_the_same_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    first, second = (Encoder.load(str(each), device="cpu") for each in (folder, tmp_path / "copy"))
    assert first.weight_hash == second.weight_hash
