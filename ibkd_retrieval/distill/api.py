"""`distill`: the public function that trains a student. `Student`: the finished model and its figures."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ibkd_retrieval.distill.cluster import check_cluster, distill_on_cluster
from ibkd_retrieval.distill.config import RECORD, DistillConfig
from ibkd_retrieval.distill.defaults import check_stage, check_vectors, decided, text_sources, unread
from ibkd_retrieval.distill.output.folder import prepare_output, read_student, settle_output
from ibkd_retrieval.distill.pipeline import distill_student
from ibkd_retrieval.distill.preparing import open_job
from ibkd_retrieval.distill.teacher.cache import TEACHERS
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.encoders.endpoints.address import EndpointTerms
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import cache_folder
from ibkd_retrieval.progress import SILENT, Progress, as_progress

MODELS = Path("models")
"""The default folder for students."""


@dataclass(frozen=True, repr=False)
class Student:
    """A finished student: its folder and its figures. It is accepted wherever a model name is.

    Attributes:
        path: the model folder.
        record: the contents of its `ibkd.json`.

    Example:
        >>> teacher = {"dev": 0.5, "dim": 384, "texts_per_second": 100.0}
        >>> student = {"dev": 0.45, "dim": 128, "texts_per_second": 300.0}
        >>> record = {"teacher": teacher, "student": student, "dev_metric": "mrr@10", "undistilled_dev": 0.1}
        >>> made = Student(Path("models/mine"), record)
        >>> made.figures["retention"], made.figures["speed_up"]
        (0.9, 3.0)
    """

    path: Path
    record: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Student:
        """Open the folder of a finished student.

        Raises:
            UserError: the folder holds no finished student, or its record is damaged.
        """
        path = Path(path)
        if not (path / RECORD).is_file():
            raise UserError(f"{path} holds no finished student: there is no {RECORD} in it.")
        record = read_student(path)
        try:
            student = cls(path, record)
            _ = student.figures
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path / RECORD} is damaged: distil the student again with `distill(overwrite=True)`."
            ) from error
        return student

    @property
    def figures(self) -> dict[str, Any]:
        """The dev figures (student, teacher, untrained student), the retention, the dimensions and the speed-up."""
        teacher, student = self.record["teacher"], self.record["student"]
        return {
            "dev_metric": self.record["dev_metric"],
            "dev": student["dev"],
            "teacher_dev": teacher["dev"],
            "undistilled_dev": self.record["undistilled_dev"],
            "retention": student["dev"] / teacher["dev"] if teacher["dev"] else None,
            "dim": student["dim"],
            "teacher_dim": teacher["dim"],
            "speed_up": student["texts_per_second"] / teacher["texts_per_second"]
            if teacher["texts_per_second"]
            else None,
        }

    @property
    def config(self) -> DistillConfig:
        """The configuration that repeats the run.

        Raises:
            UserError: an earlier version made the student and recorded no configuration.
        """
        return DistillConfig.load(self.path)

    def summary(self) -> str:
        """The figures in a sentence."""
        found = self.figures
        kept = f" = {found['retention']:.1%} of the teacher's {found['teacher_dev']:.4f}" if found["retention"] else ""
        faster = f", {found['speed_up']:.1f} × as fast" if found["speed_up"] else ""
        return (
            f"dev {found['dev_metric']} {found['dev']:.4f}{kept} "
            f"(before distillation {found['undistilled_dev']:.4f}), "
            f"{found['dim']} dimensions instead of {found['teacher_dim']}{faster}"
        )

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What to try if the student keeps too little of its teacher's dev figure, best first."""
        from ibkd_retrieval.evaluation.report.sentence import next_steps

        return next_steps(self.record, self.figures["retention"])

    def to_pandas(self) -> Any:
        """The figures as a pandas table of one row."""
        import pandas as pd

        return pd.DataFrame([{"path": str(self.path)} | self.figures])

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Student({str(self.path)!r}: {self.summary()})"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(f'{value:.4g}' if _is_number(value) else str(value))}"
            "</td></tr>"
            for name, value in self.figures.items()
        )
        return f"<table><caption>{html.escape(str(self.path))}</caption>{cells}</table>"


def distill(
    config: DistillConfig | str | os.PathLike[str] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    device: str = "auto",
    cluster: str | None = None,
    workers: int | None = None,
    worker_cpus: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_undistilled: str | os.PathLike[str] | None = None,
    tensorboard: bool = False,
    price: float | None = None,
    yes: bool = False,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    progress: Progress | bool = SILENT,
    **parameters: Any,
) -> Student:
    """Distil a teacher into a small student with IBKD, fine-tune it on pairs, or both.

    By default the student is two layers of all-MiniLM-L6-v2. It learns from the documentation of the installed Python
    packages. `ibkd distill` has the same defaults.

    Args:
        config: a configuration, the path of its JSON file, or a finished student. A student repeats its run.
        output: the model folder to write. None is a folder in `models/`, named after teacher, student and objective.
        cache: folder for the teachers' cached vectors. None is a folder in the user's cache.
        device: "auto", "cpu", "cuda" or "cuda:N".
        cluster: a Ray cluster whose nodes encode with the teacher and train the student together: "auto" for the one
            that this machine belongs to, or its HOST:PORT. They see the same files as this machine.
        workers: most processes at once on the cluster. None is as many as it has room for.
        worker_cpus: cores of a process on a cluster. None is 1.
        resume: continue an unfinished `output`.
        overwrite: replace a finished or unfinished `output`. An old student stays until the new one is finished.
        keep_undistilled: folder in which the untrained student is saved too.
        tensorboard: also log to TensorBoard, in `output`/tensorboard.
        price: for a teacher behind an endpoint: dollars per million tokens, for the estimate of the cost.
        yes: for an endpoint: agree to the estimated cost. False asks where somebody can answer, and else refuses.
        requests_per_minute: for an endpoint: most requests a minute. None is no limit.
        tokens_per_minute: for an endpoint: most tokens a minute. None is no limit.
        progress: receives progress reports. True shows bars.
        parameters: choices that override those of `config`. Their names are in `config.PARAMETERS`: `teacher`,
            `teacher_vectors`, `student`, `layers`, `dim`, `dims`, `corpus`, `queries`, `dev`, `pairs`, `objective`,
            `steps`, `batch_size`, `learning_rate`, `stage`, `preset`, `finetune_steps`, ... `corpus`, `queries` and
            `dev` are names, paths, or texts and records in Python. `pairs` may also be a list of (query, passage).

    Returns:
        The finished student.

    Raises:
        UserError: an input is invalid. The message says what, where and what to do.
        WorkFailed: training failed, or the disk is full.

    Example:
        >>> import ibkd_retrieval as ibkd
        >>> student = ibkd.distill(corpus="docs.jsonl", layers=3, dim=384, output="models/mine")  # doctest: +SKIP
        >>> student.figures["retention"]  # doctest: +SKIP
        0.934
    """
    progress = as_progress(progress)
    terms = EndpointTerms(price, yes, requests_per_minute, tokens_per_minute)
    base = config if isinstance(config, DistillConfig) else DistillConfig.load(config) if config else DistillConfig()
    # One of the two replaces the other of a configuration.
    instead = {"steps": "minutes", "minutes": "steps"}
    base = base.with_parameters(**{instead[each]: None for each in instead if parameters.get(each) is not None})
    given = base.with_parameters(**parameters)
    if given.data.teacher_vectors is not None and not parameters.get("teacher"):
        given = replace(given, teacher=())  # The default one.
    if not given.teachers:
        raise UserError("There is no `teacher`: name at least one.")
    check_vectors(given)
    chosen = decided(given)
    check_stage(chosen, given.data.pairs)
    nodes = check_cluster(given, cluster, workers, worker_cpus, device)
    target = default_output(chosen) if output is None else Path(output)
    # Told now and not after minutes of reading text.
    if ranks.is_first():
        if settle_output(target):
            progress.say(f"{target} was finished by an earlier run, which was ended before it could say so")
            return Student.open(target)
        prepare_output(target, resume=resume, overwrite=overwrite)
    _say(chosen, target, parameters, progress)
    cache_root = Path(cache) if cache is not None else cache_folder() / TEACHERS
    job = open_job(
        given,
        cache_root,
        progress,
        output=target,
        device=device,
        resume=resume,
        overwrite=overwrite,
        keep_undistilled=None if keep_undistilled is None else Path(keep_undistilled),
        tensorboard=tensorboard,
        endpoint=terms,
    )
    if nodes is None:
        student = Student(target, json.loads(json.dumps(distill_student(job).as_dict())))
    else:
        distill_on_cluster(job, given, nodes)
        student = Student.open(target)
    if student.next_steps:
        progress.say("To keep more, in this order (the figures are of students of all-mpnet-base-v2):")
    for number, step in enumerate(student.next_steps, 1):
        progress.say(f"{number}. {step}")
    return student


def default_output(config: DistillConfig) -> Path:
    """The default folder of a student, such as `models/all-MiniLM-L6-v2-l2-d128-ibkd`."""
    objective = config.objective.name
    suffix = {"finetune": "finetuned", "both": f"{objective}-finetuned"}.get(config.stage, objective)
    return MODELS / config.student.name(config.teachers[0], suffix)


def _say(config: DistillConfig, target: Path, parameters: Mapping[str, Any], progress: Progress) -> None:
    """Say what is about to run, and which parameters have no effect."""
    corpus, queries, _ = text_sources(config)
    progress.say(
        f"teacher {' + '.join(config.teachers)} → student {target}"
        + ("" if corpus is None else f" · corpus {_shown(corpus)}")
        + ("" if queries is None else f" · queries {_shown(queries)}")
    )
    given = {name for name, value in parameters.items() if value is not None}
    if idle := unread(given, config.stage, config.objective.name):
        names = ", ".join(f"`{name}`" for name in idle)
        progress.say(f"the objective {config.objective.name} does not read {names}")


def _shown(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return str(source)
    return str(getattr(source, "name", None) or "given from Python")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
