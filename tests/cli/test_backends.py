"""`--backend` and `--dtype` of the commands that load encoders."""

import json
import re
import shutil

import pytest


def encoder_of(folder):
    return json.loads((folder / "index.json").read_text())["encoder"]


def test_an_index_says_what_ran_its_encoder_and_a_query_may_be_run_by_another(shell, teacher, beir):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    # In bfloat16, which some processors take by themselves, a random model's near ties fall either way.
    index = ("index", "--corpus", beir, "--model", teacher, "--quiet", "--dtype", "float32")
    shell.must(*index, "--output", "plain")
    shell.must(*index, "--output", "onnx", "--backend", "onnx")
    plain, onnx = (encoder_of(shell.folder / name) for name in ("plain", "onnx"))
    assert (plain["backend"], onnx["backend"]) == ("torch", "onnx")
    assert plain["weight_hash"] == onnx["weight_hash"]
    question = ("search", "river bank", "--json", "--quiet", "--dtype", "float32")
    answers = [
        json.loads(shell.must(*question, "--index", folder, "--backend", backend).out)
        for folder in ("plain", "onnx")
        for backend in ("torch", "onnx")
    ]
    found = [[hit["id"] for hit in answer["hits"]] for answer in answers]
    assert all(each == found[0] for each in found)


def test_a_build_is_resumed_and_appended_to_by_what_began_it(shell, teacher, beir, plenty):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    command = ("index", "--corpus", beir, "--model", teacher, "--shard-size", 64, "--output", "here", "--quiet")
    shell.must(*command, "--backend", "onnx")
    (shell.folder / "here" / "index.json").unlink()
    next((shell.folder / "here" / "vectors").glob("00001*.npy")).unlink()
    refused = shell(*command, "--resume", "--backend", "torch")
    assert refused.code == 2
    assert "backend differ" in refused.err
    shell.must(*command, "--resume")
    assert encoder_of(shell.folder / "here")["backend"] == "onnx"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backend", "tensorflow"), "Unknown backend `tensorflow`"),
        (("--backend", "onnx", "--dtype", "float16"), "--backend onnx does not compute in float16"),
        (("--dtype", "int3"), "Unknown dtype `int3`"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(shell, teacher, beir, options, words):
    (shell.folder / "pairs.tsv").write_text("score\tsentence1\tsentence2\n1\triver\tbank\n2\tcup\tdish\n")
    for command in (
        ("index", "--corpus", beir, "--model", teacher, "--output", "x"),
        ("eval", "--task", "sts", "--model", teacher, "--data", "pairs.tsv"),
    ):
        answer = shell(*command, *options)
        assert answer.code == 2
        assert words in answer.err


def test_what_was_measured_best_is_taken_by_the_next_command(shell, teacher, beir, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from ibkd_retrieval.encoders.autotune import choice

    monkeypatch.setattr("ibkd_retrieval.indexing.building.encoding._LARGE", 100)
    monkeypatch.setattr(
        choice,
        "candidates",
        lambda device: [choice.BackendConfig("torch", "float32"), choice.BackendConfig("onnx", "float32")],
    )
    slow = choice.fastest
    monkeypatch.setattr(
        choice, "fastest", lambda measured, purpose: choice.Choice(measured[1].config, slow(measured, purpose).reason)
    )
    first = shell.must("index", "--corpus", beir, "--model", teacher, "--output", "first")
    assert "documents/s" in first.err
    assert encoder_of(shell.folder / "first")["backend"] == "onnx"
    again = shell.must("index", "--corpus", beir, "--model", teacher, "--output", "again")
    assert encoder_of(shell.folder / "again")["backend"] == "onnx"
    assert "for documents:" in first.err
    assert "for documents:" not in again.err
    assert "onnx float32: measured before as the best here for documents" in " ".join(again.err.split())


def test_batches_that_do_not_fit_into_the_memory_are_refused_with_the_size_that_does(shell, teacher, beir):
    command = ("index", "--corpus", beir, "--model", teacher, "--memory", "8GB", "--output", "x", "--quiet")
    refused = shell(*command, "--batch-tokens", 10_000_000)
    assert refused.code == 2
    said = " ".join(refused.err.split())
    assert "--batch-tokens 10000000 is more than 8,000MB have room for" in said
    fits = int(re.search(r"give --batch-tokens (\d+)", said)[1])
    assert 512 < fits < 10_000_000
    shell.must(*command, "--batch-tokens", fits // 2)


def test_memory_is_planned_for_the_width_of_the_transformer(shell, teacher, beir, monkeypatch):
    from ibkd_retrieval.indexing.building import encoding

    planned, plan, given_back = [], encoding.plan_memory, []
    monkeypatch.setattr(encoding, "give_freed_memory_back", lambda: given_back.append(len(planned)))
    monkeypatch.setattr(encoding, "plan_memory", lambda *a, **sizes: planned.append(sizes) or plan(*a, **sizes))
    shell.must("index", "--corpus", beir, "--model", teacher, "--dim", 8, "--output", "x", "--quiet")
    assert [(sizes["dim"], sizes["width"]) for sizes in planned] == [(8, 32)]
    assert given_back == [0], "what earlier encoders took is not planned for"


def test_an_emulated_format_is_told_of_before_encoding(shell, teacher, beir, monkeypatch):
    from ibkd_retrieval.encoders.autotune import cpu as machine

    (shell.folder / "more.jsonl").write_text(json.dumps({"_id": "new", "text": "river bank"}) + "\n")
    command = ("index", "--model", teacher, "--output", "x")
    assert "emulates" not in shell.must(*command, "--corpus", beir, "--dtype", "float32").err
    shell.must(*command, "--corpus", beir, "--dtype", "bfloat16", "--overwrite", "--quiet")
    more = (*command, "--corpus", "more.jsonl", "--append")
    monkeypatch.setattr(machine, "processor_features", lambda: ("avx2",))
    said = " ".join(shell.must(*more).err.split())
    assert "This processor has no instructions for bfloat16 and emulates it" in said
    assert "encode all anew with --dtype float32" in said


@pytest.fixture
def fresh(tmp_path):
    """A command line whose home remembers nothing yet, nor will after this test."""
    from helpers.driving import Shell

    (tmp_path / "here").mkdir()
    return Shell(tmp_path / "here", tmp_path / "home")


@pytest.fixture
def remembering(fresh, teacher, monkeypatch):
    """Have `--backend auto` take onnx for documents."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from ibkd_retrieval.encoders.autotune.choice import BackendConfig, remember_choice
    from ibkd_retrieval.encoders.encoder import Encoder

    def remember():
        encoder = Encoder.load(str(teacher))
        with monkeypatch.context() as patched:
            patched.setenv("XDG_CACHE_HOME", fresh.environment()["XDG_CACHE_HOME"])
            remember_choice(encoder.weight_hash, encoder.device, "documents", BackendConfig("onnx", "float32"))

    return remember


def test_a_remembered_configuration_that_fails_is_told_of_and_torch_taken(teacher, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from ibkd_retrieval.encoders.autotune.choice import BackendConfig, remember_choice
    from ibkd_retrieval.encoders.autotune.load import load_encoder
    from ibkd_retrieval.encoders.backends.backend import open_backend
    from ibkd_retrieval.encoders.encoder import Encoder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = Encoder.load(str(teacher), device="cpu")
    remember_choice(encoder.weight_hash, encoder.device, "documents", BackendConfig("onnx", "float32"))

    def opened(model, backend, *rest, **settings):
        if backend == "onnx":
            raise RuntimeError("no graph")
        return open_backend(model, backend, *rest, **settings)

    monkeypatch.setattr("ibkd_retrieval.encoders.encoder.open_backend", opened)
    said = []
    options = {"sample": list, "purpose": "documents", "progress": SimpleNamespace(say=said.append)}
    assert load_encoder(str(teacher), "auto", "auto", device="cpu", **options).backend == "torch"
    assert len(said) == 2
    assert said[1].startswith("onnx float32 does not load here any more: RuntimeError (no graph); torch ")
    with pytest.raises(RuntimeError):
        load_encoder(str(teacher), "onnx", "float32", device="cpu", **options)


def test_a_suite_takes_what_was_found_best_and_goes_on_with_what_began_it(fresh, teacher, beir, remembering):
    shutil.copytree(beir, fresh.folder / "sets" / "alone")
    command = ("eval", "--suite", "sets", "--model", teacher, "--metric", "mrr@10")
    index = "teacher-alone"
    fresh.must(*command, "--output", "before")
    remembering()
    fresh.must(*command, "--output", "after")
    assert encoder_of(fresh.folder / "before" / index)["backend"] == "torch"
    assert encoder_of(fresh.folder / "after" / index)["backend"] == "onnx"
    assert "alone: scored before" in fresh.must(*command, "--output", "before").err


def test_similarity_takes_what_was_found_best(fresh, teacher, remembering, monkeypatch):
    from ibkd_retrieval.evaluation import sts

    lines = [f"{number % 5}\triver bank {number}\tbank of river" for number in range(20)]
    (fresh.folder / "pairs.tsv").write_text("score\tsentence1\tsentence2\n" + "\n".join(lines) + "\n")
    ran, similarity = [], sts.similarity_of
    monkeypatch.setattr(
        sts, "similarity_of", lambda encoder, *a, **b: ran.append(encoder.backend) or similarity(encoder, *a, **b)
    )
    command = ("eval", "--task", "sts", "--model", teacher, "--data", "pairs.tsv", "--resamples", 10)
    fresh.must(*command)
    remembering()
    fresh.must(*command)
    assert ran == ["torch", "onnx"]
