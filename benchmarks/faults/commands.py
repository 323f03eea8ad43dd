"""Every command that writes, on a corpus and with a model so small that one run takes less than a second."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from trials import Warm, contents, digest

DOCUMENTS, QUERIES = 100, 6


@dataclass(frozen=True)
class World:
    """What the commands read: nothing in it is ever written by a trial.

    Attributes:
        folder: the folder of all.
        teacher: a tiny random model.
        reranker: a tiny random cross-encoder.
        corpus: a BEIR folder.
        more: documents to append.
        delete: ids to delete, a file.
        index: an index of the corpus.
        other: one of `more`.
        vectors: of the index, exported as numpy arrays.
        student: a finished student.
    """

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name


@dataclass(frozen=True)
class Writing:
    """A command that writes.

    Attributes:
        name: what the table calls it.
        words: of the command.
        targets: what it makes or changes, by name in the trial's folder.
        prepare: lays down what is there before, in an empty folder.
        again: what is added to run it a second time.
        ignored: patterns of files whose bytes differ from run to run.
        share: of the moments that are tried.
    """

    name: str
    words: tuple[str, ...]
    targets: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda folder: None
    again: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def make_world(warm: Warm) -> World:
    """Make what the commands read, once."""
    from helpers.tiny_models import save_sentence_transformer, sentences, tokenizer, transformer

    world = World(warm.work / "world")
    if (world.folder / "ready").exists():
        return world
    shutil.rmtree(world.folder, ignore_errors=True)
    world.folder.mkdir(parents=True)
    save_sentence_transformer(world.teacher, layers=2)
    from transformers import BertForSequenceClassification

    config = transformer(layers=2).config
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(world.reranker)
    tokenizer().save_pretrained(world.reranker)
    texts = sentences(DOCUMENTS + 20)
    for part, name, first, count in (("corpus", "d", 0, DOCUMENTS), ("more", "n", DOCUMENTS, 20)):
        lines = [{"_id": f"{name}{i}", "title": f"page {i}", "text": texts[i]} for i in range(first, first + count)]
        asked = [{"_id": f"q{i}", "text": lines[2 * i]["text"]} for i in range(QUERIES)]
        judged = "".join(f"q{i}\t{lines[2 * i]['_id']}\t1\n" for i in range(QUERIES))
        folder = world.folder / part
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
        (folder / "queries.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    shutil.copytree(world.corpus, world.suite / "first")
    shutil.copytree(world.more, world.suite / "second")
    (world.folder / "delete").write_text("d3\nd17\nd41\n")
    warm.root.mkdir(exist_ok=True)
    for words in (
        index_words(world, "corpus", world.index),
        index_words(world, "more", world.other),
        ("export", str(world.index), "--to", "numpy", "--output", str(world.vectors), "--quiet"),
        ("export", str(world.index), "--to", "parquet", "--output", str(world.parquet), "--quiet"),
        (*distill_words(world), "--output", str(world.student)),
    ):
        ended = warm.run(words)
        if ended.code:
            raise SystemExit(f"{' '.join(words)}: {ended.err}")
    (world.folder / "ready").write_text("")
    return world


def index_words(world: World, corpus: str, output: Path | str, *more: str) -> tuple[str, ...]:
    """Words of a build."""
    given = ("--corpus", str(world.folder / corpus), "--model", str(world.teacher), "--shard-size", "40")
    return ("index", *given, "--output", str(output), "--dtype", "float32", "--backend", "torch", "--quiet", *more)


def distill_words(world: World, *more: str) -> tuple[str, ...]:
    """Words of a distillation of a few steps, with checkpoints."""
    given = ("--teacher", str(world.teacher), "--corpus", str(world.corpus), "--layers", "1", "--dim", "8")
    few = ("--steps", "4", "--batch-size", "8", "--bank-size", "16", "--max-length", "16", "--eval-every", "2")
    rest = ("--checkpoint-every", "2", "--dtype", "float32", "--device", "cpu", "--quiet")
    return ("distill", *given, *few, *rest, *more)


def commands(world: World) -> list[Writing]:
    """All of them."""

    def copied(source: str, name: str) -> Callable[[Path], None]:
        return lambda folder: shutil.copytree(world.folder / source, folder / name) and None

    def with_file(name: str, text: str) -> Callable[[Path], None]:
        return lambda folder: (folder / name).write_text(text) and None

    both = ("--stage", "both", "--pairs", f"{world.corpus}:test", "--finetune-steps", "4", "--finetune-batch-size", "4")
    mining = ("--negatives", "1", "--negative-ranks", "2-20", "--negative-margin", "0")
    resume, student = ("--resume",), ("README.md", "measured/*.json")
    times = ("measured/*.json", "*.html", "*.md", "*.svg", "*.png", "report.json", "*.metadata.yaml")
    index, imported = str(world.index), ("import", str(world.vectors), "--output", "i", "--quiet")
    distill = (*distill_words(world), "--output", "s")
    compare = ("compare", "--index", f"{index},name=a", "--index", f"{index},name=b", "--queries", str(world.corpus))
    suite = ("eval", "--suite", str(world.suite), "--model", str(world.teacher), "--output", "suite", "--dtype", "float32")
    run = ("search", "--index", index, "--queries", str(world.corpus), "--output", "r.trec", "--dtype", "float32", "-q")
    scores = ("eval", "--index", index, "--queries", str(world.corpus), "--dtype", "float32", "--quiet")
    listed: list[Writing] = [
        Writing("index", index_words(world, "corpus", "i"), ("i",), again=resume),
        Writing("index --type ivf-flat", index_words(world, "corpus", "i", "--type", "ivf-flat", "--lists", "4"), ("i",), again=resume),
        Writing("index --overwrite", index_words(world, "more", "i", "--overwrite"), ("i",), copied("index", "i")),
        Writing("index --append", index_words(world, "more", "i", "--append"), ("i",), copied("index", "i"), again=resume),
        Writing("index --delete", ("index", "--delete", str(world.delete), "--output", "i", "--quiet"), ("i",), copied("index", "i")),
        Writing("index --from", ("index", "--from", index, "--type", "sq8", "--output", "i", "--quiet"), ("i",), again=resume),
        Writing("index --from --overwrite", ("index", "--from", str(world.other), "--output", "i", "--overwrite", "--quiet"), ("i",), copied("index", "i")),
        Writing("index --merge", ("index", "--merge", index, "--merge", str(world.other), "--output", "i", "--quiet"), ("i",), again=resume),
        Writing("import", imported, ("i",), again=resume),
        Writing("import --overwrite", (*imported, "--overwrite"), ("i",), copied("other", "i")),
        Writing("import of parquet", ("import", str(world.parquet), "--output", "i", "--vectors", "float16", "--quiet"), ("i",), again=resume),
        *(
            Writing(f"export --to {to}", ("export", index, "--to", to, "--output", "out", "--quiet"), ("out",))
            for to in ("numpy", "parquet", "pyserini")
        ),
        Writing("search --engine bm25", ("search", "river bank", "--index", "i", "--engine", "bm25", "-q"), ("i",), copied("index", "i"), ignored=("lexical.json",)),
        Writing("search --queries --output", run, ("r.trec",), with_file("r.trec", "q1 Q0 d1 1 2.5 old\n"), ignored=times),
        Writing("eval --output --per-query", (*scores, "--format", "csv", "--output", "e.csv", "--per-query", "v.tsv"), ("e.csv", "v.tsv"), with_file("e.csv", "old\n")),
        Writing("eval --suite", suite, ("suite",), ignored=("suite.json",)),
        Writing("compare --output", (*compare, "--rounds", "1", "--no-peak-memory", "--output", "c", "--quiet"), ("c",), ignored=times),
        Writing("distill", distill, ("s",), again=resume, ignored=student),
        Writing("distill --overwrite", (*distill, "--overwrite", "--seed", "1"), ("s",), copied("student", "s"), ignored=student),
        Writing("distill --stage both", (*distill, *both, *mining), ("s",), again=resume, ignored=student),
        Writing("distill --student static", ("distill", "--teacher", str(world.teacher), "--student", "static", "--corpus", str(world.corpus), "--dim", "8", "--steps", "2", "--batch-size", "8", "--bank-size", "16", "--output", "s", "--quiet", "--device", "cpu"), ("s",), again=resume, ignored=student),
    ]  # fmt: skip
    return listed


def state(target: Path, ignored: tuple[str, ...]) -> str | None:
    """What a user finds under a name: None where nothing is there that passes for finished.

    Raises:
        UserError: it passes for finished and is damaged.
    """
    from ibkd_retrieval.indexing.format.integrity import verify_index

    if not target.exists():
        return None
    if target.is_file():
        return "(present)" if any(target.match(each) for each in ignored) else digest(target)
    if (target / "index.json").exists():
        manifest = verify_index(target)
        files = {name: record.sha256 for name, record in manifest.files.items() if name.startswith(("v", "d"))}
        return json.dumps([manifest.document_count, files], sort_keys=True)
    if (target / "modules.json").exists() or (target / "ibkd.json").exists():
        return json.dumps(
            {n: d for n, d in contents(target, ignored).items() if not n.startswith(("checkpoints", "."))}, sort_keys=True
        )
    if (target / "vectors.npy").exists() or (target / "index").exists() or list(target.glob("*.parquet")):
        return json.dumps(contents(target, ignored), sort_keys=True)
    for inner in target.glob("**/index.json"):
        verify_index(inner.parent)
    for name in ("suite.json", "report.json"):
        if (target / name).exists():
            json.loads((target / name).read_bytes())
    return None


__all__ = ["Writing", "World", "commands", "make_world", "np", "state"]
