"""A newcomer's day: files as other programs export them, from raw to the verdict of `ibkd compare`, without conversion.

usage: python benchmarks/newcomer_day.py --data-dir DIR --models-dir DIR --work-dir DIR

DIR/cranfield is the BEIR folder, whose texts the script writes in ten shapes: seven of documents, one of queries, and
two of judgements. Each shape of documents is indexed with two models and compared on queries and judgements. Then come
files that cannot be right. Every command is the words that a user would type. Writes
benchmarks/results/newcomer_day.json with what each command printed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import write_json

TEACHER, STUDENT = "all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2"
RESULT = Path(__file__).parent / "results" / "newcomer_day.json"
DOCUMENTS, QUERIES = 200, 40


class Texts(NamedTuple):
    """What the files are made of: (id, title, text), (id, text), (query id, document id, grade)."""

    documents: list[tuple[str, str, str]]
    queries: list[tuple[str, str]]
    judged: list[tuple[str, str, int]]


def read_texts(folder: Path) -> Texts:
    """The first queries of a BEIR folder, the documents judged for them, and more up to `DOCUMENTS`."""
    documents = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()][:QUERIES]
    rows = [line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]]
    asked = {query["_id"] for query in queries}
    judged = [(query, document, int(grade)) for query, document, grade in rows if query in asked]
    wanted = {document for _, document, _ in judged}
    documents = [each for each in documents if each["text"].strip()]
    chosen = [each for each in documents if each["_id"] in wanted]
    chosen += [each for each in documents if each["_id"] not in wanted][: max(0, DOCUMENTS - len(chosen))]
    there = {each["_id"] for each in chosen}
    return Texts(
        [(each["_id"], _line(each["title"]), _line(each["text"])) for each in chosen],
        [(each["_id"], _line(each["text"])) for each in queries],
        [each for each in judged if each[1] in there],
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def write_shapes(texts: Texts, work: Path) -> dict[str, str]:
    """Write the seven shapes of documents, and give each one's file by its name."""
    documents = texts.documents
    with (work / "export.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["article_no", "year", "headline", "body"])
        writer.writerows([name, 1960, title, text] for name, title, text in documents)
    with (work / "plain.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(documents)
    (work / "collection.tsv").write_text("".join(f"{name}\t{title} {text}\n" for name, title, text in documents))
    lines = [
        json.dumps({"sku": name, "name": title, "description": text, "stock": 3}) for name, title, text in documents
    ]
    (work / "products.jsonl").write_text("\n".join(lines) + "\n")
    names, titles, bodies = (list(column) for column in zip(*documents, strict=True))
    pq.write_table(pa.table({"doc_id": names, "title": titles, "content": bodies}), work / "table.parquet")
    for folder, suffix, head in (("pages", "txt", ""), ("notes", "md", "# ")):
        (work / folder).mkdir()
        for name, title, text in documents:
            (work / folder / f"{name}.{suffix}").write_text(f"{head}{title}\n\n{text}\n")
    return {
        "CSV with a header": "export.csv",
        "CSV without a header": "plain.csv",
        "TSV": "collection.tsv",
        "JSONL": "products.jsonl",
        "parquet": "table.parquet",
        "folder of .txt": "pages",
        "folder of .md": "notes",
    }


def write_judgements(texts: Texts, work: Path, suffix: str) -> tuple[str, str]:
    """Write a click log with weights, and graded labels, both by the query's text. Documents may be files' names."""
    text_of = dict(texts.queries)
    clicks, labels = f"clicks{suffix.replace('.', '-')}.csv", f"labels{suffix.replace('.', '-')}.jsonl"
    with (work / clicks).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "clicked_doc", "weight"])
        # Cranfield's best grade is 4 here, and 1 is hardly relevant.
        writer.writerows([text_of[query], document + suffix, grade / 4] for query, document, grade in texts.judged)
    lines = [
        json.dumps({"query_text": text_of[query], "doc_id": document + suffix, "label": grade})
        for query, document, grade in texts.judged
    ]
    (work / labels).write_text("\n".join(lines) + "\n")
    return clicks, labels


class Day:
    """Runs commands in the work folder, and keeps what they were and what they printed."""

    def __init__(self, work: Path, models: Path) -> None:
        self.work = work
        self.models = models

    def command(self, *words: str) -> dict[str, Any]:
        """Run one command and give what it was, its exit code, its seconds, and what it printed."""
        from ibkd_cli.app import main as ibkd

        began, code = time.perf_counter(), 0
        out, err = io.StringIO(), io.StringIO()
        sys.argv = ["ibkd", *words]
        with contextlib.chdir(self.work), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                ibkd()
            except SystemExit as left:
                code = int(left.code or 0)
        seconds = time.perf_counter() - began
        return {
            "command": self._shown(" ".join(["ibkd", *words])),
            "exit_code": code,
            "seconds": round(seconds, 1),
            "out": self._lines(out.getvalue()),
            "err": self._lines(err.getvalue()),
        }

    def _lines(self, text: str) -> list[str]:
        return [self._shown(line) for line in re.split(r"[\r\n]+", text) if line.strip()]

    def _shown(self, text: str) -> str:
        return text.replace(f"{self.work}/", "").replace(f"{self.models}/", "")


def compare_shape(day: Day, shape: str, file: str, judgements: tuple[str, ...]) -> dict[str, Any]:
    """Index one shape with both models and compare them."""
    steps = []
    for model in (TEACHER, STUDENT):
        folder = str(day.models / model)
        steps.append(day.command("index", "--corpus", file, "--model", folder, "--output", f"indexes/{file}-{model}"))
    indexes = [word for model in (TEACHER, STUDENT) for word in ("--index", f"indexes/{file}-{model}")]
    quick = ("--metric", "ndcg@10", "--rounds", "1", "--no-peak-memory", "--output", f"reports/{file}")
    steps.append(day.command("compare", *indexes, "--queries", "questions.txt", "--qrels", *judgements, *quick))
    for step in steps:
        print(step["exit_code"], step["command"], step["err"][-1:] if step["exit_code"] else "", flush=True)
    found: dict[str, Any] = {"shape": shape, "judgements": " ".join(judgements), "commands": steps}
    if not steps[-1]["exit_code"]:
        report = json.loads((day.work / "reports" / file / "report.json").read_text("utf-8"))
        systems = report["data_sets"][0]["systems"].values()
        found["ndcg@10"] = [round(next(iter(each["scores"].values()))["mean"], 4) for each in systems]
        found["verdict"] = steps[-1]["out"][0]
        found["read"] = [line for line in steps[0]["err"] if "<-" in line]
    return found


def write_wrong_files(texts: Texts, work: Path) -> None:
    """Write the files that cannot be right."""
    rows = [[name, title, text] for name, title, text in texts.documents[:30]]
    header = ["doc_id", "headline", "body"]

    def write(name: str, lines: list[list[str]]) -> None:
        with (work / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)

    write("ragged.csv", [header, *rows[:5], [*rows[5], "one more"], *rows[6:]])
    write("repeated.csv", [header, *rows[:5], rows[2]])
    write("numbers.csv", [["doc_id", "text"], *([row[0], str(12 * place)] for place, row in enumerate(rows))])
    write("two-texts.csv", [["doc_id", "body", "summary"], *([row[0], row[2], row[1]] for row in rows)])
    write("other-ids.csv", [["query", "clicked_doc"], *([text, f"page-{name}"] for name, text in texts.queries[:20])])


def wrong_input(day: Day) -> list[dict[str, Any]]:
    """What is said of files that cannot be right."""
    model = ("--model", str(day.models / STUDENT))
    index = ("--index", f"indexes/export.csv-{STUDENT}")

    def indexing(file: str, *more: str) -> tuple[str, ...]:
        return ("index", "--corpus", file, *model, "--output", f"indexes/{file}", *more)

    cases = {
        "a line with another number of columns": indexing("ragged.csv"),
        "an id that repeats": indexing("repeated.csv"),
        "a text column of numbers": indexing("numbers.csv"),
        "a column that is not there": indexing("export.csv", "--text-field", "abstract"),
        "two columns that could be the text": indexing("two-texts.csv"),
        "judgements of other documents": (
            *("eval", *index, "--queries", "questions.txt", "--qrels", "other-ids.csv", "--metric", "ndcg@10"),
        ),
        "weights without a threshold": (
            *("eval", *index, "--queries", "questions.txt", "--qrels", "clicks.csv", "--metric", "ndcg@10"),
        ),
    }
    found = []
    for case, words in cases.items():
        step = day.command(*words)
        print(step["exit_code"], case, step["err"][-1:], flush=True)
        found.append({"case": case, **step})
    return found


def main() -> None:
    """Live the day, and write down what was printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args()
    work = given.work_dir.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.environ |= {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    texts = read_texts(given.data_dir / "cranfield")
    files = write_shapes(texts, work)
    (work / "questions.txt").write_text("".join(f"{text}\n" for _, text in texts.queries))
    day = Day(work, given.models_dir.resolve())
    shapes = []
    for place, (shape, file) in enumerate(files.items()):
        suffix = {"pages": ".txt", "notes": ".md"}.get(file, "")
        clicks, labels = write_judgements(texts, work, suffix)
        judgements = (labels,) if place % 2 else (clicks, "--qrels-threshold", "0.5")
        shapes.append(compare_shape(day, shape, file, judgements))
    write_wrong_files(texts, work)
    result = {
        "data": f"{len(texts.documents)} documents, {len(texts.queries)} queries of Cranfield",
        "models": [TEACHER, STUDENT],
        "environment": dataclasses.asdict(read_environment()),
        "shapes": shapes,
        "spreads": [_spread(shapes, kind) for kind in ("clicks", "labels")],
        "wrong_input": wrong_input(day),
    }
    write_json(RESULT, result)


def _spread(shapes: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """How far apart the figures of the shapes are with judgements of one kind. An .md heading has a # more."""
    figures = [each["ndcg@10"] for each in shapes if each["judgements"].startswith(kind) and "ndcg@10" in each]
    spread = max(max(column) - min(column) for column in zip(*figures, strict=True)) if figures else None
    return {"judgements": kind, "shapes": len(figures), "largest_difference": spread and round(spread, 4)}


if __name__ == "__main__":
    main()
