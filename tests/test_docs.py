"""What README and docs show exists: commands and their options, files that are linked to, names of the API."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

import ibkd_retrieval
from ibkd_cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "indexes" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"^```python\n(?:(?!```).)*ibkd\.", re.MULTILINE | re.DOTALL)
# Of pip, torchrun, benchmarks and others that the pages show.
FOREIGN = {"--nproc-per-node", "--final", "--data-dir", "--models-dir", "--work-dir", "--jobs"}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def options_by_command():
    """The options of every command, by its name; of a group `bench`, by `bench encode`."""

    def walk(command, words):
        found = {option for each in command.params for option in [*each.opts, *each.secondary_opts]}
        yield " ".join(words), {option for option in found if option.startswith("-")} | {"--help"}
        for name, part in getattr(command, "commands", {}).items():
            yield from walk(part, [*words, name])

    return dict(walk(typer.main.get_command(app), []))


OPTIONS = options_by_command()


def shown_commands(text):
    """The words behind `ibkd` of every command line in a page: in blocks, and within a line."""
    blocks = [block for language, block in FENCED.findall(text) if language in ("", "bash", "sh")]
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCED.sub("", text))]
    for line in [*lines, *inline]:
        begun = re.match(r"(?:\$ )?(?:ibkd|torchrun .* -m ibkd_cli) (.*)", line)
        if begun:
            yield shlex.split(re.split(r"\s+# ", begun[1])[0])


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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_shown_exists_with_its_options(page):
    wrong = [f"{' '.join(words)}: {said}" for words in shown_commands(page.read_text()) if (said := wrong_with(words))]
    assert not wrong


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
    text = '`ibkd index\n--append`\n```\n$ ibkd search "a b" \\\n    --nprobes 3   # more\nibkd serch\n```\n'
    found = list(shown_commands(text))
    assert found == [["search", "a b", "--nprobes", "3"], ["serch"], ["index", "--append"]]
    assert [wrong_with(words) for words in found] == [
        "ibkd search has no option --nprobes",
        "there is no command serch",
        "",
    ]
