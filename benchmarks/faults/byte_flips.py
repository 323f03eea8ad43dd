"""One byte changed in a file that the toolkit wrote: is it noticed, harmless, or silently wrong?

usage: python benchmarks/faults/byte_flips.py [--work-dir DIR] [--flips 20] [--only SUBJECT]

For every kind of file of an index, a lexical index, a student, a teacher cache and a checkpoint, a byte at a random
place gets another random value. Then the files are used: every document is found by several queries with its text, and
scores are compared to six digits; a student encodes; a cache is distilled from; a checkpoint is gone on with.
Writes benchmarks/results/byte_flips.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import World, distill_words, index_words, make_world
from trials import KILL, Ended, Warm, command, contents, fresh

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.files import write_json

RESULT = Path(__file__).parents[1] / "results" / "byte_flips.json"
QUESTIONS = ("river bank water 3", "bread cheese milk", "train road car wheel", "index vector model")


@dataclass(frozen=True)
class Subject:
    """Files that belong together.

    Attributes:
        name: what the table calls them.
        prepare: words of the commands that make them, run one after another in an empty folder.
        kinds: patterns below that folder, by the name of the kind.
        use: uses them, and prints what comes of it.
    """

    name: str
    prepare: tuple[tuple[str, ...], ...]
    kinds: dict[str, str]
    use: Callable[[], int]


def search_index() -> int:
    """Find every document by its vector, and a filtered few."""
    import ibkd_retrieval as ibkd

    for filters in ([], ["title!=page 5"]):
        index = ibkd.open_index("i", device="cpu", dtype="float32", filters=filters)
        for question in QUESTIONS:
            hits = index.search(question, k=97)
            print(
                json.dumps([[hit.doc_id, round(hit.score, 6), hit.document.title, hit.document.text] for hit in hits])
            )
    return 0


def search_words() -> int:
    """Find documents by their words."""
    import ibkd_retrieval as ibkd

    index = ibkd.open_index("i", engine="bm25", progress=True)
    for question in QUESTIONS:
        print([(hit.doc_id, round(hit.score, 6)) for hit in index.search(question, k=50)])
    return 0


def encode() -> int:
    """Encode with the student, as an index does."""
    from ibkd_retrieval.encoders.encoder import Encoder

    encoder = Encoder.load("s", device="cpu", dtype="float32")
    print(encoder.encode([*QUESTIONS, "Straße café 東京"]).round(6).tolist())
    print(encoder.encode(list(QUESTIONS), kind="query").round(6).tolist())
    return 0


def student_weights(words: tuple[str, ...]) -> int:
    """Distil, and digest what came of it."""
    with contextlib.redirect_stdout(io.StringIO()):
        command(words)
    found = contents(Path("s"), ("README.md", "ibkd.json", "*.jsonl", "*/*.jsonl"))
    print(hashlib.sha256(json.dumps(found).encode()).hexdigest())
    return 0


def subjects(world: World) -> list[Subject]:
    """All of them."""
    index = index_words(world, "corpus", "i")
    delete = ("index", "--delete", str(world.delete), "--output", "i", "--quiet")
    codes = ("index", "--from", "i", "--type", "ivf-flat", "--lists", "4", "--output", "j", "--quiet")
    distil = (*distill_words(world), "--output", "s")
    files = {
        "manifest": "i/index.json",
        "plan": "i/build.json",
        "records of shards": "i/shards/*.json",
        "vectors": "i/vectors/*.npy",
        "documents": "i/documents/*.jsonl",
        "offsets of documents": "i/documents/*.offsets.npy",
        "ids": "i/docids",
        "offsets of ids": "i/docids.offsets.npy",
        "deleted rows": "i/deleted.*.npy",
        "structure": "i/index.faiss",
    }

    def again() -> int:
        return student_weights(distil)

    def resumed() -> int:
        return student_weights((*distil, "--resume"))

    return [
        Subject("flat index", (index, delete), files, search_index),
        Subject("ivf-flat index", (index, delete, codes), files, search_index),
        Subject(
            "lexical index",
            (index, ("search", "river", "--index", "i", "--engine", "bm25", "--quiet")),
            {"manifest": "i/lexical/*/lexical.json", "engine's files": "i/lexical/*/*.index.*"},
            search_words,
        ),
        Subject(
            "student",
            (distil,),
            {
                "weights": "s/model.safetensors",
                "weights of Dense": "s/*Dense/model.safetensors",
                "config.json": "s/config.json",
                "tokenizer.json": "s/tokenizer.json",
                "tokenizer_config.json": "s/tokenizer_config.json",
                "modules.json": "s/modules.json",
                "settings of modules": "s/*/config.json",
                "config_sentence_transformers.json": "s/config_sentence_transformers.json",
                "sentence_bert_config.json": "s/sentence_bert_config.json",
                "ibkd.json": "s/ibkd.json",
            },
            encode,
        ),
        Subject(
            "teacher cache",
            (distil,),
            {
                "manifest": "home/.cache/ibkd/teachers/*/manifest.json",
                "keys": "home/.cache/ibkd/teachers/**/*.keys.npy",
                "vectors": "home/.cache/ibkd/teachers/**/*.vectors.npy",
            },
            again,
        ),
        Subject(
            "checkpoint",
            (distil,),
            {
                "state.json": "s/checkpoints/*/state.json",
                "safetensors": "s/checkpoints/*/*.safetensors",
                "log": "s/checkpoints/*.jsonl",
            },
            resumed,
        ),
    ]


def answering(use: Callable[[], int]) -> int:
    """Use files as the command line does: an error of the user or the system is a sentence."""
    try:
        return use()
    except (UserError, WorkFailed, OSError) as error:
        print(f"ibkd: {error}", file=sys.stderr)
        return 2


def outcome(ended: Ended, due: Ended) -> str:
    """What became of a flip."""
    if ended.code in (1, 2) and not ended.traceback and "ibkd: " in ended.err:
        return "noticed"
    if ended.code != 0:
        return "traceback"
    if ended.out != due.out:
        return "silently wrong"
    return "repaired" if "made anew" in ended.err else "harmless"


def flip(path: Path, generator: random.Random) -> str:
    """Give a random byte another value; says which."""
    data = bytearray(path.read_bytes())
    place = generator.randrange(len(data))
    before = data[place]
    data[place] = generator.choice([value for value in range(256) if value != before])
    path.write_bytes(data)
    return f"{path.name}[{place} of {len(data)}] {before} to {data[place]}"


def prepare(warm: Warm, subject: Subject) -> Path:
    """Make the files of a subject; of a checkpoint, by a kill at two thirds of the run."""
    template = warm.work / "flips" / subject.name.replace(" ", "-")
    shutil.rmtree(template, ignore_errors=True)
    (template / "home").mkdir(parents=True)
    fresh(warm.root, template)
    for words in subject.prepare:
        warm.learn_modules(words)
        fresh(warm.root, template)
        if subject.name == "checkpoint":
            for moment in range(150, 20, -6):
                fresh(warm.root, template)
                warm.run(words, KILL, moment)
                if len(list(warm.root.glob("s/checkpoints/step-*/*.safetensors"))) >= 2:
                    break
        elif (ended := warm.run(words)).code:
            raise SystemExit(f"{' '.join(words)}: {ended.err}")
        fresh(template, warm.root)
    if (template / "j").exists():
        shutil.rmtree(template / "i")
        (template / "j").rename(template / "i")
    if subject.name == "teacher cache":
        shutil.rmtree(template / "s")
    return template


def try_subject(warm: Warm, subject: Subject, flips: int) -> dict[str, Any]:
    """Flip bytes in every kind of its files."""
    template = prepare(warm, subject)
    generator = random.Random(0)
    fresh(warm.root, template)
    due = warm.call(lambda: answering(subject.use))
    if due.code:
        raise SystemExit(f"{subject.name}: {due.err}")
    table = {}
    for kind, pattern in subject.kinds.items():
        paths = sorted(template.glob(pattern))
        counts: Counter[str] = Counter()
        wrong = []
        for _ in range(flips if paths else 0):
            fresh(warm.root, template)
            which = flip(warm.root / generator.choice(paths).relative_to(template), generator)
            ended = warm.call(lambda: answering(subject.use))
            found = outcome(ended, due)
            counts[found] += 1
            if found in ("silently wrong", "traceback"):
                wrong.append(f"{which}: {found}: {ended.sentence[-240:]}")
        table[kind] = {"files": len(paths), **counts, **({"wrong": wrong} if wrong else {})}
        print(subject.name, kind, json.dumps(table[kind], indent=1 if wrong else None), flush=True)
    return table


def seconds_to_check(folder: Path, megabytes: int = 256) -> float:
    """How long the checksum of a file of so many MiB takes."""
    from ibkd_retrieval.files import sha256_file

    path = folder / "large"
    path.write_bytes(bytes(1 << 20) * megabytes)
    begun = time.process_time()
    sha256_file(path)
    path.unlink()
    return round(time.process_time() - begun, 3)


def main() -> None:
    """Try every subject, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path(tempfile.gettempdir()) / "ibkd-flips")
    parser.add_argument("--flips", type=int, default=20)
    parser.add_argument("--only", action="append")
    given = parser.parse_args()
    warm = Warm(given.work_dir.resolve())
    world = make_world(warm)
    found = json.loads(RESULT.read_bytes())["subjects"] if RESULT.exists() else {}
    for subject in subjects(world):
        if not given.only or subject.name in given.only:
            found[subject.name] = try_subject(warm, subject, given.flips)
    kinds = [kind for table in found.values() for kind in table.values()]
    totals = {name: sum(kind.get(name, 0) for kind in kinds) for name in OUTCOMES}
    result = {
        "what": "one byte changed in every kind of file, and the files used",
        "totals": totals,
        "subjects": found,
        "processor_seconds_to_check_256_MiB": seconds_to_check(warm.work),
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(RESULT, result)
    print(json.dumps(totals))
    raise SystemExit(1 if totals["silently wrong"] or totals["traceback"] else 0)


OUTCOMES = ("noticed", "repaired", "harmless", "silently wrong", "traceback")

if __name__ == "__main__":
    main()
