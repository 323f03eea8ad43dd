"""Folders of all kinds that are kept as an earlier revision wrote them, and what is done with a copy of them.

`python -m helpers.older_folders FOLDER`, with an earlier revision on the path, writes them and records what that
revision itself did with them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., str]
"""Runs `ibkd` in the folder of the fixtures with these arguments, and gives what it printed."""

# An ivf-pq index is trained on 1,000 documents at least.
DOCUMENTS, QUERIES, NEW = 1000, 12, 5
ENCODING = ("--dtype", "float32", "--device", "cpu")
TINY = {"--layers": 1, "--dim": 8, "--steps": 8, "--batch-size": 16, "--bank-size": 24, "--max-length": 16}
PACE = {"--max-documents": 200, "--eval-every": 4, "--checkpoint-every": 2, "--learning-rate": 1e-3, "--seed": 3}
DISTIL = ("distill", *(str(word) for option in (TINY | PACE).items() for word in option))
# A default of today that the earlier revision did not have.
EARLIER = ("--regression-weight", 0)
STUDENT = (*DISTIL, "--teacher", "teacher", "--corpus", "docs.jsonl", "--cache", "cache", *ENCODING)


def write_data(folder: Path) -> None:
    """The teacher, the corpus, judged queries and a few documents more."""
    from helpers.tiny_models import save_sentence_transformer, sentences

    save_sentence_transformer(folder / "teacher", layers=2, hidden=16)
    shutil.rmtree(folder / "teacher-plain")
    texts = sentences(DOCUMENTS + NEW)
    rows = [{"_id": f"d{i}", "title": f"page {i}", "text": text} for i, text in enumerate(texts)]
    asked = [{"_id": f"q{i}", "text": " ".join(texts[7 * i].split()[:4])} for i in range(QUERIES)]
    judged = [f"q{i} 0 d{7 * i + more} {2 - more}" for i in range(QUERIES) for more in (0, 1)]
    for name, lines in {
        "docs.jsonl": map(json.dumps, rows[:DOCUMENTS]),
        "new.jsonl": map(json.dumps, rows[DOCUMENTS:]),
        "queries.jsonl": map(json.dumps, asked),
        "qrels.txt": judged,
    }.items():
        (folder / name).write_text("\n".join(lines) + "\n")


def write_folders(ibkd: Command) -> None:
    """A student, a cache of teacher vectors, two indexes and a run."""
    ibkd(*STUDENT, "--output", "student")
    for family, options in {"flat": (), "ivf-pq": ("--lists", 4, "--subquantisers", 4)}.items():
        output = ("--type", family, "--output", family, "--shard-size", 500)
        ibkd("index", "--corpus", "docs.jsonl", "--model", "student", *output, *options, *ENCODING)
    ibkd("search", *asking("flat"), "--output", "run.trec")


def asking(index: str) -> tuple[object, ...]:
    return ("--index", index, "--model", "student", "--queries", "queries.jsonl", "--k", 10, *ENCODING)


def use(folder: Path, ibkd: Command) -> dict[str, object]:
    """What is found in these folders, and found again when they have been changed."""
    found: dict[str, object] = {}
    for index in ("flat", "ivf-pq"):
        ibkd("info", index, "--verify")
        ibkd("search", *asking(index), "--output", f"{index}.trec")
        found[index] = run_of(folder / f"{index}.trec")
    found["eval"] = figures(ibkd("eval", "--run", "run.trec", "--qrels", "qrels.txt", "--metric", "ndcg@10", "--json"))
    before = digests(folder / "cache")
    ibkd(*STUDENT, *EARLIER, "--output", "again")
    found["cache is as it was"] = digests(folder / "cache") == before
    ibkd(*STUDENT, "--output", "unfinished", "--resume")
    for output in ("again", "unfinished"):
        found[f"{output} is the student"] = close(folder / output, folder / "student")
    for index in ("flat", "ivf-pq"):
        ibkd("index", "--append", "--corpus", "new.jsonl", "--output", index, "--model", "student", *ENCODING)
        (folder / "gone.txt").write_text("d0\n")
        ibkd("index", "--delete", "gone.txt", "--output", index)
        ibkd("info", index, "--verify")
        ibkd("search", *asking(index), "--output", f"{index}-changed.trec")
        found[f"{index} changed"] = run_of(folder / f"{index}-changed.trec")
    return found


def run_of(path: Path) -> dict[str, dict[str, float]]:
    """The score of every document that a run gives, by query."""
    found: dict[str, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        found.setdefault(query, {})[document] = round(float(score), 5)
    return found


def figures(printed: str) -> dict[str, float]:
    """Two means of what `ibkd eval --json` printed."""
    answer = json.loads(printed)
    return {name: round(answer[name], 6) for name in ("ndcg@10", "judged@10")}


def close(one: Path, other: Path) -> bool:
    """Whether two students have the same weights, but for how this processor adds."""
    import numpy as np
    from safetensors.numpy import load_file

    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return mine.keys() == theirs.keys() and all(np.allclose(mine[key], theirs[key], atol=1e-4) for key in mine)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def interrupted(folder: Path) -> None:
    """The same distillation, killed before its seventh step, by the code of the revision that wrote these folders."""
    from ibkd_cli.app import main
    from ibkd_retrieval.distill.training_run import TrainingRun

    step = TrainingRun.step

    def fatal(self, number, *, detailed):
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number, detailed=detailed)

    TrainingRun.step = fatal
    os.chdir(folder)
    sys.argv = ["ibkd", *STUDENT, "--output", "unfinished"]
    main()


def make(folder: Path) -> None:
    """Write everything anew into `folder`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": tempfile.mkdtemp()}

    def command(where: Path) -> Command:
        def ibkd(*args: object) -> str:
            program = [sys.executable, "-m", "ibkd_cli", *map(str, args)]
            return subprocess.run(
                program, cwd=where, env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout

        return ibkd

    write_data(folder)
    write_folders(command(folder))
    subprocess.run([sys.executable, "-m", "helpers.older_folders", folder, "interrupted"], env=environment, check=False)
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        found = use(Path(copy), command(Path(copy)))
    (folder / "expected.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        (interrupted if sys.argv[2:] else make)(Path(sys.argv[1]))
