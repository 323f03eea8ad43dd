"""Every command that writes, on a corpus and with a model so small that one run takes less than a second."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trials import Warm, contents, digest

DOCUMENTS, QUERIES = 100, 6
MEASURED = ("measured/*.json",)
"""What the toolkit remembers of this machine's speed."""


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
        target: what it makes or changes, by name in the trial's folder.
        prepare: lays down what is there before, in an empty folder.
        again: what is added to run it a second time.
        ignored: patterns of files whose bytes differ from run to run.
    """

    name: str
    words: tuple[str, ...]
    target: str
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

    def holding(name: str, text: str) -> Callable[[Path], None]:
        return lambda folder: (folder / name).write_text(text) and None

    def index(*more: str) -> tuple[str, ...]:
        return ("index", *more, "--output", "i", "--quiet")

    def distil(*more: str) -> tuple[str, ...]:
        return (*distill_words(world), "--output", "s", *more)

    made, other, corpus = str(world.index), str(world.other), str(world.corpus)
    pairs = ("--stage", "both", "--pairs", f"{corpus}:test", "--finetune-steps", "4", "--finetune-batch-size", "4")
    mining = ("--negatives", "1", "--negative-ranks", "2-20", "--negative-margin", "0")
    static = ("distill", "--teacher", str(world.teacher), "--student", "static", "--corpus", corpus, "--dim", "8")
    few = ("--steps", "2", "--batch-size", "8", "--bank-size", "16", "--device", "cpu", "--dtype", "float32", "--quiet")
    searched = ("--index", made, "--queries", corpus, "--dtype", "float32", "--quiet")
    two = ("--index", f"{made},name=a", "--index", f"{made},name=b", "--queries", corpus, "--dtype", "float32")
    suite = ("--suite", str(world.suite), "--model", str(world.teacher), "--dtype", "float32", "--output", "suite")
    imported = ("import", str(world.vectors), "--output", "i", "--quiet")
    from_parquet = ("import", str(world.parquet), "--output", "i", "--vectors", "float16", "--quiet")
    lists = ("--type", "ivf-flat", "--lists", "4")
    resume, old = ("--resume",), copied("index", "i")
    card, times = ("README.md", *MEASURED), ("*.html", "*.md", "*.svg", "*.png", "report.json", *MEASURED)
    return [
        Writing("index", index_words(world, "corpus", "i"), "i", again=resume),
        Writing("index --type ivf-flat", index_words(world, "corpus", "i", *lists), "i", again=resume),
        Writing("index --overwrite", index_words(world, "more", "i", "--overwrite"), "i", old),
        Writing("index --append", index_words(world, "more", "i", "--append"), "i", old, again=resume),
        Writing("index --delete", index("--delete", str(world.delete)), "i", old),
        Writing("index --from", index("--from", made, "--type", "sq8"), "i", again=resume),
        Writing("index --from --overwrite", index("--from", other, "--overwrite"), "i", old),
        Writing("index --merge", index("--merge", made, "--merge", other), "i", again=resume),
        Writing("import", imported, "i", again=resume),
        Writing("import --overwrite", (*imported, "--overwrite"), "i", copied("other", "i")),
        Writing("import of parquet", from_parquet, "i", again=resume),
        Writing("export --to numpy", ("export", made, "--to", "numpy", "--output", "out", "--quiet"), "out"),
        Writing("export --to parquet", ("export", made, "--to", "parquet", "--output", "out", "--quiet"), "out"),
        Writing("export --to pyserini", ("export", made, "--to", "pyserini", "--output", "out", "--quiet"), "out"),
        Writing("search --engine bm25", ("search", "river", "--index", "i", "--engine", "bm25", "-q"), "i", old),
        Writing(
            "search --queries --output",
            ("search", *searched, "--output", "r.trec"),
            "r.trec",
            holding("r.trec", "q1 Q0 d1 1 2.5 old\n"),
            ignored=("*.metadata.yaml", *MEASURED),
        ),
        Writing(
            "eval --output --per-query",
            ("eval", *searched, "--format", "csv", "--output", "e.csv", "--per-query", "v.tsv"),
            "e.csv",
            holding("e.csv", "old\n"),
        ),
        Writing("eval --suite", ("eval", *suite), "suite", ignored=("suite.json", *MEASURED)),
        Writing(
            "compare --output",
            ("compare", *two, "--rounds", "1", "--no-peak-memory", "--output", "c", "--quiet"),
            "c",
            ignored=times,
        ),
        Writing("distill", distil(), "s", again=resume, ignored=card),
        Writing("distill --overwrite", distil("--overwrite", "--seed", "1"), "s", copied("student", "s"), ignored=card),
        Writing("distill --stage both", distil(*pairs, *mining), "s", again=resume, ignored=card),
        Writing("distill --student static", (*static, *few, "--output", "s"), "s", again=resume, ignored=card),
    ]


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
            {n: d for n, d in contents(target, ignored).items() if not n.startswith(("checkpoints", "."))},
            sort_keys=True,
        )
    if (target / "vectors.npy").exists() or (target / "index").exists() or list(target.glob("*.parquet")):
        return json.dumps(contents(target, ignored), sort_keys=True)
    for inner in target.glob("**/index.json"):
        verify_index(inner.parent)
    for name in ("suite.json", "report.json"):
        if (target / name).exists():
            json.loads((target / name).read_bytes())
    return None
