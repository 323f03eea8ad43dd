"""What README and docs show exists: commands with their options and values, files that are linked to, names of the API.

`test_docs_run.py` runs them.
"""

import ast
import re
import shlex
import tomllib

import pytest
import typer
import yaml

import ibkd_retrieval
from helpers.pages import FENCED, PAGES, ROOT, blocks_of, name_of, shown_in, shows
from ibkd_cli.app import app

OURS = re.compile(r"^```python\n(?:(?!```).)*ibkd\.", re.MULTILINE | re.DOTALL)
# Of pip, torchrun, benchmarks and others that the pages show.
FOREIGN = {"--nproc-per-node", "--final", "--data-dir", "--models-dir", "--work-dir", "--jobs"}


def options_by_command():
    """The options of every command, by its name; of a group `bench`, by `bench encode`."""

    def walk(command, words):
        found = {option for each in command.params for option in [*each.opts, *each.secondary_opts]}
        yield " ".join(words), {option for option in found if option.startswith("-")} | {"--help"}
        for name, part in getattr(command, "commands", {}).items():
            yield from walk(part, [*words, name])

    return dict(walk(typer.main.get_command(app), []))


OPTIONS = options_by_command()


def named_commands(text):
    """The words behind `ibkd` of every command that is named within a line."""
    for code in re.findall(r"`([^`]+)`", FENCED.sub("", text)):
        words = " ".join(code.split())
        if words.startswith("ibkd "):
            yield shlex.split(words)[1:]


def shown_commands(text):
    """The words of every command line in the blocks of a page."""
    return [shown.words for block in blocks_of(text) for shown in shown_in(block)]


def wrong_with(words):
    """What is wrong with a command line, or nothing."""
    if words[0].isupper():
        return ""
    name = " ".join(words[:2]) if " ".join(words[:2]) in OPTIONS else words[0]
    if words[0].startswith("-"):
        name = ""
    if name not in OPTIONS:
        return f"there is no command {words[0]}"
    unknown = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} - OPTIONS[name]
    return f"ibkd {name} has no option {', '.join(sorted(unknown))}" if unknown else ""


def refused(words):
    """What the command line says of the words behind `ibkd`, before anything runs; "" where it takes them."""
    if wrong := wrong_with(words):
        return wrong
    group = typer.main.get_command(app)
    while words and words[0] in getattr(group, "commands", {}):
        group, words = group.commands[words[0]], words[1:]
    try:
        group.make_context(group.name, list(words))
    except Exception as error:
        return "" if type(error).__name__ in ("Exit", "NoArgsIsHelpError") else str(error)
    return ""


def unknown_to_others(words):
    """What is wrong with a command line of another program."""
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [word for word in rest if word not in targets]
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        return [
            name
            for word in rest
            for found in re.findall(r"\[(.*)\]", word)
            for name in found.split(",")
            if name not in extras
        ]
    if program == "python":
        script = ROOT / rest[0]
        read = script.read_text() if script.is_file() else ""
        return [word for word in rest if word.startswith("--") and word not in read] or ([] if read else rest[:1])
    return []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_shown_is_one_that_the_program_takes(page):
    text = page.read_text("utf-8")
    wrong = [f"{' '.join(words)}: {said}" for words in named_commands(text) if (said := wrong_with(words))]
    for program, *words in shown_commands(text):
        if program == "torchrun":
            program, words = "ibkd", words[words.index("ibkd_cli") + 1 :]
        said = (refused(words) if words else "") if program == "ibkd" else unknown_to_others([program, *words])
        if said:
            wrong.append(f"{program} {' '.join(words)}: {said}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_has_a_reason_and_is_there(page):
    text = page.read_text("utf-8")
    comments = len(re.findall(r"^<!-- (?:not run|output not compared|file)", text, re.MULTILINE))
    about = [block for block in blocks_of(text) if block.what]
    assert len(about) == comments
    for block in about:
        assert block.of in block.text
        if block.what == "not run":
            assert not block.of or any(not shown.run for shown in shown_in(block))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_named_in_a_sentence_is_of_some_command(page):
    prose = FENCED.sub("", page.read_text())
    named = {
        option for code in re.findall(r"`([^`]+)`", prose) for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]+", code)
    }
    assert not named - set().union(*OPTIONS.values()) - FOREIGN


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_leads_to_one(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_the_pages_of_the_site_are_those_on_disk():
    class Loader(yaml.SafeLoader):
        """Reads the site's settings, whose names of Python functions stay unread."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    entries = [part for entry in settings["nav"] for part in ([entry] if isinstance(entry, str) else entry.values())]
    pages = [page for entry in entries for page in ([entry] if isinstance(entry, str) else entry)]
    assert sorted(pages) == sorted(page.name for page in ROOT.glob("docs/*.md"))


@pytest.mark.parametrize("page", [page for page in PAGES if OURS.search(page.read_text())], ids=name_of)
def test_every_name_of_the_library_in_shown_python_is_public(page):
    shown = "\n".join(code for language, code in FENCED.findall(page.read_text()) if language == "python")
    used = {
        node.attr
        for node in ast.walk(ast.parse(shown))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ibkd"
    }
    assert used
    assert not used - set(ibkd_retrieval.__all__)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_named_is_there(page):
    rooms = "corpora|encoders|indexing|search|evaluation|distill|serving"
    named = re.findall(rf"`(?:ibkd_retrieval/)?((?:{rooms})/[a-z0-9_/]+\.py)`", page.read_text())
    assert not [name for name in named if not (ROOT / "ibkd_retrieval" / name).is_file()]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


# A reader of pages that finds nothing would let everything pass.


def test_the_reader_of_command_lines_finds_and_judges_them():
    text = '`ibkd index\n--append`\n```\nibkd search "a b" \\\n    --nprobes 3   # more\nibkd serch\n```\n'
    assert shown_commands(text) == [["ibkd", "search", "a b", "--nprobes", "3"], ["ibkd", "serch"]]
    assert list(named_commands(text)) == [["index", "--append"]]
    assert wrong_with(["search", "a b", "--nprobes", "3"]) == "ibkd search has no option --nprobes"
    assert wrong_with(["serch"]) == "there is no command serch"
    assert not wrong_with(["index", "--append"])
    assert "valid integer" in refused(["search", "a", "--nprobe", "many"])
    assert not refused(["search", "a", "--nprobe", "3"])
    assert unknown_to_others(["make", "tset"]) == ["tset"]
    assert unknown_to_others(["pip", "install", "-e", ".[cpu,gqu]"]) == ["gqu"]
    assert unknown_to_others(["python", "benchmarks/none.py"]) == ["benchmarks/none.py"]
    assert unknown_to_others(["python", "benchmarks/reproduction.py", "--no"]) == ["--no"]


def test_the_reader_of_pages_knows_what_is_run_and_what_is_shown():
    text = (
        "<!-- not run (slow): takes hours -->\n```\nibkd info slow\nibkd info\n```\n"
        "<!-- file: a.csv -->\n```csv\nid,text\n```\n```\n$ ibkd info x\none 1\n...\nlast\n```\n"
    )
    partly, file, shown = blocks_of(text)
    assert [each.run for each in shown_in(partly)] == [False, True]
    assert (file.what, file.why, file.text) == ("file", "a.csv", "id,text\n")
    (command,) = shown_in(shown)
    assert command.output == ["one 1", "...", "last"]
    assert shows(command.output, "zero\none 1\n2\n3\nlast\n")
    assert shows(["...b: id"], "x\n/a/b: id\n")
    assert not shows(command.output, "one 2\nlast\n")
    assert not shows(command.output, "one 1\nlast but one\n")
