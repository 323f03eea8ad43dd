"""The wheel: it holds every file of the library and the command, and works where nothing else of this project is."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import ibkd_retrieval

ROOT = Path(__file__).parent.parent
SOURCES = {"ibkd_retrieval": "ibkd_retrieval", "cli": "ibkd_cli"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Built from a copy: a build leaves folders beside the sources, and takes up those of an earlier one.
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """An environment with the wheel, and with the libraries that it needs but not this checkout."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Files .pth in a folder that is named in one are not read, so that the editable install is not seen.
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")
    return folder


def pip(*args: object) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(bare: Path, *program: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, program)), cwd=bare, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert held == {name.replace("cli/", "ibkd_cli/", 1) if name.startswith("cli/") else name for name in wanted}
    for line in ("License-Expression: Apache-2.0", "Classifier: Typing :: Typed", "Project-URL: Paper, https://arxiv"):
        assert line in metadata


def test_the_command_and_the_library_of_the_wheel_work_alone(bare):
    assert ibkd_retrieval.__version__ in run(bare, bare / "bin" / "ibkd", "--version")
    assert "distill" in run(bare, bare / "bin" / "ibkd", "--help")
    program = "import ibkd_retrieval, ibkd_cli; print(ibkd_retrieval.__file__, ibkd_cli.__file__)"
    for file in run(bare, bare / "bin" / "python", "-c", program).split():
        assert Path(file).is_relative_to(bare)
