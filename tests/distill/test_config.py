import json

import pytest

import ibkd_retrieval as ibkd
from helpers.tiny_models import sentences
from ibkd_retrieval.distill.config import PARAMETERS, USUAL, DistillConfig
from ibkd_retrieval.distill.defaults import decided, recorded, usual_learning_rate
from ibkd_retrieval.distill.pipeline import _distilled
from ibkd_retrieval.distill.sections import StudentConfig
from ibkd_retrieval.errors import UserError

GIVEN = {
    "teacher": ["a", "b"],
    "layers": "0,3",
    "dims": "32,16",
    "negative_ranks": "5-50",
    "hsic_bandwidth": "0.5",
    "stage": "both",
    "pairs": "pairs.jsonl",
    "finetune_steps": 7,
}


def test_a_configuration_survives_json(tmp_path):
    config = DistillConfig().with_parameters(**GIVEN)
    assert config.student.layers == (0, 3)
    assert (config.finetuning.steps, config.finetuning.negative_ranks) == (7, (5, 50))
    assert config.objective.hsic_bandwidth == 0.5
    config.save(tmp_path / "run.json")
    assert DistillConfig.load(tmp_path / "run.json") == config


def test_fields_of_the_corpus_are_part_of_the_configuration(tmp_path):
    from ibkd_retrieval.distill.sources import open_sources
    from ibkd_retrieval.progress import SILENT

    path = tmp_path / "docs.csv"
    path.write_text("nr,headline,body\n1,T,x\n")
    config = DistillConfig().with_parameters(corpus=str(path), id_field="nr", text_field="body")
    again = DistillConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    (document,) = open_sources(str(path), None, None, again, tmp_path, SILENT)["corpus"].documents()
    assert (document.doc_id, document.text, document.title) == ("1", "x", "")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"student": "static"},
        {"student": "m", "objective": "mse"},
        {"student": "m", "preset": "thorough"},
        {"preset": "paper", "stage": "both", "pairs": "p", "finetune_hsic_weight": 0.5},
        {"stage": "finetune", "pairs": "p", "negatives": 0},
    ],
)
def test_what_was_decided_repeats_the_run(given):
    config = DistillConfig().with_parameters(**given)
    chosen = decided(config)
    again = decided(DistillConfig.from_json(json.loads(json.dumps(recorded(config, chosen).to_json()))))
    assert again.student == chosen.student
    if config.stage != "finetune":
        assert again.distilling_record() == chosen.distilling_record()
    if config.stage != "distill":
        assert again.finetuning_record() == chosen.finetuning_record()


def test_the_options_of_the_command_are_the_parameters_of_the_function():
    from typer.main import get_command

    from ibkd_cli.app import app
    from ibkd_cli.options.distill import OPTIONS

    names = {each.name for each in get_command(app).commands["distill"].params}
    assert set(PARAMETERS) <= set(OPTIONS) == names - {"help"}


def test_the_command_without_options_decides_as_the_function_without_arguments(monkeypatch):
    from typer.testing import CliRunner

    import ibkd_retrieval.distill.api as api
    from ibkd_cli.app import app

    jobs = []

    def stopped(job):
        jobs.append(job)
        raise UserError("far enough")

    monkeypatch.setattr(api, "distill_student", stopped)
    monkeypatch.setattr(
        "ibkd_retrieval.distill.preparing.open_sources", lambda *sources: {"corpus": sources[:3], "queries": None}
    )
    with pytest.raises(UserError, match="far enough"):
        ibkd.distill(DistillConfig())
    assert CliRunner().invoke(app, ["distill"]).exit_code == 2
    library, command = ({name: value for name, value in vars(job).items() if name != "progress"} for job in jobs)
    assert library == command
    assert library["config"].training.steps == USUAL["steps"]


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        ({}, 5),
        ({"student": "static"}, 5),
        ({"student": "m", "objective": "ibkd"}, 0),
        ({"regression_weight": 0}, 0),
        ({"preset": "paper"}, 0),
        ({"preset": "paper", "regression_weight": 2}, 2),
        ({"objective": "infonce"}, 0),
        ({"objective": "infonce", "regression_weight": 2}, 2),
    ],
)
def test_the_weight_of_the_regression_follows_the_objective_the_student_and_the_preset(given, weight):
    assert decided(DistillConfig().with_parameters(**given)).objective.regression_weight == weight


@pytest.mark.parametrize("given", [{"layers": 3}, {"stage": "finetune", "pairs": "p"}])
def test_a_student_made_before_there_was_a_regression_repeats_without_it(tmp_path, given):
    config = DistillConfig().with_parameters(**given)
    older = recorded(config, decided(config)).to_json()
    older["objective"].pop("regression_weight")
    (tmp_path / "ibkd.json").write_text(json.dumps({"version": 1, "student": {}, "origin": "", "config": older}))
    again = decided(DistillConfig.load(tmp_path))
    assert again.student == decided(config).student
    if "layers" in given:
        assert again.objective.regression_weight == 0


def test_the_rate_for_layers_falls_with_the_teachers_width():
    layers = StudentConfig(layers=2)
    assert [usual_learning_rate(layers, width) for width in (384, 768, 128)] == [2e-3, 1e-3, 2e-3]
    assert usual_learning_rate(StudentConfig("static"), 768) == 1e-3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"student": {"color": 3}}, "student.color"),
        ({"shape": 3}, "shape"),
        ({"training": {"steps": "many"}}, "`steps` is 'many'"),
        ({"student": {"dim": 1.5}}, "`dim` is 1.5"),
        ({"student": {"dim": -1}}, "`dim` is -1: give at least 0"),
        ({"student": {"layers": "x"}}, "`layers` x"),
    ],
)
def test_a_configuration_that_is_none_is_a_sentence(values, said):
    with pytest.raises(UserError) as error:
        decided(DistillConfig.from_json(values))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"training": 3}'])
def test_a_file_that_is_no_configuration_is_a_sentence(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match="onfiguration"):
        DistillConfig.load(tmp_path / "c.json")
    with pytest.raises(UserError, match="cannot be read"):
        DistillConfig.load(tmp_path / "none.json")


def test_texts_from_python_become_a_student_that_repeats_itself(bert, tmp_path):
    few = {"steps": 4, "batch_size": 16, "bank_size": 8, "max_length": 24, "dtype": "float32", "eval_every": 2}
    pairs = [(" ".join(text.split()[:3]), text) for text in sentences(60, seed=2)]
    places = {"device": "cpu", "cache": tmp_path / "cache"}
    student = ibkd.distill(
        teacher=bert,
        corpus=sentences(150),
        pairs=pairs,
        stage="both",
        layers=2,
        dim=8,
        negatives=0,
        finetune_steps=2,
        finetune_batch_size=8,
        output=tmp_path / "one",
        **few,
        **places,
    )
    assert isinstance(student, ibkd.Student)
    assert student.figures["dim"] == 8
    assert "keeps" in repr(student) or "dev" in repr(student)
    assert "<table>" in student._repr_html_()
    assert student.to_pandas().dim.tolist() == [8]
    assert ibkd.Student.open(tmp_path / "one").figures == student.figures
    # Whatever takes a model takes a student.
    from ibkd_retrieval.encoders.encoder import Encoder

    assert Encoder.load(str(student), device="cpu").dim == 8
    again = ibkd.distill(student, corpus=sentences(150), pairs=pairs, output=tmp_path / "two", **places)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "one", again.path)]
    assert weights[0] == weights[1]


def test_minutes_choose_the_steps_and_the_run_repeats_with_these(bert, tmp_path):
    few = {"batch_size": 16, "bank_size": 8, "max_length": 24, "dtype": "float32", "layers": 1, "dim": 8}
    places = {"teacher": bert, "corpus": sentences(150), "device": "cpu", "cache": tmp_path / "cache"}
    short, long = (
        ibkd.distill(minutes=minutes, output=tmp_path / name, **few, **places)
        for name, minutes in (("short", 1e-9), ("long", 0.01))
    )
    assert short.record["settings"]["steps"] == 1
    steps = long.record["settings"]["steps"]
    assert 2 < steps < 2000
    assert (long.config.training.steps, long.config.training.minutes) == (steps, None)
    with pytest.raises(UserError, match="leave out `minutes` or `steps`"):
        ibkd.distill(minutes=1, steps=3, output=tmp_path / "both", **few, **places)
    again = ibkd.distill(long, minutes=1e-9, output=tmp_path / "again", **places)
    assert again.config.training.steps == 1


def test_a_students_own_number_of_dimensions_may_be_given(bert, teacher, tmp_path):
    few = {"steps": 1, "batch_size": 16, "bank_size": 8, "max_length": 24, "dtype": "float32", "device": "cpu"}
    places = {"teacher": bert, "corpus": sentences(150), "output": tmp_path / "whole", "cache": tmp_path / "cache"}
    assert ibkd.distill(layers=1, dim=teacher.dim, **few, **places).figures["dim"] == teacher.dim


def test_a_run_of_some_minutes_is_resumed_with_its_steps(tmp_path, monkeypatch):
    from ibkd_retrieval.distill import pipeline
    from ibkd_retrieval.distill.preparing import Job

    begun = {"identity": {"settings": {"steps": 7, "objective_settings": {"regression_weight": 0.0}}}}
    monkeypatch.setattr(pipeline, "list_checkpoints", lambda folder: [folder])
    monkeypatch.setattr(pipeline, "read_state", lambda checkpoint: begun)
    given = DistillConfig().with_parameters(minutes=3)
    job = Job(decided(given), ibkd.open_corpus(["a"]), None, tmp_path, tmp_path, resume=True, given=given)
    training = pipeline._as_begun(job).config.training
    assert (training.steps, training.minutes) == (7, None)


def test_a_second_stage_of_the_first_release_is_continued():
    config = decided(DistillConfig().with_parameters(preset="paper"))
    assert "'hsic_estimator': 'biased'}} from texts" in _distilled("layers", config, "texts")
    regression = config.with_parameters(regression_weight=5.0)
    assert "'regression_weight': 5.0}} from texts" in _distilled("layers", regression, "texts")


@pytest.mark.parametrize("seed", [-1, 1 << 63, 10**20])
def test_a_seed_that_torch_does_not_take_is_refused(seed):
    with pytest.raises(UserError, match=r"`seed` is .*: give"):
        ibkd.distill(corpus=["a"], seed=seed)


def test_a_name_may_be_as_long_as_file_systems_take_and_no_longer(tmp_path):
    from ibkd_retrieval.distill.output.folder import prepare_output, staging_folder, take_place

    longest = tmp_path / ("n" * 255)
    prepare_output(longest, resume=False, overwrite=False)
    made = staging_folder(longest)
    made.mkdir()
    take_place(made, longest)
    assert [path.name for path in tmp_path.iterdir()] == [longest.name]
    with pytest.raises(UserError, match="has 256 letters, too many for a file"):
        prepare_output(tmp_path / ("n" * 256), resume=False, overwrite=False)
