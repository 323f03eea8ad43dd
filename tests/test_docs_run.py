"""The commands and the Python of README and docs run as they are shown, on tiny models and data of the same names."""

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from helpers.driving import Shell
from helpers.pages import PAGES, blocks_of, name_of, shown_in, shows

pytestmark = pytest.mark.slow
BLOCKS = {page: blocks_of(page.read_text("utf-8")) for page in PAGES}


def runs(block):
    """Whether a block is Python of the library that is to be run."""
    return block.language == "python" and block.what != "not run" and "ibkd." in block.text


SHELLS = [
    page for page in PAGES if any(shown.words[0] == "ibkd" for block in BLOCKS[page] for shown in shown_in(block))
]
# docs/python.md has a test of its own, with a real teacher.
PYTHONS = [page for page in PAGES if any(runs(block) for block in BLOCKS[page]) and page.name != "python.md"]
# So little teaches nothing: what is tested is that it works.
QUICK = {
    "distill": {
        "steps": 2,
        "eval_every": 2,
        "checkpoint_every": 2,
        "max_length": 32,
        "batch_size": 16,
        "bank_size": 24,
        "max_documents": 100,
        "device": "cpu",
    },
    "compare": {"rounds": 1, "peak_memory": False},
}
HIDDEN = 64
"""Numbers in a vector of a tiny model. Students have fewer."""


def quick_options(command, words):
    """Options that make a line quick and fit it to tiny models, by name."""
    found = dict(QUICK.get(command, {}))
    if command == "distill":
        if "--stage" in words:
            found |= {"finetune_steps": 2, "finetune_batch_size": 4}
        if "--dims" in words:
            found["dims"] = "48,16"
        elif not {"MODEL", "--config"} & set(words):
            found["dim"] = 48
    if "--memory" in words:
        found["memory"] = "64GB"  # The limit is on the process, which holds the other tests, too.
    return found


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def beir(folder, documents, queries, judged, splits=("test",)):
    (folder / "qrels").mkdir(parents=True)
    lines(
        folder / "corpus.jsonl",
        [{"_id": name, "title": "", "text": text, "year": 1980 + len(text)} for name, text in documents],
    )
    lines(folder / "queries.jsonl", [{"_id": query_id, "text": text} for query_id, text in queries])
    for split in splits:
        rows = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in judged)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


def package(folder, name, texts):
    """A package whose functions are documented by these texts."""
    body = "".join(
        f'def f{number}(x):\n    """{text.capitalize()}.\n\n    A longer text about {text}, {text}, {text}.\n    """\n'
        for number, text in enumerate(texts)
    )
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f'"""About {name}."""\n{body}')


def vectors_of(work, documents, queries, model):
    """The vectors of the documents and queries as parquet, and as a file of faiss."""
    import faiss
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ibkd_retrieval.encoders.encoder import Encoder

    encoder = Encoder.load(str(model), device="cpu", dtype="float32")
    for name, records, kind in (("docs", documents, "document"), ("queries", queries, "query")):
        ids, texts = zip(*records, strict=True)
        vectors = encoder.encode(texts, kind)
        pq.write_table(pa.table({"id": ids, "text": texts, "vector": list(vectors)}), work / f"{name}.parquet")
    index = faiss.IndexFlatIP(HIDDEN)
    index.add(np.eye(4, HIDDEN, dtype=np.float32))
    faiss.write_index(index, str(work / "old.faiss"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with everything that the pages name: models, indexes, files, a home, and packages for pydocs."""
    from helpers.tiny_models import save_sentence_transformer, sentences, tokenizer, transformer
    from ibkd_retrieval.corpora.pydocs import split_of

    root = tmp_path_factory.mktemp("docs")
    work = root / "work"
    work.mkdir()
    large = save_sentence_transformer(work / "all-mpnet-base-v2", seed=1, hidden=HIDDEN)
    shutil.copytree(large, work / "sentence-transformers" / "all-mpnet-base-v2")
    small = save_sentence_transformer(work / "all-MiniLM-L6-v2", hidden=HIDDEN)
    shutil.copytree(small, work / "MODEL")
    shutil.copytree(small, work / "intfloat" / "e5-base-v2")
    config = transformer().config
    config.num_labels = 1
    from transformers import BertForSequenceClassification

    BertForSequenceClassification(config).save_pretrained(work / "CROSS_ENCODER")
    tokenizer().save_pretrained(work / "CROSS_ENCODER")
    shutil.copytree(work / "CROSS_ENCODER", work / "cross-encoder" / "ms-marco-MiniLM-L6-v2")

    texts = sentences(200)
    documents = [(f"d{number}", text) for number, text in enumerate(texts)]
    queries = [(f"q{number}", " ".join(texts[7 * number].split()[:3])) for number in range(20)]
    judged = [(f"q{number}", f"d{7 * number + more}", 2 - more) for number in range(20) for more in (0, 1)]
    lines(work / "docs.jsonl", [{"_id": name, "text": text, "year": 1980 + len(text)} for name, text in documents])
    lines(work / "more.jsonl", [{"_id": f"m{n}", "text": text} for n, text in enumerate(sentences(9, seed=4))])
    lines(work / "queries.jsonl", [{"_id": name, "text": text} for name, text in queries])
    (work / "qrels.tsv").write_text("".join(f"{query}\t0\t{document}\t{grade}\n" for query, document, grade in judged))
    beir(work / "scifact", documents, queries, judged)
    beir(work / "my-data", documents[:100], queries[:10], judged[:20], ("train", "test"))
    beir(work / "my-suite" / "one", documents[:60], queries[:6], judged[:12])
    (work / "questions.txt").write_text("".join(f"{text}\n" for _, text in queries))
    (work / "ids.txt").write_text("d0\nd1\nd2\nd3\n")
    np.save(work / "vectors.npy", np.eye(4, HIDDEN, dtype=np.float32))
    pairs = [
        f"{number % 6}\t{one}\t{other}"
        for number, (one, other) in enumerate(zip(texts[:12], texts[20:32], strict=True))
    ]
    (work / "STS-B.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *pairs]) + "\n")
    vectors_of(work, documents, queries, small)
    package(root / "packages", "alpha", sentences(120, seed=5))
    others = next(name for name in ("beta", "gamma", "delta", "eps", "zeta", "eta") if split_of(name) == "test")
    package(root / "packages", others, sentences(30, seed=6))

    driven = Shell(work, root / "home")
    steps = Documented(driven, root / "packages")
    common = ("--corpus", "scifact")
    steps.run(["ibkd", "distill", "--teacher", "all-MiniLM-L6-v2", *common, "--output", "models/mine"])
    space = ("--output-space", "teacher")
    steps.run(["ibkd", "distill", "--teacher", "all-MiniLM-L6-v2", *common, *space, "--output", "models/student"])
    # The other types want a thousand documents.
    lists = ("--type", "factory", "--factory", "IVF4,Flat")
    for index, corpus, *options in (
        ("TEACHER_INDEX", "scifact", "all-MiniLM-L6-v2"),
        ("STUDENT_INDEX", "scifact", "MODEL", *lists),
        ("A2", "my-data", "all-MiniLM-L6-v2"),
        ("B2", "my-data", "MODEL", *lists),
    ):
        steps.run(["ibkd", "index", "--corpus", corpus, "--output", index, "--model", *options])
    for name, part in (("PART_1", documents[:100]), ("PART_2", documents[100:])):
        lines(work / f"{name}.jsonl", [{"_id": doc_id, "text": text} for doc_id, text in part])
        steps.run(["ibkd", "index", "--corpus", f"{name}.jsonl", "--model", "all-MiniLM-L6-v2", "--output", name])
    for copy in ("A", "A1", "INDEX", "indexes/t", "indexes/teacher", "indexes/mine"):
        shutil.copytree(work / "TEACHER_INDEX", work / copy)
    for copy in ("B", "B1", "indexes/s"):
        shutil.copytree(work / "STUDENT_INDEX", work / copy)
    for index, runs in (("TEACHER_INDEX", ("old", "dense", "bm25")), ("STUDENT_INDEX", ("new", "hybrid"))):
        steps.run(["ibkd", "search", "--index", index, "--queries", "scifact", "--output", "run.trec", "--k", "20"])
        for name in runs:
            shutil.copy(work / "run.trec", work / f"{name}.trec")
    report = ("--index", "A", "--index", "B", "--output", "report", "--quiet")
    steps.run(["ibkd", "compare", *report])
    return root


class Documented:
    """Runs the lines of a page, one after the other, in one folder."""

    def __init__(self, shell: Shell, packages: Path) -> None:
        self.shell = shell
        self.packages = packages

    def run(self, words):
        """What a command printed, on both channels. It has to work."""
        _, command, *rest = words
        self._make_room(words)
        given = [
            word for name, value in quick_options(command, words).items() for word in self._option(name, value, rest)
        ]
        with self.here():
            answer = self.shell(command, *rest, *given, stdin="river bank\n")
        assert answer.code == 0, f"{' '.join(words)}\n{answer.err}"
        return answer.err + answer.out

    @contextlib.contextmanager
    def here(self):
        """The machine's packages are those of the workspace, and few texts are held out for the dev set."""
        from ibkd_retrieval.corpora import pydocs
        from ibkd_retrieval.distill import preparing

        pydocs._entries_read.clear()
        with (
            mock.patch.object(pydocs, "installed_roots", return_value=[self.packages]),
            mock.patch.multiple(preparing, _DEV_QUERIES=20, _DEV_NEIGHBOURS=40),
        ):
            yield
        pydocs._entries_read.clear()

    def _make_room(self, words):
        """What a command makes is not there yet, unless it changes it."""
        changes = {"--append", "--delete"} & set(words)
        for option, name in itertools.pairwise(words):
            path = self.shell.folder / name
            if option == "--output" and path.is_dir() and not changes:
                shutil.rmtree(path)

    @staticmethod
    def _option(name, value, words):
        """An option and its value, where the line has no such option or needs another value to be quick."""
        option = f"--{name.replace('_', '-')}"
        if value is False:
            return [] if f"--no-{option[2:]}" in words else [f"--no-{option[2:]}"]
        if option in words:
            words[words.index(option) + 1] = str(value)
            return []
        return [option, str(value)]


@pytest.fixture
def documented(workspace, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    shutil.copytree(workspace / "work", folder, symlinks=True)
    shutil.copytree(workspace / "home", tmp_path / "home")
    return Documented(Shell(folder, tmp_path / "home"), workspace / "packages")


def write_files(blocks, folder):
    for block in blocks:
        if block.what == "file":
            path = folder / block.why
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")


@pytest.mark.parametrize("page", SHELLS, ids=name_of)
def test_the_commands_of_a_page_run_and_print_what_it_shows(page, documented):
    write_files(BLOCKS[page], documented.shell.folder)
    for block in BLOCKS[page]:
        for shown in shown_in(block):
            if shown.words[0] == "ibkd" and shown.run and len(shown.words) > 1:
                printed = documented.run(shown.words)
                assert shows(shown.output, printed), f"{' '.join(shown.words)} printed\n{printed}"


@pytest.mark.parametrize("page", PYTHONS, ids=name_of)
def test_the_python_of_a_page_runs(page, documented, monkeypatch):
    import ibkd_retrieval

    class Quick:
        """The library with few steps and rounds; what it makes is not there yet."""

        def __getattr__(self, name):
            real = getattr(ibkd_retrieval, name)
            if name not in ("distill", "build_index", "compare"):
                return real

            def quick(*args, **given):
                given |= QUICK.get(name, {}) | ({"dim": 48} if name == "distill" else {})
                output = args[2] if name == "build_index" else given.get("output", "nothing")
                shutil.rmtree(output, ignore_errors=True)
                return real(*args, **given)

            return quick

    write_files(BLOCKS[page], documented.shell.folder)
    code = "\n".join(block.text for block in BLOCKS[page] if runs(block))
    monkeypatch.chdir(documented.shell.folder)
    with documented.here(), mock.patch.dict(os.environ, documented.shell.environment(), clear=True):
        exec(compile(code.replace("import ibkd_retrieval as ibkd", ""), page.name, "exec"), {"ibkd": Quick()})
