"""One row of a reproduction with one seed: trained where it is a student, measured, and written as JSON.

`reproduction.py` runs this file in a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_cli.display.console import reporter
from ibkd_retrieval.corpora.records import Document, Query, QuerySet
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.corpora.sts import read_pairs as read_sts
from ibkd_retrieval.distill.data.pairs import judged_pairs, read_pairs
from ibkd_retrieval.distill.data.texts import gather_texts
from ibkd_retrieval.distill.pipeline import distill_student
from ibkd_retrieval.distill.preparing import Job
from ibkd_retrieval.distill.teacher.joint import JointTeacher
from ibkd_retrieval.distill.teacher.model import open_cache
from ibkd_retrieval.encoders.device import choose_device, read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.evaluation.sts import similarity_of
from ibkd_retrieval.files import atomic_write, write_json
from ibkd_retrieval.progress import Progress
from ibkd_retrieval.search.runs import Run
from reproducing import DataSet, Recipe, Text, Variant, digest, read_recipe

METRIC = "ndcg@10"
TEACHER, BEFORE = "teacher", "student before"
TEACHERS = "teachers"
_DEPTH = 100


@dataclass(frozen=True)
class Places:
    """Where things are.

    Attributes:
        data: data sets.
        models: models.
        work: what is computed on the way, shared by all recipes.
        device: where to compute.
    """

    data: Path
    models: Path
    work: Path
    device: str = "auto"


@dataclass(frozen=True)
class Cell:
    """A row of a recipe's table with one seed; None for a row that is not trained."""

    recipe: Recipe
    row: str
    seed: int | None = None

    @property
    def variant(self) -> Variant | None:
        """How it is trained, None where it is not."""
        return next((each for each in self.recipe.variants if each.name == self.row), None)

    @property
    def name(self) -> str:
        """Part of its files' names: another recipe for the row has other files."""
        variant = self.variant
        if self.row == BEFORE:
            return f"{Variant(self.row).slug}-{untrained_identity(self.recipe)}"
        if variant is None or self.seed is None:
            recipe = self.recipe
            return f"{Variant(self.row).slug}-{digest([recipe.teachers, recipe.student, recipe.dims])[:8]}"
        return f"{variant.slug}-seed{self.seed}-{self.recipe.identity(variant, self.seed)[:8]}"

    def result(self, places: Places, kind: str) -> Path:
        """Where its figures on the sets of a kind are kept."""
        sets = digest([vars(each) for each in self.recipe.sets(kind)])[:8]
        return places.work / self.recipe.name / f"{self.name}.{kind}-{sets}.json"


def cells(recipe: Recipe) -> list[Cell]:
    """All of a recipe's, in an order they can be run in: the first that trains keeps the student before training."""
    trained = [Cell(recipe, variant.name, seed) for seed in recipe.seeds for variant in recipe.variants]
    single = list(recipe.teachers) if len(recipe.teachers) > 1 else []
    return [*(Cell(recipe, row) for row in (TEACHER, *single)), *trained, Cell(recipe, BEFORE)]


def untrained_identity(recipe: Recipe) -> str:
    """Of the student before training, which is kept by the first variant's first seed."""
    return recipe.identity(recipe.variants[0], recipe.seeds[0])[:8]


class KeptVectors:
    """An encoder whose vectors are computed once for each list of texts, and given cut to `dim` and unit."""

    def __init__(self, encoder: Encoder | JointTeacher, folder: Path | None = None) -> None:
        """Keep vectors in memory, and in `folder` too where it is given."""
        self.encoder, self.dim = encoder, None
        self._folder = folder and folder / encoder.weight_hash[:16]
        self._kept: dict[str, NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str], kind: Any = "document", progress: Any = None) -> NDArray[np.float32]:
        """Unit vectors [n, dim]."""
        key = digest([kind, *texts])
        if key not in self._kept:
            self._kept[key] = self._load(key, texts, kind)
        vectors = self._kept[key][:, : self.dim]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def _load(self, key: str, texts: Sequence[str], kind: Any) -> NDArray[np.float32]:
        if self._folder is None:
            return self.encoder.encode(texts, kind)
        path = self._folder / f"{key}.npy"
        if not path.is_file():
            with atomic_write(path) as file:
                np.save(file, self.encoder.encode(texts, kind))
        return np.load(path, allow_pickle=False)


def training_text(text: Text, places: Places) -> tuple[Path, Path | None]:
    """The documents and queries to learn from as two JSONL files, drawn once for all recipes with the same text."""
    folder = places.work / f"text-{digest(vars(text))}"
    documents, queries = folder / "documents.jsonl", folder / "queries.jsonl"
    if not documents.is_file():
        _write_texts(queries, _drawn(_queries(text, places), text.max_queries, 1))
        _write_texts(documents, _drawn(_documents(text, places), text.max_documents, 0))
    return documents, queries if queries.stat().st_size else None


def _documents(text: Text, places: Places) -> Iterator[str]:
    for spec in text.corpora:
        yield from _most(
            text, spec, (document.content for document in open_corpus(str(places.data / spec)).documents())
        )
    for spec in text.pairs:
        pairs = read_pairs(places.data / spec).pairs
        yield from _most(text, spec, (passage for pair in pairs for passage in pair.positives))


def _queries(text: Text, places: Places) -> Iterator[str]:
    for spec in text.queries:
        yield from _most(text, spec, (query.text for query in open_queries(str(places.data / spec)).queries))
    for spec in text.pairs:
        yield from _most(text, spec, (pair.query for pair in read_pairs(places.data / spec).pairs))


def _most(text: Text, spec: str, texts: Iterator[str]) -> Iterator[str]:
    return iter(_drawn(texts, text.most[spec], 2)) if spec in text.most else texts


def _drawn(texts: Iterator[str], most: int | None, seed: int) -> list[str]:
    """Different texts, `most` of them at random, in their order."""
    every = list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))
    if most is None or most >= len(every):
        return every
    return [every[i] for i in sorted(np.random.default_rng(seed).choice(len(every), most, replace=False))]


def _write_texts(path: Path, texts: list[str]) -> None:
    with atomic_write(path) as file:
        for number, text in enumerate(texts):
            file.write((json.dumps({"_id": str(number), "text": text}, ensure_ascii=False) + "\n").encode("utf-8"))


def teach(recipe: Recipe, places: Places, progress: Progress) -> None:
    """Have the teachers encode what students learn from, so that cells that run side by side find it done."""
    documents, queries = training_text(recipe.text, places)
    texts = gather_texts(open_corpus(str(documents)), open_queries(str(queries)) if queries else None)
    settings = recipe.config(recipe.variants[0], recipe.seeds[0]).training
    for name in recipe.teachers:
        folder = str(places.models / name)
        model = load_sentence_transformer(folder, device=choose_device(places.device))
        cache = open_cache(folder, model, settings, places.work / TEACHERS)
        cache.rows(texts.documents, "document", progress)
        cache.rows(texts.queries, "query", progress)
    write_json(taught_mark(recipe, places), {"teachers": recipe.teachers, "texts": len(texts)})


def taught_mark(recipe: Recipe, places: Places) -> Path:
    """The file that says that `teach` has been done for a recipe, or for another with the same text and teachers."""
    settings = recipe.config(recipe.variants[0], recipe.seeds[0]).training
    key = digest([recipe.teachers, vars(recipe.text), settings.max_length, settings.dtype])
    return places.work / TEACHERS / f"taught-{key}.json"


def train(cell: Cell, places: Places, progress: Progress) -> Path:
    """The folder of the cell's student, trained now unless it is finished; a run that was killed goes on."""
    recipe, variant = cell.recipe, cell.variant
    if variant is None or cell.seed is None:
        raise ValueError(f"{cell.row} is not trained")
    first = (recipe.variants[0], recipe.seeds[0])
    output = places.work / recipe.name / "students" / cell.name
    if (output / "ibkd.json").is_file():
        return output
    documents, queries = training_text(recipe.text, places)
    job = Job(
        config=recipe.config(variant, cell.seed, places.models),
        corpus=open_corpus(str(documents)),
        queries=open_queries(str(queries)) if queries else None,
        output=output,
        cache_root=places.work / TEACHERS,
        **(_pairs(recipe, places) if recipe.stage != "distill" else {}),
        **_watched(recipe, places),
        device=places.device,
        resume=output.exists(),
        # By one cell alone, since several may run at a time.
        keep_undistilled=_before(recipe, places) if (variant, cell.seed) == first else None,
        progress=progress,
    )
    distill_student(job)
    return output


def _pairs(recipe: Recipe, places: Places) -> dict[str, Any]:
    """What stage 2 learns from, and where it mines: the corpus of judged queries, else the text of stage 1."""
    path = places.data / str(recipe.pairs)
    if path.is_file():
        return {"pairs": read_pairs(path)}
    corpus = open_corpus(str(path))
    return {"pairs": judged_pairs(corpus, open_queries(str(path), need_judgements=True)), "pair_corpus": corpus}


def _watched(recipe: Recipe, places: Places) -> dict[str, Any]:
    if recipe.watch is None:
        return {}
    spec = str(places.data / recipe.watch)
    return {"dev_corpus": open_corpus(spec), "dev_queries": open_queries(spec, need_judgements=True)}


def _before(recipe: Recipe, places: Places) -> Path:
    return places.work / recipe.name / "students" / f"before-{untrained_identity(recipe)}"


class Measured:
    """A cell with its encoders loaded, and its student trained: what figures are taken of."""

    def __init__(self, cell: Cell, places: Places, progress: Progress) -> None:
        """Load what `cell` encodes with; a student that is not finished is trained first."""
        recipe = cell.recipe
        self.cell, self.places = cell, places
        self.facts: dict[str, Any] = {}
        teachers = [str(places.models / name) for name in recipe.teachers]
        if cell.variant is not None:
            folder = train(cell, places, progress)
            report = json.loads((folder / "ibkd.json").read_text("utf-8"))
            keys = ("texts", "fingerprint", "train_seconds", "texts_per_second", "dev_metric", "history")
            self.facts = {key: report[key] for key in keys} | {who: report[who] for who in ("teacher", "student")}
            self.queries = KeptVectors(Encoder.load(str(folder), device=places.device))
        elif cell.row == BEFORE:
            untrained = Encoder.load(str(_before(recipe, places)), device=places.device)
            self.queries = KeptVectors(untrained, places.work / "vectors")
        else:
            self.queries = _teacher([str(places.models / cell.row)] if cell.row != TEACHER else teachers, places)
        apart = cell.variant is not None and recipe.in_teacher_space
        self.documents = _teacher(teachers, places) if apart else self.queries

    def figures(self, kind: str) -> dict[str, Any]:
        """Figures on the recipe's sets of a kind, at each length."""
        recipe = self.cell.recipe
        figures = {}
        for length in recipe.dims if self.cell.variant is not None else (None,):
            self.queries.dim = length
            named_length = str(length or self.queries.encoder.dim)
            sets = recipe.sets(kind)
            figures[named_length] = {
                each.name: _figure(each, self.documents, self.queries, self.places) for each in sets
            }
        known = {"row": self.cell.row, "seed": self.cell.seed, "dims": figures, "facts": self.facts}
        return known | {"environment": read_environment().to_json()}


def _teacher(names: list[str], places: Places) -> KeptVectors:
    encoders = [Encoder.load(name, device=places.device) for name in names]
    return KeptVectors(JointTeacher(encoders) if len(encoders) > 1 else encoders[0], places.work / "vectors")


def _figure(which: DataSet, documents: KeptVectors, queries: KeptVectors, places: Places) -> dict[str, Any]:
    """nDCG@10 with its values by query, by exact search; or Spearman's correlation."""
    if which.sts is not None:
        found = similarity_of(queries, read_sts(places.data / which.sts), samples=200)
        return {"score": found.spearman}
    spec = str(places.data / str(which.queries))
    asked = open_queries(spec, need_judgements=True)
    every = list(open_corpus(spec).documents())
    run = exact_run(asked, every, documents, queries)
    found = evaluate_run(run, asked.judgements, [METRIC], asked.relevance_level)
    per_query = [round(float(value), 6) for value in found.per_query[METRIC]]
    return {"score": found.scores[METRIC], "per_query": per_query, "missing": found.missing}


def exact_run(asked: QuerySet, corpus: list[Document], documents: Any, queries: Any) -> Run:
    """The best hundred documents of each query by inner product."""
    matrix = documents.encode([document.content for document in corpus], "document")
    wanted: tuple[Query, ...] = asked.queries
    scores = queries.encode([query.text for query in wanted], "query") @ matrix.T
    depth = min(_DEPTH, len(corpus))
    best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    ids = [[corpus[place].doc_id for place in row] for row in best]
    return Run.from_lists([query.query_id for query in wanted], ids, list(np.take_along_axis(scores, best, axis=1)))


def run(cell: Cell, places: Places, kinds: Sequence[str], progress: Progress) -> None:
    """Measure a cell on the sets of each kind, and keep the figures."""
    measured = Measured(cell, places, progress)
    for kind in kinds:
        write_json(cell.result(places, kind), measured.figures(kind))


def main() -> None:
    """Run one cell and keep its figures, or only have its recipe's teachers encode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("row")
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--kind", choices=("dev", "final"), nargs="+", default=["dev"])
    parser.add_argument("--teach", action="store_true", help="have the teachers encode the training text, and end")
    given = parser.parse_args()
    places = Places(given.data_dir.resolve(), given.models_dir.resolve(), given.work_dir.resolve(), given.device)
    progress = reporter(quiet=False)
    cell = Cell(read_recipe(given.recipe), given.row, given.seed)
    if given.teach:
        teach(cell.recipe, places, progress)
        return
    run(cell, places, given.kind, progress)


if __name__ == "__main__":
    main()
