"""What messages may name: the library its parameters, a command its own options."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibkd_cli.app import _options_of
from ibkd_cli.display.wording import COMMAND_OF_CALL

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "ibkd_retrieval"
COMMANDS = (
    "quickstart",
    "distill",
    "index",
    "search",
    "eval",
    "compare",
    "serve",
    "datasets",
    "info",
    "export",
    "import",
    "push",
    "bench encode",
)
OPTION = re.compile(r"(?<![\w(-])--[a-z][a-z0-9-]*")
# CSS variables, and options of the Java virtual machine and of torchrun.
FOREIGN = re.compile(r"var\(--|^--(ink|muted|grid|paper|series-)|--sun-misc|--nproc-per-node")
# The model card shows how to make the student again; it is a page for people who have the command line.
WRITES_COMMANDS = {"ibkd_retrieval/distill/output/report.py"}
OF_COMMAND = {
    "import_vectors.py": ("import",),
    "bench.py": ("bench encode",),
    "suite.py": ("eval",),
    "similarity.py": ("eval",),
}


def whole(node: ast.expr) -> str:
    """A string as it is read, with a word for each value that is put into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string constants of a source file that are not docstrings, with their lines."""
    tree = ast.parse(path.read_text("utf-8"))
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented | parts
        ):
            yield node.lineno, whole(node)


def sources() -> list[Path]:
    return [path for path in sorted(LIBRARY.rglob("*.py")) if path.relative_to(ROOT).as_posix() not in WRITES_COMMANDS]


def test_the_library_names_no_option_and_no_command():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text[:80]}"
        for path in sources()
        for line, text in texts(path)
        if (OPTION.search(text) and not FOREIGN.search(text)) or re.search(r"`ibkd [a-z]", text)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_parameter_that_the_library_names_in_a_message_is_an_option_somewhere():
    known = {name for command in COMMANDS for name in _options_of(command)}
    calls = set(COMMAND_OF_CALL)
    wrong = []
    for path in sources():
        for line, text in texts(path):
            for name, value in re.findall(r"`([a-z][a-z0-9_]*)(=[^`]*)?`", text):
                if ("_" in name.strip("_") or value) and name not in known | calls:
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted((ROOT / "cli" / "commands").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_command_names_only_options_that_it_has(path):
    own = {option for command in OF_COMMAND.get(path.name, (path.stem,)) for option in _options_of(command).values()}
    every = {option for command in COMMANDS for option in _options_of(command).values()}
    for line, text in texts(path):
        # A whole command line is shown in backquotes, or stands alone.
        lines = r"`ibkd [^`]*`|^ *ibkd .*"
        of_others = re.findall(lines, text)
        left = re.sub(lines, "", text)
        for option in OPTION.findall(left):
            assert option in own | {"--help"} or text == option, f"{path.name}:{line}: {option}"
        for option in OPTION.findall(" ".join(of_others)):
            assert option in every | {"--help"}, f"{path.name}:{line}: {option}"
