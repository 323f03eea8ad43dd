"""Help pages: examples that parse, options in order, choices that the library takes, suggestions and completion."""

import re
import shlex

import pytest
import typer

from ibkd_cli.app import BENCH, app
from ibkd_cli.app import COMMANDS as LISTED
from ibkd_cli.display.examples import EXAMPLES

ROOT = typer.main.get_command(app)
COMMANDS_LISTED = LISTED | {f"bench {name}": each for name, each in BENCH.items()}
COMMANDS = [name for name in EXAMPLES if name]


def command_of(words):
    """The command that a command line begins with, and what is left of the line."""
    command, rest = ROOT, list(words)
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    return command, rest


@pytest.fixture
def page(shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: shell.must(*words).out


def test_a_command_is_listed_with_the_first_sentence_of_its_own_page():
    for name, listed in COMMANDS_LISTED.items():
        made, _ = command_of(name.split())
        assert made.help.partition("\n\n")[0] == listed.does


def test_every_command_has_examples():
    every = {name for name, each in ROOT.commands.items() if not hasattr(each, "commands")} | {"bench", "bench encode"}
    assert set(COMMANDS) == every
    assert all(len(EXAMPLES[name]) >= 2 for name in every - {"bench"})


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_page_parse_and_are_of_that_command(name):
    for _, typed in EXAMPLES[name]:
        program, *words = shlex.split(typed)
        assert program == "ibkd"
        command, rest = command_of(words)
        assert not name or command in (
            command_of(name.split())[0],
            *vars(command_of(name.split())[0]).get("commands", {}).values(),
        )
        # Refuses an option that is not there, and a value of another type.
        command.make_context(name, rest)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_has_short_help_its_examples_and_no_type_of_python(name, page):
    words = name.split()
    shown = page(*words, "-h")
    assert shown == page(*words, "--help")
    assert not re.search(r"<(str|int|float|bool|path|list)", shown)
    flat = " ".join(re.sub(r"\\\s*\n", " ", shown).split())
    for does, typed in EXAMPLES[name]:
        assert " ".join(typed.split()) in flat
        assert does in flat
    assert shown.rstrip().endswith(EXAMPLES[name][-1][1].split()[-1])


@pytest.mark.parametrize("name", ["distill", "index", "search", "eval", "compare", "serve", "import", "export"])
def test_common_options_come_first_and_the_others_are_advanced(name, page):
    panels = re.findall(r"^╭─ (.*?) ─*╮$", page(name, "-h"), re.MULTILINE)
    common, *advanced = [panel for panel in panels if panel != "Arguments"]
    assert common == "Options"
    assert advanced
    assert all(panel.startswith("Advanced") for panel in advanced)
    assert len(advanced) == len(set(advanced))


def choices_of(command, option):
    (found,) = [each for each in command_of(command.split())[0].params if option in each.opts]
    return tuple(item.value for item in found.shell_complete(typer.Context(ROOT), ""))


def test_the_choices_shown_are_those_that_the_library_takes():
    from ibkd_retrieval.distill.objectives import OBJECTIVES
    from ibkd_retrieval.encoders.exporting import GRAPHS
    from ibkd_retrieval.indexing.exporting import FORMATS as EXPORTS
    from ibkd_retrieval.indexing.exporting.databases import DATABASES
    from ibkd_retrieval.indexing.families import FAMILIES
    from ibkd_retrieval.indexing.format.vectors import FORMATS
    from ibkd_retrieval.search.lexical import ENGINES

    assert choices_of("distill", "--objective") == OBJECTIVES
    assert set(choices_of("index", "--type")) == set(FAMILIES)
    assert choices_of("index", "--vectors") == choices_of("import", "--vectors") == FORMATS
    assert choices_of("export", "--to") == (*EXPORTS, *DATABASES, "store", *GRAPHS, "router")
    for command in ("search", "eval", "serve"):
        assert choices_of(command, "--engine") == ("dense", *ENGINES)


def test_only_the_command_that_runs_is_imported(shell):
    program = (
        "import sys\ntry:\n    from ibkd_cli.app import main; main()\nfinally:\n"
        "    print(*sorted(name for name in sys.modules if name.startswith('ibkd_cli.commands.')))"
    )
    assert shell.process("--help", program=program).out.splitlines()[-1] == ""
    assert shell.process("search", "-h", program=program).out.splitlines()[-1] == "ibkd_cli.commands.search"


def test_what_is_mistyped_is_suggested(shell):
    assert "Did you mean 'search'" in shell("serch").err
    for words, meant in (("search --indx i", "--index"), ("distill --layer 3", "--layers"), ("--versoin", "--version")):
        answer = shell(*words.split())
        assert answer.code == 2
        assert f"Did you mean {meant}" in answer.err


def test_the_version_is_told(shell):
    from ibkd_retrieval import __version__

    assert shell.must("--version").out == shell.must("-V").out == f"ibkd-retrieval {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ibkd ser", {"serve"}),
        ("ibkd search --hybrid ", {"rrf", "sum"}),
        ("ibkd index --type ivf", {"ivf-pq", "ivf-flat"}),
        ("ibkd distill --finetune-s", {"--finetune-steps"}),
    ],
)
def test_the_shell_completes_commands_options_and_choices(typed, completed, shell):
    words = typed.split(" ")
    program = (
        "import os, sys; os.environ.update(_IBKD_COMPLETE='complete_bash', "
        f"COMP_WORDS={typed!r}, COMP_CWORD='{len(words) - 1}'); sys.argv = ['ibkd']; "
        "from ibkd_cli.app import app; app(prog_name='ibkd')"
    )
    assert set(shell.process(program=program).out.split()) == completed


def test_completion_can_be_installed(shell, monkeypatch, tmp_path):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    answer = shell.process("--install-completion", "bash")
    assert answer.code == 0, answer.err
    assert "completion installed" in answer.out
    assert list(shell.home.glob(".bash_completions/*"))


def test_a_question_of_several_words_needs_no_quotes(chain):
    asked = ("--index", chain.student_index, "-k", 2, "--json")
    assert chain.shell.must("search", "river", "bank", *asked).out.split('"results"')[0].count("river bank") == 1
