"""The layout's rules, read from the source: who may import whom, and what loads when."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "ibkd_retrieval"
COMMANDS = ROOT / "cli"
ROOMS = ("corpora", "encoders", "indexing", "search", "evaluation", "distill", "serving", "integrations")
ROOT_MODULES = {
    "cluster",
    "cluster_dispatch",
    "cluster_group",
    "errors",
    "files",
    "json_io",
    "progress",
    "store_errors",
    "stores",
}
HEAVY = {
    "torch",
    "transformers",
    "sentence_transformers",
    "faiss",
    "ranx",
    "numba",
    "ir_datasets",
    "pyarrow",
    "scipy",
    "matplotlib",
    "jinja2",
    "datasets",
    "huggingface_hub",
    "lancedb",
    "psycopg",
    "qdrant_client",
    "safetensors",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "ray",
}
# Modules that define torch modules or operate on tensors throughout; nothing that `--help` loads imports them.
TORCH_MODULES = {
    "ibkd_retrieval/encoders/backends/lean.py",
    "ibkd_retrieval/encoders/backends/packing.py",
    "ibkd_retrieval/distill/teacher/soft_labels.py",
    "ibkd_retrieval/distill/training/chunks.py",
    "ibkd_retrieval/distill/training/student_module.py",
    "ibkd_retrieval/distill/objectives/baselines.py",
    "ibkd_retrieval/distill/objectives/crd.py",
    "ibkd_retrieval/distill/objectives/ibkd.py",
    "ibkd_retrieval/distill/objectives/matryoshka.py",
    "ibkd_retrieval/distill/objectives/projection.py",
}


# Libraries of the extra `serve`, and the modules that are made with them.
WEB = {"fastapi", "fastapi_offline", "prometheus_client", "starlette", "uvicorn"}
WEB_MODULES = {
    "ibkd_retrieval/serving/app.py",
    "ibkd_retrieval/serving/embeddings.py",
    "ibkd_retrieval/serving/server.py",
    "ibkd_retrieval/serving/waiting.py",
}


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "cli":
        parts[0] = "ibkd_cli"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_by(node: ast.AST, path: Path) -> Iterator[str]:
    """The full names a node imports: of `from a import b` both `a` and `a.b`, as `b` may be a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module_name(path).split(".")
            package = package if path.name == "__init__.py" else package[:-1]
            above = package[: len(package) - (node.level - 1)]
            base = ".".join([*above, base] if base else above)
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def imports(path: Path) -> set[str]:
    """Everything a file imports, wherever it does: at the top, in functions, under TYPE_CHECKING."""
    tree = ast.parse(path.read_text("utf-8"))
    return {name for node in ast.walk(tree) for name in imported_by(node, path)}


def imports_when_loaded(path: Path) -> set[str]:
    """What a file imports by being imported: not what its functions do, nor what type checkers alone read."""

    def executed(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            # The body waits, but decorators and default values are evaluated at once.
            outer = getattr(node, "decorator_list", [])
            children = [*outer, *node.args.defaults, *(each for each in node.args.kw_defaults if each)]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            children = node.orelse
        else:
            yield node
            children = list(ast.iter_child_nodes(node))
        for child in children:
            yield from executed(child)

    tree = ast.parse(path.read_text("utf-8"))
    return {name for node in executed(tree) for name in imported_by(node, path)}


def rooms_of(names: set[str]) -> set[str]:
    parts = [name.split(".") for name in names]
    return {name[1] for name in parts if name[0] == "ibkd_retrieval" and len(name) > 1} & set(ROOMS)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(room):
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    wrong = {relative(path): found for path in sources(LIBRARY / room) if (found := rooms_of(imports(path)) - allowed)}
    assert not wrong


def test_serving_stands_on_search_alone():
    for path in sources(LIBRARY / "serving"):
        assert rooms_of(imports(path)) <= {"corpora", "encoders", "indexing", "search", "serving"}, relative(path)


def test_every_folder_of_the_library_is_a_room():
    assert {path.parent.name for path in LIBRARY.glob("*/__init__.py")} == set(ROOMS)


def test_root_modules_import_no_room():
    paths = [path for path in LIBRARY.glob("*.py") if path.name != "__init__.py"]
    assert {path.stem for path in paths} == ROOT_MODULES
    for path in paths:
        assert not rooms_of(imports(path)), relative(path)


def test_the_public_api_imports_no_room_when_it_is_loaded():
    assert not rooms_of(imports_when_loaded(LIBRARY / "__init__.py"))


def test_the_library_does_not_know_its_command_line():
    for path in sources(LIBRARY):
        assert not {name for name in imports(path) if name.split(".")[0] in ("cli", "ibkd_cli", "typer", "rich")}, path


def test_exactly_one_module_imports_faiss():
    found = [
        relative(path)
        for path in [*sources(LIBRARY), *sources(COMMANDS)]
        if any(name.split(".")[0] == "faiss" for name in imports(path))
    ]
    assert found == ["ibkd_retrieval/indexing/faiss_binding.py"]


def test_only_the_modules_of_clusters_import_ray():
    found = [
        relative(path)
        for path in [*sources(LIBRARY), *sources(COMMANDS)]
        if any(name.split(".")[0] == "ray" for name in imports(path))
    ]
    assert found == ["ibkd_retrieval/cluster.py", "ibkd_retrieval/cluster_group.py"]


def test_heavy_libraries_are_loaded_at_import_by_torch_modules_only():
    assert loaders_of(HEAVY) == {path: {"torch"} for path in TORCH_MODULES}


def test_web_libraries_are_imported_by_web_modules_only():
    assert set(loaders_of(WEB)) == WEB_MODULES
    for path in [*sources(LIBRARY), *sources(COMMANDS)]:
        used = {name.split(".")[0] for name in imports(path)} & WEB
        assert not used or relative(path) in WEB_MODULES, relative(path)


@pytest.mark.parametrize("modules", [TORCH_MODULES, WEB_MODULES], ids=["torch", "web"])
def test_modules_that_load_such_libraries_are_imported_inside_functions(modules):
    for path in [*sources(LIBRARY), *sources(COMMANDS)]:
        if relative(path) not in modules:
            files = {f"{name.replace('.', '/')}.py" for name in imports_when_loaded(path)}
            assert not files & modules, relative(path)


def loaders_of(libraries: set[str]) -> dict[str, set[str]]:
    """The modules that load any of these libraries by being imported, and which."""
    found = {}
    for path in [*sources(LIBRARY), *sources(COMMANDS)]:
        loaded = {name.split(".")[0] for name in imports_when_loaded(path)} & libraries
        if loaded:
            found[relative(path)] = loaded
    return found


def test_files_beside_the_code_are_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    packages = {path.parent for folder in (LIBRARY, COMMANDS) for path in folder.rglob("__init__.py")}
    covered = {
        relative(path)
        for name, patterns in declared.items()
        for folder in (packages if name == "*" else [ROOT / name.replace(".", "/")])
        for pattern in patterns
        for path in folder.glob(pattern)
    }
    beside = [path for folder in (LIBRARY, COMMANDS) for path in folder.rglob("*") if path.is_file()]
    assert covered == {relative(path) for path in beside if path.suffix not in (".py", ".pyc")}


def test_every_folder_with_code_is_a_package_and_so_is_found():
    packages = {path.parent for folder in (LIBRARY, COMMANDS) for path in folder.rglob("__init__.py")}
    assert packages == {path.parent for path in [*sources(LIBRARY), *sources(COMMANDS)]}


# The readers above are themselves worth a test: one that finds nothing would let everything pass.


def test_the_reader_of_imports_looks_into_functions_and_type_checking_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "ibkd_retrieval" / "corpora" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "from . import b\n"
        "from ..search.runs import Run\n"
        "if TYPE_CHECKING:\n    from ibkd_retrieval.distill import run\n"
        "class C:\n    import scipy\n"
        "def f():\n    import torch.nn\n    importlib.import_module('faiss')\n"
    )
    everywhere = imports(path)
    assert {"ibkd_retrieval.corpora.b", "ibkd_retrieval.search.runs", "ibkd_retrieval.distill.run"} <= everywhere
    assert {"torch.nn", "faiss", "scipy"} <= everywhere
    assert rooms_of(everywhere) == {"corpora", "search", "distill"}
    assert imports_when_loaded(path) & {"scipy", "torch.nn", "faiss", "ibkd_retrieval.distill"} == {"scipy"}
