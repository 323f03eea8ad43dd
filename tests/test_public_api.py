"""The public names: `import ibkd_retrieval as ibkd`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ibkd_retrieval as ibkd


def test_every_public_name_is_found_and_listed():
    assert {"open_corpus", "open_queries", "Document", "Query", "Judgement", "UserError"} <= set(dir(ibkd))
    for name in ibkd.__all__:
        assert getattr(ibkd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = ibkd.no_such_name


def test_type_checkers_see_the_names_that_are_loaded():
    tree = ast.parse(Path(ibkd.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    seen = {
        alias.asname: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name, place in ibkd._PUBLIC.items():
        # A folder that has the name of a function is called like it, and declared as the function in it.
        assert seen.pop(name) == f"ibkd_retrieval.{place}" + ("" if ":" in place else f".api:{name}")
    assert not seen


def test_importing_the_package_and_opening_a_corpus_loads_no_heavy_library():
    code = (
        "import sys, ibkd_retrieval as ibkd; ibkd.open_corpus(['a text']);"
        "print(sorted({'numpy', 'torch', 'pandas', 'faiss', 'pyarrow', 'ir_datasets'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
