import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from helpers.programs import PYTHONPATH
from helpers.tiny_models import save_sentence_transformer, sentences
from helpers.tiny_runs import corpus, finetuning, run, settings
from ibkd_retrieval.corpora.records import Judgement, Query, QuerySet
from ibkd_retrieval.distill.data.pairs import PairSet, TrainingPair
from ibkd_retrieval.distill.dev_metric import judged_dev, neighbour_dev
from ibkd_retrieval.distill.output.folder import (
    clear_unfinished,
    prepare_output,
    save_plain,
    save_student,
    settle_output,
)
from ibkd_retrieval.distill.sections import StudentConfig
from ibkd_retrieval.encoders.autotune.load import newest_student
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import LOCK
from ibkd_retrieval.indexing.format.writing import only_writer
from ibkd_retrieval.progress import SILENT

TEXTS = sentences(20, seed=5)


def plain_vectors(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, bert):
    root = tmp_path_factory.mktemp("finished")
    return root / "student", run(bert, root, keep_undistilled=root / "undistilled")


def test_the_folder_loads_without_this_toolkit_and_gives_the_same_vectors(finished):
    folder, _ = finished
    plain, ours = plain_vectors(folder), Encoder.load(str(folder), device="cpu", dtype="float32").encode(TEXTS)
    assert plain.shape == (20, 8)
    assert ((plain * ours).sum(1) >= 0.9999).all()


def test_the_folder_says_how_it_came_to_be(finished, bert):
    folder, report = finished
    teacher_model, student_model = load_sentence_transformer(str(bert)), load_sentence_transformer(str(folder))
    facts = json.loads((folder / "ibkd.json").read_text())
    assert facts["teacher"]["layers"] == len(teacher_model[0].auto_model.encoder.layer)
    assert facts["settings"]["steps"] == 12
    assert facts["fingerprint"] == report.fingerprint
    assert facts["history"][-1]["step"] == 12
    assert {"model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"} <= facts["files"].keys()
    assert not {"README.md", "ibkd.json", "training-log.jsonl"} & facts["files"].keys()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers")
    assert f"{report.student.dev:.4f}" in card
    assert "| dimensions | 32 |  | 8 |" in card
    kept = f"{report.student.dev:.4f} ({report.student.dev / report.teacher.dev:.1%})"
    assert f"| {report.teacher.dev:.4f} | {report.undistilled_dev:.4f} (" in card
    assert f") | {kept} |" in card
    counts = [f"{sum(p.numel() for p in model.parameters()):,}" for model in (teacher_model, student_model)]
    assert f"| parameters | {counts[0]} |  | {counts[1]} |" in card
    assert "for 12 steps of 16 texts" in card
    assert f"({report.student.texts_per_second / report.teacher.texts_per_second:.1f} × the teacher's)" in card
    assert report.dev_set == "30 held-out texts"
    assert report.dev_set in card
    assert facts["environment"]["threads"] >= 1
    assert (folder / "training-log.jsonl").is_file()


def test_nothing_but_the_student_is_left_in_the_folder_and_no_pickle_in_it(finished):
    folder, _ = finished
    assert not (folder / "checkpoints").exists()
    assert not list(folder.glob(".*"))
    assert not [path for path in folder.rglob("*") if path.suffix in {".pt", ".bin", ".pkl", ".pth"}]


def test_the_report_is_of_the_weights_in_the_folder(finished):
    folder, report = finished
    encoder = Encoder.load(str(folder), device="cpu", dtype="float32")
    assert encoder.weight_hash == report.student.weight_hash
    assert encoder.dim == report.student.dim == 8


def test_the_undistilled_student_is_kept_where_asked(finished):
    folder, _ = finished
    before = plain_vectors(folder.parent / "undistilled")
    assert before.shape == (20, 8)
    assert np.abs(before - plain_vectors(folder)).max() > 1e-3


def test_the_newest_finished_student_is_found(finished, tmp_path):
    folder, _ = finished
    assert newest_student(folder.parent) == folder
    with pytest.raises(UserError, match=r"run `distill\(\)` first"):
        newest_student(tmp_path)


def test_a_student_in_the_teachers_space_has_its_dimension_and_says_so(bert, tmp_path):
    report = run(bert, tmp_path, settings=settings(output_space="teacher"))
    encoder = Encoder.load(str(tmp_path / "student"), device="cpu", dtype="float32")
    plain = plain_vectors(tmp_path / "student")
    assert plain.shape == (20, 32)
    assert ((plain * encoder.encode(TEXTS)).sum(1) >= 0.9999).all()
    assert (report.student.dim, report.student.weight_hash) == (32, encoder.weight_hash)
    teacher = Encoder.load(str(bert), device="cpu", dtype="float32").encode(TEXTS)
    assert (plain * teacher).sum(1).mean() > 0.8


@pytest.mark.parametrize("judged", [True, False])
def test_a_student_in_the_teachers_space_is_watched_while_it_searches_the_teachers_vectors(bert, tmp_path, judged):
    documents = list(corpus().documents())
    queries = tuple(Query(f"q{i}", documents[i].text[:20]) for i in range(12))
    asked = QuerySet("dev", queries, tuple(Judgement(f"q{i}", f"d{i}", 1) for i in range(12)))
    watched = {"dev_queries": asked} if judged else {}
    report = run(bert, tmp_path, settings=settings(output_space="teacher"), **watched)
    student, teacher = (Encoder.load(str(f), device="cpu", dtype="float32") for f in (tmp_path / "student", bert))
    texts = tuple(document.content for document in documents)
    if judged:
        dev = judged_dev(corpus(), asked, most_queries=300, most_documents=2000, seed=0)
    else:
        dev = neighbour_dev(texts, teacher, size=500, seed=0)
    assert report.student.dev == pytest.approx(dev.score(student, teacher.encode))
    assert report.student.dev != pytest.approx(dev.score(student))
    assert report.teacher.dev == pytest.approx(dev.score(teacher))
    assert report.undistilled_dev == 0, "vectors of 8 dimensions find nothing among those of 32"
    assert "encoded by the teacher" in report.dev_set


def test_a_student_of_several_lengths_is_cut_by_the_standard_option(bert, tmp_path):
    from sentence_transformers import SentenceTransformer

    report = run(bert, tmp_path, plan=StudentConfig(layers=2, dim=16), settings=settings(steps=60, dims=(16, 4)))
    folder = tmp_path / "student"
    assert f"| ... cut to 4 dimensions |  |  | {report.shorter_dev[4]:.4f}" in (folder / "README.md").read_text()
    assert json.loads((folder / "ibkd.json").read_text())["settings"]["dims"] == [16, 4]
    texts = tuple(document.content for document in corpus().documents())
    dev = neighbour_dev(texts, Encoder.load(str(bert), device="cpu", dtype="float32"), size=500, seed=0)
    cut = Encoder.load(str(folder), device="cpu", dtype="float32", dim=4)
    assert report.shorter_dev == {4: pytest.approx(dev.score(cut))}
    short = SentenceTransformer(str(folder), device="cpu", truncate_dim=4).encode(TEXTS)
    np.testing.assert_array_equal(short, plain_vectors(folder)[:, :4])
    run(bert, tmp_path, plan=StudentConfig(layers=2, dim=16), settings=settings(steps=60), output="plain")
    teacher = Encoder.load(str(bert), device="cpu", dtype="float32").encode(TEXTS)
    wanted = (teacher @ teacher.T)[np.triu_indices(20, 1)]

    def agreement(vectors):
        cut = vectors[:, :4] / np.linalg.norm(vectors[:, :4], axis=1, keepdims=True)
        return np.corrcoef((cut @ cut.T)[np.triu_indices(20, 1)], wanted)[0, 1]

    assert agreement(plain_vectors(folder)) > agreement(plain_vectors(tmp_path / "plain"))


@pytest.mark.parametrize("objective", ["hpd", "crd"])
def test_objectives_with_a_space_of_their_own_save_it(bert, tmp_path, objective):
    run(bert, tmp_path, settings=settings(objective=objective))
    assert plain_vectors(tmp_path / "student").shape == (20, 8)
    assert (tmp_path / "student" / "projection.safetensors").is_file() == (objective == "hpd")


def test_hpd_without_a_smaller_dimension_gets_a_layer_to_learn_the_reduced_space_with(bert, tmp_path):
    run(bert, tmp_path, plan=StudentConfig(layers=2), settings=settings(objective="hpd"))
    names = [m["type"].split(".")[-1] for m in json.loads((tmp_path / "student" / "modules.json").read_text())]
    assert names == ["Transformer", "Pooling", "Dense", "Normalize"]


def test_judged_queries_are_watched_where_given(bert, tmp_path):
    texts = sentences(150)
    asked = QuerySet(
        "q",
        tuple(Query(f"q{i}", " ".join(texts[i].split()[:4])) for i in range(20)),
        tuple(Judgement(f"q{i}", f"d{i}", 1) for i in range(20)),
    )
    report = run(bert, tmp_path, dev_queries=asked, queries=asked)
    assert report.dev_metric == "mrr@10"
    assert report.texts == 150 - 20


def test_a_teacher_compared_by_inner_product_gives_a_student_with_unit_vectors(tmp_path):
    teacher = save_sentence_transformer(tmp_path / "t", normalize=False, similarity="dot")
    run(teacher, tmp_path, settings=settings(steps=2))
    np.testing.assert_allclose(np.linalg.norm(plain_vectors(tmp_path / "student"), axis=1), 1, atol=1e-5)


def test_a_small_model_can_be_the_student(bert, tmp_path):
    other = save_sentence_transformer(tmp_path / "other", "mpnet", seed=3, hidden=16, layers=1)
    report = run(bert, tmp_path, plan=StudentConfig(str(other)), settings=settings(steps=2))
    assert report.student.dim == 16


def test_a_finished_student_is_refused_and_replaced_only_when_asked(bert, tmp_path):
    run(bert, tmp_path, settings=settings(steps=1))
    wide = save_sentence_transformer(tmp_path / "wide", hidden=64)
    for resume in (False, True):
        with pytest.raises(UserError, match="is finished"):
            run(bert, tmp_path, resume=resume)
    with pytest.raises(UserError, match="`max_length="):
        run(bert, tmp_path, overwrite=True, settings=settings(max_length=4000))
    wrong = {
        "texts for a batch": {"settings": settings(batch_size=4000)},
        "hpd reduces": {"plan": StudentConfig(str(wide)), "settings": settings(objective="hpd")},
        "no cross-encoder": {
            "stage": "both",
            "pairs": PairSet("p", tuple(TrainingPair(text, (text,)) for text in TEXTS)),
            "finetuning": finetuning(soft_labels=str(bert)),
        },
    }
    for said, options in wrong.items():
        with pytest.raises(UserError, match=said):
            run(bert, tmp_path, overwrite=True, **options)
    assert (tmp_path / "student" / "ibkd.json").is_file(), "a wrong option must not cost the old student"
    assert run(bert, tmp_path, overwrite=True, settings=settings(steps=2)).settings["steps"] == 2
    assert not list(tmp_path.glob(".student*"))


@pytest.mark.slow
def test_a_killed_run_is_unfinished_and_resumes_to_the_same_weights(bert, tmp_path):
    program = [sys.executable, "-m", "helpers.tiny_runs", bert, tmp_path, "7"]
    killed = subprocess.run(program, env={"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "student"
    assert sorted(item.name for item in folder.iterdir()) == [LOCK, "checkpoints"]
    with pytest.raises(UserError, match="is unfinished: give `resume`"):
        run(bert, tmp_path)
    with pytest.raises(UserError, match="one of them"):
        run(bert, tmp_path, resume=True, overwrite=True)
    run(bert, tmp_path, resume=True)
    run(bert, tmp_path, output="whole")
    for file in ("model.safetensors", "projection.safetensors"):
        assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


FILE_OPERATIONS = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync")


def died_at(operation, work):
    """Do `work` in a process of its own that ends, at once and without clean-up, before one of its file operations.

    Returns whether it came to that.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        count = 0
        for name in FILE_OPERATIONS:
            original = getattr(os, name)

            def dying(*arguments, original=original, **options):
                nonlocal count
                count += 1
                if count == operation:
                    os._exit(9)
                return original(*arguments, **options)

            setattr(os, name, dying)
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "overwriting"])
def test_a_kill_at_any_file_operation_of_finishing_leaves_what_the_same_command_finishes(
    finished, bert, tmp_path, replacing
):
    _, report = finished
    model = load_sentence_transformer(str(bert))
    output = tmp_path / "student"

    def begin():
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        (output / "checkpoints" / "step-0000004").mkdir(parents=True)
        (output / "checkpoints" / "training-log.jsonl").write_text("{}")
        (output / "checkpoints" / "step-0000004" / "state.json").write_text("{}")
        (output / "note.txt").write_text("kept, unless an old student was there")
        if replacing:
            (output / "ibkd.json").write_text('{"old": true}')
            (output / "modules.json").write_text("[]")

    def finish():
        save_student(model, None, report, output)

    states, operation = Counter(), 1
    while begin() is None and died_at(operation, finish):
        operation += 1
        done = settle_output(output)
        if not done and not is_new(output):
            # Nothing is lost: the checkpoints are whole, and whoever reads models sees the old one or none.
            assert (output / "checkpoints" / "step-0000004" / "state.json").is_file()
            assert (output / "modules.json").exists() == replacing
            prepare_output(output, resume=True, overwrite=False)
            finish()
        states["completed" if done else "resumed"] += 1
        assert is_new(output)
        assert load_sentence_transformer(str(output)) is not None
        assert (output / "note.txt").exists() != replacing
        assert [path.name for path in tmp_path.iterdir()] == ["student"]
        assert not (output / "checkpoints").exists()
    assert states["completed"] >= 1
    assert states["resumed"] > 10


def is_new(output):
    return (output / "ibkd.json").is_file() and "weight_hash" in (output / "ibkd.json").read_text()


def test_two_runs_into_one_folder_are_told_apart(bert, tmp_path):
    seen = []

    class Second:
        def task(self, *arguments, **options):
            return SILENT.task(*arguments, **options)

        def say(self, message):
            if "learning from" in message:
                with pytest.raises(UserError, match="Another process is writing to") as error:
                    held_elsewhere(tmp_path / "student")
                seen.append(str(error.value))

    run(bert, tmp_path, settings=settings(steps=1), progress=Second())
    assert len(seen) == 1


def held_elsewhere(folder):
    """Ask for the folder from another thread, as another process would."""
    with ThreadPoolExecutor(1) as pool:

        def ask():
            with only_writer(folder):
                pass

        pool.submit(ask).result()


def test_a_full_disk_is_a_sentence_and_the_run_goes_on_where_it_was(bert, tmp_path):
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from helpers.tiny_runs import run\n"
        "from ibkd_retrieval.distill.training import checkpoint\n"
        "torch.set_num_threads(1)\n"
        "save = checkpoint.save_checkpoint\n"
        "from ibkd_retrieval.distill.training import loop\n"
        "def limited(folder, step, *rest):\n"
        "    if step == 8:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "    return save(folder, step, *rest)\n"
        "loop.save_checkpoint = limited\n"
        "from ibkd_retrieval.errors import WorkFailed\n"
        "try:\n"
        "    run(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except WorkFailed as error:\n"
        "    print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, bert, tmp_path],
        env={"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.startswith(f"{tmp_path / 'student'} cannot be written ("), answer
    assert "go on with `resume=True`" in answer.stdout
    run(bert, tmp_path, resume=True)
    run(bert, tmp_path, output="whole")
    weights = "model.safetensors"
    assert (tmp_path / "student" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


@pytest.mark.parametrize("name", ["thesis.txt", "checkpoints/step-1/weights", "sub/ibkd.json"])
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_strangers_folder_is_refused_and_never_touched(tmp_path, name, options):
    file = tmp_path / "student" / name
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    with pytest.raises(UserError, match="is no student of this toolkit"):
        prepare_output(tmp_path / "student", **({"resume": False, "overwrite": False} | options))
    assert file.read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "student").write_text("x")
    with pytest.raises(UserError, match="no student"):
        prepare_output(tmp_path / "student", resume=False, overwrite=True)


def test_a_place_that_takes_no_files_is_refused_before_the_work():
    with pytest.raises(UserError, match=r"cannot be written .*: give another `output`"):
        prepare_output(Path("/proc/none/student"), resume=False, overwrite=False)


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "student" / "checkpoints").mkdir(parents=True)
    prepare_output(tmp_path / "student", resume=False, overwrite=False)
    # Nor is what a kill in the very first write leaves.
    (tmp_path / "student" / "checkpoints" / ".training-log.jsonl.4711.tmp").write_text("{")
    prepare_output(tmp_path / "student", resume=False, overwrite=False)


def test_an_earlier_run_is_forgotten_whatever_a_kill_left(tmp_path):
    for name in ("student/checkpoints", "student/tensorboard", ".student.removed"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    clear_unfinished(tmp_path / "student")
    clear_unfinished(tmp_path / "student")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not (tmp_path / ".student.removed").exists()


def test_a_plain_save_replaces_models_and_nothing_else(bert, tmp_path):
    model = load_sentence_transformer(str(bert))
    for _ in range(2):
        save_plain(model, tmp_path / "m")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(UserError, match="no model folder"):
        save_plain(model, tmp_path / "home")
    assert (tmp_path / "home" / "letter").read_text() == "dear"


@pytest.mark.parametrize(
    "plan",
    [
        StudentConfig(),
        StudentConfig(layers=9),
        StudentConfig(layers=2, dim=33),
        StudentConfig(layers=2, pooling="cls"),
        StudentConfig("static", pooling="mean"),
    ],
)
def test_a_plan_that_cannot_work_is_a_user_error(bert, tmp_path, plan):
    with pytest.raises(UserError):
        run(bert, tmp_path, plan=plan)
    assert not (tmp_path / "student").exists()


def test_too_few_texts_are_a_user_error(bert, tmp_path):
    with pytest.raises(UserError, match="too few to hold out"):
        run(bert, tmp_path, corpus=corpus(40))
    with pytest.raises(UserError, match="texts for a batch of 256"):
        run(bert, tmp_path, settings=settings(batch_size=256))


def test_the_card_says_when_training_ended_and_whose_weights_were_kept(bert, tmp_path):
    # A rate of this size takes the student from what it knows at once.
    report = run(bert, tmp_path, settings=settings(steps=40, eval_every=2, patience=2, learning_rate=0.5))
    looks = [point for point in report.history if point.step]
    best, last = max(looks, key=lambda point: point.value).step, looks[-1].step
    assert best < last < 40
    card = (tmp_path / "student" / "README.md").read_text()
    assert f"for {last} steps (the weights after step {best} were kept) of 16 texts" in card


def test_student_names_tell_plans_apart():
    assert StudentConfig(layers=2, dim=128).name("all-MiniLM-L6-v2", "ibkd") == "all-MiniLM-L6-v2-l2-d128-ibkd"
    assert StudentConfig(layers=(0, 5)).name("a/b", "mse") == "b-l0_5-mse"


def test_training_reports_how_far_it_is(bert, tmp_path, monkeypatch):
    said = []

    class Told(type(SILENT)):
        def say(self, message):
            said.append(message)

    run(bert, tmp_path, settings=settings(steps=1), progress=Told())
    assert any("120 documents and 0 queries" in message for message in said)


def test_the_map_to_the_teacher_is_an_isometry_for_a_model_trained_before_alone(bert, tmp_path):
    plan = StudentConfig(model=str(bert))
    cases = {
        "model": ({"plan": plan}, "isometry"),
        "layers": ({}, "trained"),
        "space": ({"plan": plan, "settings": settings(output_space="teacher")}, "trained"),
        "asked": ({"plan": plan, "settings": settings(projection="trained")}, "trained"),
    }
    for name, (options, wanted) in cases.items():
        assert run(bert, tmp_path, output=name, **options).settings["projection"] == wanted
    kept = [type(module).__name__ for module in load_sentence_transformer(str(tmp_path / "model"))]
    assert "Dense" not in kept, "what changes no cosine is not saved"


def test_a_student_reads_as_much_as_it_was_trained_on_and_before_too(bert, tmp_path):
    model = load_sentence_transformer(str(bert))
    model.max_seq_length = 16
    model.save(str(tmp_path / "short"), create_model_card=False)
    plan = StudentConfig(model=str(tmp_path / "short"))
    run(bert, tmp_path, plan=plan, settings=settings(max_length=24), keep_undistilled=tmp_path / "undistilled")
    folders = (tmp_path / "student", tmp_path / "undistilled")
    assert [load_sentence_transformer(str(folder)).max_seq_length for folder in folders] == [24, 24]


def test_a_student_whose_vectors_are_no_numbers_is_a_sentence(bert, tmp_path):
    import torch

    model = load_sentence_transformer(str(bert))
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    save_plain(model, tmp_path / "broken")
    with pytest.raises(UserError, match=r"NaN|no numbers|not finite"):
        run(bert, tmp_path, plan=StudentConfig(str(tmp_path / "broken")))
