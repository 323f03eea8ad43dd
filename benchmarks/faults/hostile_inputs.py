"""Files that somebody else made to do harm, or that went wrong badly: each is a sentence, or shown harmlessly.

usage: python benchmarks/faults/hostile_inputs.py [--work-dir DIR] [--only CASE]

Each case lays down files and runs a command in a child of a warm process. "refused" is exit code 2 or 1, one sentence
and no traceback; "shown" is exit code 0, and what was written holds none of the forbidden texts. The memory is what the
child took beyond its parent.
Writes benchmarks/results/hostile_inputs.json.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import World, distill_words, index_words, make_world
from trials import Warm, fresh

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import sha256_file, write_json

RESULT = Path(__file__).parents[1] / "results" / "hostile_inputs.json"
MIB = 1 << 20
ESCAPE, SCRIPT, FORMULA = "\x1b[2J\x1b]0;owned\x07", "<script>alert(1)</script>", "\\input{/etc/passwd}"
DEEP = "[" * 100_000 + "]" * 100_000


@dataclass(frozen=True)
class Case:
    """A hostile input.

    Attributes:
        name: what the table calls it.
        lay: lays down the files in the folder of the trial.
        words: of the command.
        forbidden: what may stand nowhere in what is shown or written, where the command does its work.
        written: patterns of the files to look into.
        mebibytes: the most memory that the command may take beyond the libraries it has loaded.
    """

    name: str
    lay: Callable[[Path], object]
    words: tuple[str, ...]
    forbidden: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    mebibytes: int = 300


def cases(world: World) -> Iterator[Case]:
    """All of them."""
    search = ("search", "river bank", "--index", "i", "--quiet")
    yield from manifests(world, search)
    yield from structures(world, search)
    yield from large(world)
    yield from nested(world, search)
    yield from shown(world)


def manifests(world: World, search: tuple[str, ...]) -> Iterator[Case]:
    """Manifests of an index that lie."""

    def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
        def lay(folder: Path) -> None:
            shutil.copytree(world.index, folder / "i")
            path = folder / "i" / "index.json"
            value = json.loads(path.read_bytes())
            change(value)
            path.write_text(json.dumps(value))

        return lay

    def elsewhere(name: str) -> Callable[[dict[str, Any]], object]:
        def change(value: dict[str, Any]) -> None:
            first = value["shards"][0]["texts"]
            value["shards"][0]["texts"] = name
            value["files"][name] = value["files"].pop(first)

        return change

    for name in ("../../../etc/passwd", "/etc/passwd", "documents/../../x"):
        yield Case(f"manifest: a file {name}", changed(elsewhere(name)), search)
    for key in ("document_count", "dim", "shard_size"):
        for count in (-5, 0, 1 << 62, 10**30):
            name = f"manifest: {key} {count}"
            yield Case(name, changed(lambda value, key=key, count=count: _set(value, key, count)), search)
    for count in (-5, 1 << 62):
        yield Case(
            f"manifest: a shard of {count} documents",
            changed(lambda value, count=count: value["shards"][0].update(documents=count)),
            search,
        )
        yield Case(
            f"manifest: a file of {count} bytes",
            changed(lambda value, count=count: value["files"]["docids"].update(bytes=count)),
            search,
        )


def _set(value: dict[str, Any], key: str, new: object) -> None:
    if key in value:
        value[key] = new
    else:
        value["encoder"][key] = new


def structures(world: World, search: tuple[str, ...]) -> Iterator[Case]:
    """Faiss files and arrays with forged headers, listed in the manifest as they are."""

    def forged(source: Path, name: str, place: int, value: bytes) -> Callable[[Path], object]:
        def lay(folder: Path) -> None:
            shutil.copytree(source, folder / "i")
            path = folder / "i" / name
            data = bytearray(path.read_bytes())
            data[place : place + len(value)] = value
            path.write_bytes(data)
            manifest = folder / "i" / "index.json"
            listed = json.loads(manifest.read_bytes())
            listed["files"][name] = {"bytes": len(data), "sha256": sha256_file(path)}
            manifest.write_text(json.dumps(listed))

        return lay

    generator = random.Random(0)
    for kind in ("coded", "graph"):
        size = (world.folder / kind / "index.faiss").stat().st_size
        for number in range(12):
            place = (4, 8, 16, 24, 32, 40)[number] if number < 6 else generator.randrange(size - 8)
            value = struct.pack("<q", (1 << 40, -1, 1 << 62)[number % 3])
            name = f"faiss file ({kind}): {struct.unpack('<q', value)[0]} at byte {place}"
            yield Case(name, forged(world.folder / kind, "index.faiss", place, value), search)
    header = b"(99999999999, 32), }"
    for name in ("vectors/00000.npy", "docids.offsets.npy"):
        yield Case(f"array with a forged shape: {name}", forged(world.index, name, 60, header), search)


def large(world: World) -> Iterator[Case]:
    """Files that are or become far larger than memory."""

    def line_of(count: int) -> Callable[[Path], object]:
        def lay(folder: Path) -> None:
            with open(folder / "c.jsonl", "wb") as file:
                file.write(b'{"_id": "a", "text": "')
                file.truncate(count)

        return lay

    def bomb(name: str, start: bytes) -> Callable[[Path], object]:
        def lay(folder: Path) -> None:
            zeros = gzip.compress(bytes(256 * MIB), 9)
            with open(folder / name, "wb") as file:
                file.write(gzip.compress(start))
                for _ in range(400):
                    file.write(zeros)

        return lay

    def columns(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        text = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * 20_000]))
        ids = pa.array([f"d{number}" for number in range(100_000)])
        pq.write_table(pa.table({"id": ids, "text": text}), folder / "c.parquet", row_group_size=100_000)

    build = ("index", "--model", str(world.teacher), "--output", "i", "--quiet", "--memory", "1GB")
    yield Case("a line of 1 GB", line_of(1 << 30), (*build, "--corpus", "c.jsonl"), mebibytes=400)
    for name, start in (("c.jsonl.gz", b'{"_id": "a", "text": "'), ("c.tsv.gz", b"a\t"), ("c.txt.gz", b"")):
        yield Case(f"100 GB in a {name[1:]} of one line", bomb(name, start), (*build, "--corpus", name), mebibytes=400)
    yield Case(
        "queries of 1 GB in one line",
        line_of(1 << 30),
        ("search", "--index", str(world.index), "--queries", "c.jsonl", "--output", "r.trec", "--quiet"),
        mebibytes=400,
    )
    yield Case(
        "qrels of 100 GB in one line",
        bomb("q.txt.gz", b"q1 0 d1 1"),
        ("eval", "--index", str(world.index), "--queries", str(world.corpus), "--qrels", "q.txt.gz", "--quiet"),
        mebibytes=400,
    )
    yield Case(
        "a run of 100 GB in one line",
        bomb("r.trec.gz", b"q1 Q0 d1 1 0.5 x"),
        ("eval", "--run", "r.trec.gz", "--qrels", str(world.corpus), "--quiet"),
        mebibytes=400,
    )
    yield Case(
        "2 GB of text in a parquet file of a few hundred kB",
        columns,
        ("distill", "--teacher", str(world.teacher), "--corpus", "c.parquet", "--max-documents", "120", "--steps", "1",
         "--layers", "1", "--dim", "8", "--max-length", "16", "--output", "s", "--quiet", "--device", "cpu"),
        mebibytes=1500,
    )  # fmt: skip


def nested(world: World, search: tuple[str, ...]) -> Iterator[Case]:
    """JSON nested 100,000 deep, wherever JSON is read."""

    def in_index(name: str) -> Callable[[Path], object]:
        def lay(folder: Path) -> None:
            shutil.copytree(world.index, folder / "i")
            (folder / "i" / name).write_text(DEEP)

        return lay

    def in_student(name: str) -> Callable[[Path], object]:
        def lay(folder: Path) -> None:
            shutil.copytree(world.student, folder / "s")
            value = json.loads((folder / "s" / "ibkd.json").read_bytes())
            value.pop("files", None)
            (folder / "s" / "ibkd.json").write_text(json.dumps(value))
            (folder / "s" / name).write_text(DEEP)

        return lay

    def alone(name: str) -> Callable[[Path], object]:
        return lambda folder: (folder / name).write_text(DEEP)

    def suite(folder: Path) -> None:
        (folder / "suite").mkdir()
        (folder / "suite" / "suite.json").write_text(DEEP)

    build = ("index", "--model", str(world.teacher), "--output", "i", "--quiet")
    yield Case("nested: index.json", in_index("index.json"), search)
    yield Case("nested: corpus", alone("c.jsonl"), (*build, "--corpus", "c.jsonl"))
    yield Case(
        "nested: queries",
        alone("q.jsonl"),
        ("search", "--index", str(world.index), "--queries", "q.jsonl", "--output", "r.trec", "-q"),
    )
    for name in ("ibkd.json", "config.json", "modules.json", "tokenizer.json", "tokenizer_config.json",
                 "1_Pooling/config.json", "config_sentence_transformers.json"):  # fmt: skip
        words = ("index", "--corpus", str(world.corpus), "--model", "s", "--output", "i", "--quiet")
        yield Case(f"nested: {name} of a model", in_student(name), words)
    yield Case("nested: ibkd.json shown", in_student("ibkd.json"), ("info", "s"))
    yield Case("nested: a configuration", alone("c.json"), ("distill", "--config", "c.json", "--quiet"))
    yield Case("nested: pairs", alone("p.jsonl"), (*distill_words(world), "--stage", "both", "--pairs", "p.jsonl"))
    yield Case(
        "nested: an earlier report",
        alone("report.json"),
        ("compare", "--index", str(world.index), "--queries", str(world.corpus), "--fail-under", "ndcg@10=0.9",
         "--baseline", "report.json", "--rounds", "1", "--no-peak-memory", "--quiet"),
    )  # fmt: skip
    yield Case(
        "nested: suite.json",
        suite,
        ("eval", "--suite", str(world.suite), "--model", str(world.teacher), "--output", "suite", "--quiet"),
    )


def shown(world: World) -> Iterator[Case]:
    """Names and texts that would be commands to a terminal, a browser or LaTeX."""

    def corpus(folder: Path) -> None:
        from helpers.tiny_models import sentences

        texts = sentences(40)
        ids = [f"d{i}{(ESCAPE, SCRIPT, FORMULA, '=1+1')[i % 4].replace(' ', '')}" for i in range(40)]
        lines = [
            {"_id": ids[i], "title": f"{ESCAPE}{SCRIPT}", "text": f"{texts[i]} {ESCAPE}{SCRIPT}"} for i in range(40)
        ]
        made = folder / "c"
        (made / "qrels").mkdir(parents=True)
        (made / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        asked = [{"_id": f"q{i}{ESCAPE}{SCRIPT}", "text": f"{texts[i]} {SCRIPT}{ESCAPE}"} for i in range(6)]
        (made / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
        judged = "".join(f"{asked[i]['_id']}\t{ids[i]}\t1\n" for i in range(6))
        (made / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)

    def indexed(folder: Path) -> None:
        corpus(folder)
        shutil.copytree(world.folder / "odd", folder / "i")

    def named(folder: Path) -> None:
        indexed(folder)
        (folder / "i").rename(folder / f"i{ESCAPE}")

    terminal = ("\x1b[2J", "\x1b]0;", "\x07")
    searched = ("--index", "i", "--queries", "c")
    yield Case("shown: hits", indexed, ("search", "river bank", "--index", "i"), terminal)
    yield Case("shown: hits side by side", indexed, ("search", "river", "--index", "i", "--index", "i"), terminal)
    yield Case("shown: a folder's name", named, ("info", f"i{ESCAPE}"), terminal)
    yield Case(
        "shown: an error about an id", indexed, ("index", "--delete", "c/queries.jsonl", "--output", "i"), terminal
    )
    yield Case("shown: scores", indexed, ("eval", *searched, "--quiet"), terminal)
    for form in ("csv", "latex"):
        yield Case(
            f"shown: scores as {form}", indexed, ("eval", *searched, "--format", form, "-q"), (*terminal, FORMULA)
        )
    yield Case(
        "shown: a report",
        indexed,
        ("compare", "--index", f"i,name={SCRIPT}{FORMULA}", "--index", "i,name=b", "--queries", "c", "--rounds", "1",
         "--no-peak-memory", "--output", "out", "--quiet"),
        terminal,
        ("out/*.html", "out/*.md", "out/*.svg"),
    )  # fmt: skip


def prepare(warm: Warm, world: World) -> None:
    """Make the further indexes that cases forge."""
    fresh(warm.root, _empty(warm))
    two = ("--index", f"{world.index},name=a", "--index", f"{world.index},name=b", "--queries", str(world.corpus))
    # A child that loads libraries would count them as memory that the input took.
    warm.learn_modules(("compare", *two, "--rounds", "1", "--no-peak-memory", "--output", "c", "--quiet"))
    if (world.folder / "odd").exists():
        return
    case = next(case for case in shown(world) if case.name == "shown: hits side by side")
    lay = case.lay.__closure__
    assert lay is not None
    next(cell.cell_contents for cell in lay if callable(cell.cell_contents))(warm.root)
    for words in (
        ("index", "--from", str(world.index), "--type", "ivf-flat", "--lists", "4", "--output", str(world.coded)),
        ("index", "--from", str(world.index), "--type", "hnsw", "--output", str(world.graph)),
        index_words(world, str(warm.root / "c"), world.odd),
    ):
        ended = warm.run(words)
        if ended.code:
            raise SystemExit(f"{' '.join(words)}: {ended.err}")


def _empty(warm: Warm) -> Path:
    template = warm.work / "empty"
    (template / "home").mkdir(parents=True, exist_ok=True)
    return template


def try_case(warm: Warm, case: Case) -> dict[str, Any]:
    """Run a case and judge it."""
    fresh(warm.root, _empty(warm))
    case.lay(warm.root)
    peak = warm.said / "peak"

    def action() -> int:
        import resource

        from trials import command

        begun = _resident()
        try:
            return command(case.words)
        finally:
            peak.write_text(str(max(0, _high_water() - begun)))
            assert resource

    peak.unlink(missing_ok=True)
    ended = warm.call(action)
    said = ended.out + ended.err
    taken = int(peak.read_text()) // MIB if peak.exists() else -1
    faults = []
    if ended.traceback or ended.code not in (0, 1, 2):
        faults.append(f"exit code {ended.code}: {ended.sentence[-300:]}")
    elif ended.code and ended.err.count("ibkd: ") != 1:
        faults.append(f"no sentence: {ended.sentence[-300:]}")
    if taken > case.mebibytes:
        faults.append(f"{taken} MiB")
    for path in (path for pattern in case.written for path in warm.root.glob(pattern)):
        # Indented lines of Markdown are code, shown to the letter.
        lines = path.read_text("utf-8").splitlines()
        text = "\n".join(line for line in lines if path.suffix != ".md" or not line.startswith("    "))
        faults += [f"{path.name} holds {each!r}" for each in (*case.forbidden, SCRIPT) if each in text]
    faults += [f"shows {each!r}" for each in (*case.forbidden, "\x1b[2J") if each in said]
    outcome = "shown" if ended.code == 0 else "refused"
    return {
        "outcome": outcome,
        "mebibytes": taken,
        "said": ended.sentence[-200:] if ended.code else "",
        "faults": faults,
    }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _high_water() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Try every case, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path(tempfile.gettempdir()) / "ibkd-hostile")
    parser.add_argument("--only", action="append", help="a case; the others keep their earlier results")
    given = parser.parse_args()
    warm = Warm(given.work_dir.resolve())
    world = make_world(warm)
    prepare(warm, world)
    found = json.loads(RESULT.read_bytes())["found"] if given.only else {}
    for case in cases(world):
        if not given.only or case.name in given.only:
            found[case.name] = try_case(warm, case)
            print(case.name, json.dumps(found[case.name]), flush=True)
    found = {case.name: found[case.name] for case in cases(world) if case.name in found}
    wrong = sum(bool(each["faults"]) for each in found.values())
    result = {
        "what": "inputs made to do harm: each refused in one sentence, or shown harmlessly, and the memory it took",
        "cases": len(found),
        "wrong": wrong,
        "found": found,
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(RESULT, result)
    print(json.dumps({"cases": len(found), "wrong": wrong}))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
