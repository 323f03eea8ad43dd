"""The pages of README and docs, as blocks of code with what HTML comments say of them.

- `<!-- not run: REASON -->`: the commands of the next block are only checked against their options.
- `<!-- not run (TEXT): REASON -->`: only those commands of it that hold TEXT are.
- `<!-- output not compared: REASON -->`: its commands are run, what it shows behind them is not what they print here.
- `<!-- file: NAME -->`: the next block is a file that commands of the page read.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "indexes" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(
    r"(?:^<!-- (?P<said>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
_SAID = re.compile(r"(?P<what>not run|output not compared|file)(?: \((?P<of>.+)\))?: (?P<why>\S.*)")


class Block(NamedTuple):
    """A block of code.

    Attributes:
        language: behind the fence, "" for a shell.
        text: what it holds.
        what: what the comment before it says: not run, output not compared, file, or "".
        of: the part of the block that the comment is about, "" for all of it.
        why: the reason, or the name of the file.
    """

    language: str
    text: str
    what: str = ""
    of: str = ""
    why: str = ""


class Shown(NamedTuple):
    """A line of a shell, and what is shown behind it.

    Attributes:
        words: the words of the line, without a comment at its end.
        output: the lines below it, where it begins with `$`.
        run: whether it is run, not only checked.
    """

    words: list[str]
    output: list[str]
    run: bool


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    found = []
    for block in _BLOCK.finditer(text):
        said = _SAID.fullmatch(block["said"]) if block["said"] else None
        about = (said["what"], said["of"] or "", said["why"]) if said else ()
        found.append(Block(block["language"], block["text"], *about))
    return found


def shown_in(block: Block) -> list[Shown]:
    """The commands of a block: every line, or where some begin with `$`, those."""
    if block.language not in ("", "bash", "sh"):
        return []
    lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    with_output = any(line.startswith("$ ") for line in lines)
    found: list[Shown] = []
    for line in lines:
        if with_output and not line.startswith("$ "):
            if found and line:
                found[-1].output.append(line)
            continue
        command = re.split(r"\s+# ", line.removeprefix("$ "))[0]
        if re.match(r"(ibkd|torchrun|make|pip|python) ", command + " "):
            skipped = block.what == "not run" and block.of in command
            found.append(Shown(shlex.split(command), [], not skipped))
    if block.what == "output not compared":
        return [shown._replace(output=[]) for shown in found]
    return found


def shows(output: list[str], printed: str) -> bool:
    """Whether the lines shown are in what was printed, in order; `...` is anything, `...x` a line that ends in x."""
    pattern = ""
    for line in output:
        if line == "...":
            pattern += r"(?:.*\n)*?"
        else:
            parts = map(re.escape, line.split("..."))
            pattern += ".*".join(parts) + r"\n"
    return re.search(f"(?m)^{pattern}", printed) is not None
