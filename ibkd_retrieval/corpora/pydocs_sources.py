"""What Python source files say about themselves, read with `ast`: docstrings in two parts, and public names.

Nothing is imported or run.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import site
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MIN_SUMMARY_WORDS = 3
MAX_SUMMARY_WORDS = 40
MIN_BODY_WORDS = 15

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_SIGNATURE = re.compile(r"(?:[\w.\[\]*]+\s*[,=]\s*)*[\w.]+\(.*\)\s*(->.*|:)?", re.DOTALL)
_SECTION = re.compile(
    r"(args|arguments|attributes|example|examples|keyword args|keyword arguments|keywords|note|notes|params|parameters"
    r"|raises|references|return|returns|see also|usage|warning|warnings|yields)\s*(:|\n\s*[-=~]{3,})",
    re.IGNORECASE,
)
_NOT_PROSE = (">>>", "...", ":", "@", "* ", "- ", "+", "|", "#", "{", "[", "<", "$", "%", "r'", 'r"')
_RULED_LINE = re.compile(r"[-=~*#^\"'`+_.]{3,}")
_ROLE = re.compile(r"(?::[a-zA-Z][\w:+.-]*:)`([^`]*)`")
_EXPLICIT_LINK = re.compile(r"^(.*?)\s*<[^<>]*>$")
_MARKDOWN_LINK = re.compile(r"\[([^\[\]]+)\]\([^()\s]+\)")
_BACKTICKED = re.compile(r"`+([^`]*)`+_{0,2}")
_WORD = re.compile(r"[^\W\d_]{2,}")
_STRONG = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_POINTS_ELSEWHERE = re.compile(
    r"(alias (for|of)|deprecated|docstring inherited|inherit|internal (function|helper|method|use)|same as|refer to"
    r"|see (also|the|base|documentation)\b|see [:`]|todo|fixme|overrid|like |equivalent to|helper|getter|setter)",
    re.IGNORECASE,
)
_LICENCE = re.compile(r":copyright:|:license:|copyright\b|licensed under", re.IGNORECASE)


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """Split a docstring into its summary, on one line without markup, and the rest.

    What stands above the summary is dropped: the thing's name or signature, a directive; so are the line under a
    heading and copyright notices.

    Returns:
        (summary, body), or None where the two would make no good query and document: fewer than two paragraphs,
        a summary of fewer than 3 words or more than 40, one that only points elsewhere ("Alias for ...") or leads
        into a list, a body of fewer than 15 words, or a body that begins with the summary.
    """
    paragraphs = [part for part in _BLANK_LINES.split(inspect.cleandoc(docstring).strip()) if part.strip()]
    paragraphs = [part for part in paragraphs if not _LICENCE.match(part.strip())]
    while paragraphs and _is_preamble(paragraphs[0].strip()):
        paragraphs.pop(0)
    if len(paragraphs) < 2:
        return None
    lines = [line.strip() for line in paragraphs[0].splitlines()]
    if len(lines) > 1 and _SIGNATURE.fullmatch(lines[0]):
        lines = lines[1:]
    first = "\n".join(line for line in lines if not _RULED_LINE.fullmatch(line))
    if first.startswith(_NOT_PROSE) or _SECTION.match("\n".join(lines)) or _POINTS_ELSEWHERE.match(first):
        return None
    if first.endswith(":") or "*optional*" in first or re.search(r"\n\s*(:|@|>>>|[-*] )", first):
        return None
    summary = plain_text(first)
    body = "\n\n".join(paragraphs[1:])
    if len(_WORD.findall(summary)) < MIN_SUMMARY_WORDS or len(summary.split()) > MAX_SUMMARY_WORDS:
        return None
    if len(_WORD.findall(body)) < MIN_BODY_WORDS or normalised(body).startswith(normalised(summary)):
        return None
    return summary, body


def plain_text(text: str) -> str:
    """Join `text` to one line and drop its reStructuredText and Markdown markup, keeping the words."""
    text = " ".join(text.split())
    text = _ROLE.sub(lambda match: _link_text(match[1]), text)
    text = _MARKDOWN_LINK.sub(r"\1", text)
    text = _BACKTICKED.sub(lambda match: _link_text(match[1]), text)
    return _STRONG.sub(r"\1", text).strip()


def normalised(text: str) -> str:
    """`text` in lower case with only its letters and digits: equal texts differ in layout at most."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _is_preamble(paragraph: str) -> bool:
    words = [word for word in paragraph.split() if not _RULED_LINE.fullmatch(word)]
    return len(words) < 2 or paragraph.startswith((".. ", "!!! ")) or _SIGNATURE.fullmatch(paragraph) is not None


def _link_text(content: str) -> str:
    match = _EXPLICIT_LINK.match(content)
    return (match[1] if match and match[1] else content).lstrip("~!")


MAX_FILE_BYTES = 3_000_000

# Other people's copies, and code that documents tests or demonstrations and not a library.
_SKIPPED_FOLDERS = {
    *("test", "tests", "testing", "conftest", "idlelib", "lib2to3", "turtledemo", "benchmarks", "examples"),
    *("vendor", "vendored", "_vendor", "_vendored", "third_party", "thirdparty"),
    *("extern", "external", "externals", "_extern", "_external", "_externals"),
}
_SKIPPED_MODULES = frozenset({"conftest", "setup", "antigravity", "this"})
# This toolkit itself: what it finds must not depend on how it was installed.
_SKIPPED_PACKAGES = frozenset({"ibkd_retrieval", "ibkd_cli"})


class SourceFile(NamedTuple):
    """A Python source file and the dotted name it is imported by."""

    module: str
    path: Path
    is_package: bool


class Definition(NamedTuple):
    """A documented module (`name` empty), class, function or method (`Class.method`)."""

    name: str
    summary: str
    body: str


class ModuleScan(NamedTuple):
    """What one file defines, and which names it takes from where.

    Attributes:
        module: its dotted name.
        is_package: whether it is a package's `__init__.py`.
        definitions: its documented public definitions, in source order.
        imports: (module, name or "*", name it is bound to) for each `from module import name [as other]` within its
            own top-level package.
        exported: its `__all__`, None where it has none that can be read off.
    """

    module: str
    is_package: bool
    definitions: tuple[Definition, ...]
    imports: tuple[tuple[str, str, str], ...]
    exported: tuple[str, ...] | None


def installed_roots() -> list[Path]:
    """Folders that hold this interpreter's standard library and installed packages, in order of precedence."""
    names = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    names += site.getsitepackages()
    if site.ENABLE_USER_SITE:
        names.append(site.getusersitepackages())
    roots = dict.fromkeys(Path(name).resolve() for name in names if name)
    return [root for root in roots if root.is_dir()]


def find_sources(roots: Iterable[Path]) -> Iterator[SourceFile]:
    """Find the source files of every public top-level package, sorted by path within each root.

    A top-level name found under two roots counts once, as it does for `import`.
    """
    seen: set[str] = set(_SKIPPED_PACKAGES)
    for root in roots:
        here = [source for source in _walk(root, "") if source.module.partition(".")[0] not in seen]
        yield from here
        seen.update(source.module.partition(".")[0] for source in here)


def _walk(folder: Path, prefix: str) -> Iterator[SourceFile]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    regular = prefix != "" and any(entry.name == "__init__.py" for entry in entries)
    for entry in entries:
        stem, suffix = os.path.splitext(entry.name)
        if not stem.isidentifier() or (not prefix and stem.startswith("_")):
            continue
        if suffix == ".py":
            if stem == "__init__" and prefix:
                yield SourceFile(prefix, Path(entry.path), True)
            elif not (
                stem in _SKIPPED_MODULES or stem.startswith(("test_", "__")) or stem.endswith(("_test", "_tests"))
            ):
                yield SourceFile(f"{prefix}.{stem}" if prefix else stem, Path(entry.path), False)
        elif suffix == "" and stem not in _SKIPPED_FOLDERS and stem != "__pycache__" and entry.is_dir():
            # Folders without __init__.py count only as namespace packages: data is kept in such folders too.
            if regular and not os.path.exists(os.path.join(entry.path, "__init__.py")):
                continue
            yield from _walk(Path(entry.path), f"{prefix}.{stem}" if prefix else stem)


def scan_source(source: SourceFile) -> ModuleScan:
    """Read one file; a file that cannot be read or parsed documents nothing."""
    empty = ModuleScan(source.module, source.is_package, (), (), None)
    try:
        content = source.path.read_bytes()
    except OSError:
        return empty
    # A file without docstrings still matters for its imports: they say where other modules' names are public.
    if len(content) > MAX_FILE_BYTES or not any(mark in content for mark in (b'"""', b"'''", b"import")):
        return empty
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return empty
    statements = list(_module_statements(tree.body))
    return ModuleScan(
        source.module,
        source.is_package,
        tuple(_definitions(tree, statements)),
        tuple(_imports(statements, source.module, source.is_package)),
        _exported(statements),
    )


def _module_statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run at module level, those under `if`, `try` and `with` included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            yield from _module_statements([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            handled = [inner for handler in statement.handlers for inner in handler.body]
            yield from _module_statements([*statement.body, *handled, *statement.orelse, *statement.finalbody])
        elif isinstance(statement, ast.With):
            yield from _module_statements(statement.body)


def _definitions(tree: ast.Module, statements: Iterable[ast.stmt]) -> Iterator[Definition]:
    seen: set[str] = set()
    for name, node in [("", tree), *_named_nodes(statements, "")]:
        if name in seen:  # an overload, a property's setter, the other branch of an `if`
            continue
        docstring = ast.get_docstring(node, clean=False)
        pair = split_docstring(docstring) if docstring else None
        if pair:
            seen.add(name)
            yield Definition(name, *pair)


_Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _named_nodes(
    statements: Iterable[ast.stmt], prefix: str
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in statements:
        if isinstance(node, _Documented) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _named_nodes(_module_statements(node.body), f"{prefix}{node.name}.")


def _imports(statements: Iterable[ast.stmt], module: str, is_package: bool) -> Iterator[tuple[str, str, str]]:
    package = module.split(".") if is_package else module.split(".")[:-1]
    top = module.partition(".")[0]
    for node in statements:
        if not isinstance(node, ast.ImportFrom) or node.level > len(package) + 1:
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        if origin.partition(".")[0] != top:
            continue
        for name in node.names:
            yield origin, name.name, name.asname or name.name


def _exported(statements: Iterable[ast.stmt]) -> tuple[str, ...] | None:
    for node in statements:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            try:
                return tuple(str(name) for name in ast.literal_eval(node.value))
            except (ValueError, TypeError):
                return None
    return None
