"""The recipes of reproduction: what `benchmarks/reproduction/*.yaml` say, checked, and the grid of runs they make."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ibkd_retrieval.distill.config import FINETUNE_PREFIXED, DistillConfig
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.errors import UserError

RECIPES = Path(__file__).parent / "reproduction"
RESULTS = Path(__file__).parent / "results" / "reproduction"


_RECORDED = {
    **{"steps": 1000, "learning_rate": 2e-3, "eval_every": 100},
    **{"objective": "ibkd", "regression_weight": 0.0, "merge": 0.0, "freeze_embeddings": False, "dim": 0},
}
"""What the recorded figures were trained with, where a recipe says nothing else."""


@dataclass(frozen=True)
class Text:
    """What students learn from, as paths below the data folder.

    Attributes:
        corpora: documents.
        queries: queries, as text; their judgements are not read.
        pairs: JSONL files of pairs: passages are documents, queries queries.
        most: how many texts to draw from a source, by its path, where not all of them.
        max_documents: most documents, drawn once for all runs of a recipe.
        max_queries: most queries, likewise.
    """

    corpora: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    most: dict[str, int] = field(default_factory=dict)
    max_documents: int | None = None
    max_queries: int | None = None


@dataclass(frozen=True)
class DataSet:
    """Something to measure on: judged queries (nDCG@10), or sentence pairs with scores (Spearman)."""

    name: str
    queries: str | None = None
    sts: str | None = None


@dataclass(frozen=True)
class Expected:
    """A figure of a row that the recipe is known, or wanted, to reach.

    Attributes:
        row: name of the row.
        figure: a data set's name, or "average" over the retrieval sets of the final ones.
        dims: length of the vectors, None for the whole.
        value: the figure itself, within the recipe's tolerance.
        at_least: wanted figure.
        kept_at_least: wanted share of the teacher's figure.
    """

    row: str
    figure: str = "average"
    dims: int | None = None
    value: float | None = None
    at_least: float | None = None
    kept_at_least: float | None = None


@dataclass(frozen=True)
class Variant:
    """One way to train, by name; `settings` go over the recipe's."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as part of a file's."""
        return "".join(c if c.isalnum() or c == "." else "-" for c in self.name.replace("λ", "lambda"))


@dataclass(frozen=True)
class Recipe:
    """One reproduction.

    Attributes:
        name: the file's.
        title: heading of its part of the page.
        about: what it is to show.
        teachers: models, below the models folder.
        student: fields of `StudentConfig`; a model below the models folder.
        text: what is learnt from.
        watch: judged queries looked at while training; None looks at the teacher's neighbours among held-out texts.
        variants: ways to train.
        seeds: each variant is trained once with each.
        dev: sets that may be looked at while a recipe is being chosen.
        final: sets for its final figures.
        settings: parameters of `distill`.
        tested: variant that is compared with every other row.
        stage: as for `distill`.
        pairs: what stage 2 learns from.
        finetuning: fields of `FinetuneConfig`.
        tolerance: of expected figures.
        expected: figures to be reached.
    """

    name: str
    title: str
    about: str
    teachers: tuple[str, ...]
    student: dict[str, Any]
    text: Text
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    dev: tuple[DataSet, ...]
    final: tuple[DataSet, ...]
    watch: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tested: str = ""
    stage: str = "distill"
    pairs: str | None = None
    finetuning: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 0.005
    expected: tuple[Expected, ...] = ()

    @property
    def dims(self) -> tuple[int | None, ...]:
        """Lengths of the student's vectors that figures are taken at; None is the whole."""
        return (None, *self.settings.get("dims", ())[1:])

    @property
    def in_teacher_space(self) -> bool:
        """Whether student queries search what the teacher encoded."""
        return bool(self.settings.get("output_space") == "teacher")

    def config(self, variant: Variant, seed: int, models: Path = Path()) -> DistillConfig:
        """The configuration of one run, its models below `models`."""
        student = dict(self.student)
        if student.get("model") not in (None, "static"):
            student["model"] = str(models / student["model"])
        given: dict[str, Any] = {"student" if name == "model" else name: value for name, value in student.items()}
        given |= _RECORDED | self.settings | variant.settings
        given |= {f"finetune_{k}" if k in FINETUNE_PREFIXED else k: v for k, v in self.finetuning.items()}
        teachers = [str(models / name) for name in self.teachers]
        return decided(DistillConfig().with_parameters(teacher=teachers, stage=self.stage, seed=seed, **given))

    def identity(self, variant: Variant, seed: int) -> str:
        """A digest of all that a run's weights follow from, files' contents apart."""
        parts = [self.teachers, self.student, dataclasses.asdict(self.text), self.watch, self.stage, self.pairs]
        config = self.config(variant, seed)
        tuning = None if self.stage == "distill" else config.finetuning_record()
        return digest([*parts, config.distilling_record(), tuning])

    def sets(self, kind: str) -> tuple[DataSet, ...]:
        """The sets of a kind, "dev" or "final"."""
        return self.final if kind == "final" else self.dev

    def figures(self, kind: str) -> list[str]:
        """Names of the figures of a kind: of each set, and of the average where there are several for retrieval."""
        sets = self.sets(kind)
        several = sum(each.queries is not None for each in sets) > 1
        return [each.name for each in sets] + (["average"] if several else [])


def digest(value: Any) -> str:
    """Sixteen hex digits that tell plain values apart."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; what it leaves out is taken from the file beside it that it names as `like`, and so on.

    Raises:
        UserError: it is no YAML, lacks something, has something unknown, or its settings cannot work.
    """
    given = _read(path)
    grid = given.pop("grid", None)
    variants = [Variant(**each) for each in given.pop("variants", ())] + (_grid(**grid) if grid else [])
    lists = {name: tuple(given.pop(name, ())) for name in ("teachers", "seeds")}
    made = {
        "dev": tuple(_make(DataSet, each, path) for each in given.pop("dev", ())),
        "final": tuple(_make(DataSet, each, path) for each in given.pop("final", ())),
        "expected": tuple(_make(Expected, each, path) for each in given.pop("expected", ())),
        "text": _make(
            Text, {k: tuple(v) if isinstance(v, list) else v for k, v in given.pop("text", {}).items()}, path
        ),
    }
    name = path.stem
    recipe: Recipe = _make(Recipe, {"name": name, "variants": tuple(variants), **lists, **made, **given}, path)
    _check(recipe, path)
    return recipe


def read_recipes(folder: Path = RECIPES) -> list[Recipe]:
    """All recipes of a folder, by name, but files that others are `like`, whose names begin with an underscore."""
    return [read_recipe(path) for path in sorted(folder.glob("[!_]*.yaml"))]


def _read(path: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    if path.stem in names:
        raise UserError(f"{path} is like itself, by {', '.join(names)}: take `like` out of one of them.")
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no recipe ({str(error).splitlines()[0]}): compare {RECIPES}/smoke.yaml.") from error
    if not isinstance(given, dict):
        raise UserError(f"{path} is no recipe: compare {RECIPES}/smoke.yaml.")
    if "like" not in given:
        return given
    return _read(path.with_name(f"{given.pop('like')}.yaml"), (*names, path.stem)) | given


def _grid(objectives: list[str], hsic_weights: list[float], hsic_bandwidths: list[Any]) -> list[Variant]:
    """Every objective; `ibkd` with each weight and bandwidth. Its weight 0 is `infonce`, and is not trained twice."""
    made = []
    for objective in objectives:
        if objective != "ibkd":
            made.append(Variant(objective, {"objective": objective}))
            continue
        for weight, bandwidth in itertools.product(hsic_weights, hsic_bandwidths):
            if weight:
                shown = "median" if bandwidth == "median" else f"γ {bandwidth:g}"
                settings = {"objective": "ibkd", "hsic_weight": weight, "hsic_bandwidth": bandwidth}
                made.append(Variant(f"ibkd, λ {weight:g}, {shown}", settings))
    if "ibkd" in objectives and 0 in hsic_weights and "infonce" not in objectives:
        made.append(Variant("infonce", {"objective": "infonce"}))
    return made


def _make(kind: type[Any], given: Any, path: Path) -> Any:
    """A dataclass of a mapping's entries."""
    known = _names(kind)
    unknown = sorted(given.keys() - known) if isinstance(given, dict) else [repr(given)]
    if unknown:
        raise UserError(f"{path}: unknown {', '.join(unknown)}; use {', '.join(sorted(known))}.")
    try:
        return kind(**given)
    except TypeError as error:
        raise UserError(f"{path}: {kind.__name__.lower()} {str(error).split('() ')[-1]}.") from error


def _check(recipe: Recipe, path: Path) -> None:
    for name in ("teachers", "variants", "seeds", "dev"):
        if not getattr(recipe, name):
            raise UserError(f"{path}: {name} is empty; name at least one.")
    names = [variant.name for variant in recipe.variants]
    if recipe.tested and recipe.tested not in names:
        raise UserError(f"{path}: tested is `{recipe.tested}`; name one of {'; '.join(names)}.")
    sets = [each.name for each in (*recipe.dev, *recipe.final)]
    repeated = [name for each in (names, sets) for name in each if each.count(name) > 1]
    if repeated:
        raise UserError(f"{path}: {repeated[0]} appears twice; give each variant and each data set a name of its own.")
    for variant in recipe.variants:
        try:
            recipe.config(variant, recipe.seeds[0])
        except TypeError as error:
            raise UserError(f"{path}: settings of {variant.name}: {str(error).split('() ')[-1]}.") from error


def _names(kind: type[Any]) -> set[str]:
    return {each.name for each in dataclasses.fields(kind)}
