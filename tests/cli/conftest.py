import json
from dataclasses import dataclass
from pathlib import Path

import pytest

DOCUMENTS, QUERIES = 200, 20


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def shell(tmp_path, home):
    """A command line in an empty folder."""
    from helpers.driving import Shell

    return Shell(tmp_path, home)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    from helpers.tiny_models import save_sentence_transformer

    return save_sentence_transformer(tmp_path_factory.mktemp("teachers") / "teacher")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """A model of the teacher's shape with other weights."""
    from helpers.tiny_models import save_sentence_transformer

    return save_sentence_transformer(tmp_path_factory.mktemp("strangers") / "stranger", seed=1)


@pytest.fixture(scope="session")
def reranker(tmp_path_factory):
    """A cross-encoder with one score."""
    from transformers import BertForSequenceClassification

    from helpers.tiny_models import tokenizer, transformer

    folder = tmp_path_factory.mktemp("rerankers") / "cross"
    config = transformer().config
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def beir(tmp_path_factory):
    """A BEIR folder: every query is the first words of a document, which is judged 2, and the next one 1."""
    from helpers.tiny_models import sentences

    folder = tmp_path_factory.mktemp("data") / "pages"
    texts = sentences(DOCUMENTS)
    documents = [{"_id": f"d{i}", "title": f"page {i}", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": " ".join(texts[7 * i].split()[:3])} for i in range(QUERIES)]
    judged = [(f"q{i}", f"d{7 * i + more}", 2 - more) for i in range(QUERIES) for more in (0, 1)]
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, line)) for line in judged)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def plenty(tmp_path_factory):
    """A file of as many documents as quantisers need."""
    from helpers.tiny_models import sentences

    path = tmp_path_factory.mktemp("data") / "plenty.jsonl"
    path.write_text("".join(json.dumps({"_id": f"d{i}", "text": t}) + "\n" for i, t in enumerate(sentences(1200))))
    return path


@dataclass(frozen=True)
class Chain:
    """A folder where `ibkd distill` and `ibkd index` have been; tests read it and write elsewhere."""

    shell: object
    student: Path
    student_index: Path
    teacher_index: Path
    said: dict


@pytest.fixture(scope="session")
def distilling(teacher, beir):
    """The options of a distillation of a second."""
    options = {
        "--teacher": teacher,
        "--corpus": beir,
        "--layers": 2,
        "--dim": 8,
        "--steps": 8,
        "--batch-size": 16,
        "--bank-size": 24,
        "--max-length": 32,
        "--eval-every": 4,
        "--checkpoint-every": 2,
        "--dtype": "float32",
        "--device": "cpu",
    }
    return ("distill", *(word for option in options.items() for word in option))


@pytest.fixture(scope="session")
def chain(tmp_path_factory, home, teacher, beir, distilling):
    from helpers.driving import Shell

    folder = tmp_path_factory.mktemp("chain")
    shell = Shell(folder, home)
    # In bfloat16 vectors would depend on the batch they were encoded in, and scores are held to the brute-force ones.
    index = ("index", "--corpus", beir, "--shard-size", 64, "--dtype", "float32")
    said = {
        "distill": shell.must(*distilling),
        "index teacher": shell.must(*index, "--model", teacher),
        "index": shell.must(*index),
    }
    indexes = folder / "indexes"
    return Chain(
        shell,
        folder / "models" / "teacher-l2-d8-ibkd",
        indexes / "pages-teacher-l2-d8-ibkd-flat",
        indexes / "pages-teacher-flat",
        said,
    )
