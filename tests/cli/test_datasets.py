"""`ibkd datasets` tells what there is without fetching or making anything."""

import json

import pytest

from helpers.driving import Shell

# Ends as the command does, but says first which heavy packages it has loaded.
WATCHED = """
import sys
from ibkd_cli.app import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "faiss", "pyarrow", "ir_datasets", "numpy"} & set(sys.modules)
    print("loaded", sorted(heavy), file=sys.stderr)
"""


def put(home, *files):
    for file in files:
        path = home / ".ir_datasets" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)


@pytest.fixture
def shell(tmp_path):
    """A command line whose home is its own."""
    folder, home = tmp_path / "here", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    return Shell(folder, home)


def listed(answer):
    return {line.split()[0]: line for line in answer.out.splitlines() if line.strip()}


def test_listing_loads_nothing_heavy_and_makes_no_folder(shell):
    answer = shell.process("datasets", program=WATCHED)
    assert answer.code == 0
    assert answer.err == "loaded []\n"
    assert not list(shell.home.iterdir())
    assert not list(shell.folder.iterdir())
    lines = listed(answer)
    assert lines["scifact"].split()[:5] == ["scifact", "5,183", "300", "ndcg@10", "1"]
    assert lines["trec-dl-2019"].split()[1:5] == ["8,841,823", "43", "ndcg@10", "2"]
    assert lines["cqadupstack"].split()[1:5] == ["(12", "parts)", "457,199", "13,145"]
    assert "cqadupstack/android" not in lines
    assert "agreement" in lines["robust04"]


def test_what_is_on_disk_is_shown(shell):
    put(
        shell.home,
        "beir/scifact/source.zip",
        "msmarco-passage/dev/small/queries.tsv",
        "msmarco-passage/dev/small/qrels",
    )
    put(shell.home, "beir/cqadupstack/android/docs.pklz4/bin.pos", "beir/cqadupstack/gis/docs.pklz4/bin.pos")
    shown = {each["name"]: each for each in json.loads(shell.must("datasets", "--json").out)["sets"]}
    kept = {name: (each["documents_on_disk"], each["queries_on_disk"]) for name, each in shown.items()}
    assert {name: counts for name, counts in kept.items() if counts != (0, 0)} == {
        "scifact": (1, 1),
        "msmarco": (0, 1),
        "cqadupstack": (2, 0),
    }
    lines = listed(shell.must("datasets"))
    assert " d q " in lines["scifact"]
    assert " d 2/12 " in lines["cqadupstack"]
    one = shell.must("datasets", "scifact").out
    assert f"on disk: documents and queries and judgements; 10 bytes in {shell.home}/.ir_datasets/beir/scifact" in one


def test_a_suite_is_listed_with_the_parts_of_its_sets(shell):
    lines = listed(shell.must("datasets", "--suite", "beir"))
    assert len([name for name in lines if name.startswith("cqadupstack/")]) == 12
    assert "msmarco" not in lines


def test_one_set_is_shown_with_its_ids_and_the_commands_that_use_it(shell):
    answer = shell.must("datasets", "fiqa").out
    for said in ("beir/fiqa/train", "beir/fiqa/dev", "57,638", "ibkd index --corpus fiqa", "ibkd eval --queries fiqa"):
        assert said in answer
    assert shell.must("datasets", "msmarco-passage").out.startswith("msmarco\n")
    assert "cqadupstack/wordpress" in shell.must("datasets", "cqadupstack").out
    assert "bioasq.org" in shell.must("datasets", "bioasq").out
    shown = json.loads(shell.must("datasets", "trec-dl-2020", "--json").out)
    assert (shown["documents"], shown["queries"], shown["relevance_level"]) == (8_841_823, 54, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scifcat"], "unknown data set 'scifcat': no set of that name is known; did you mean scifact?"),
        (["zzz"], "`ibkd datasets` lists those there are"),
        (["beir/fiqa/dev"], "beir/fiqa/dev is an ir_datasets id without a short name"),
        (["--suite", "lote"], "unknown suite 'lote': did you mean lotte."),
        (["--suite", "zzz"], "name one of beir, nano-beir"),
        (["scifact", "--suite", "beir"], "name a data set or a suite"),
    ],
)
def test_an_unknown_set_or_suite_is_refused_in_one_sentence(shell, words, said):
    answer = shell("datasets", *words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("ibkd: ")
    assert answer.err.count("\n") == 1
    assert said in answer.err
