"""The examples in the library's docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import ibkd_retrieval

ROOT = Path(__file__).parent.parent
MODULES = [path for path in sorted((ROOT / "ibkd_retrieval").rglob("*.py")) if ">>> " in path.read_text("utf-8")]


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_the_examples_of_a_module_give_what_they_say(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(module_of(path))
    except ModuleNotFoundError as missing:
        pytest.skip(f"needs {missing.name}")
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not found.failed


@pytest.mark.parametrize("name", sorted(set(ibkd_retrieval.__all__) - {"__version__"}))
def test_every_public_name_is_described_and_every_function_has_an_example(name):
    found = getattr(ibkd_retrieval, name)
    assert found.__doc__
    assert ">>> " in found.__doc__ or not inspect.isfunction(found)
