"""For the site: pages link to files of the repository outside docs/, which are copied beside them."""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
_OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")
_PAGES = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "indexes/README.md", "benchmarks/README.md"}


def _public_names() -> list[str]:
    from ibkd_retrieval import _PUBLIC

    return [_PUBLIC[name] for name in sorted(_PUBLIC)]


def _linked(text: str) -> set[str]:
    return {name for name in _OUTSIDE.findall(text) if (ROOT / name).is_file()}


def _address(name: str) -> str:
    """Where a file of the repository lies in the site: a page of another name, since README.md would be an index."""
    return f"repository/{name.replace('README', 'readme')}" if name in _PAGES else f"repository/{name}"


def on_files(files, config):
    """Add the files that pages link to."""
    names = {name for page in files.documentation_pages() for name in _linked(page.content_string)}
    for name in sorted(names):
        if name.endswith(".md"):
            files.append(File.generated(config, _address(name), content=_as_page(name)))
        else:
            files.append(File.generated(config, _address(name), abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links at the copies."""
    if page.file.src_uri == "api.md":
        markdown += "".join(f"::: ibkd_retrieval.{place.replace(':', '.')}\n\n" for place in _public_names())
    return _OUTSIDE.sub(lambda link: _address(link[1]) if (ROOT / link[1]).is_file() else link[0], markdown)


def _as_page(name: str) -> str:
    """A page from outside docs/, without its links to places that the site does not have."""
    text = (ROOT / name).read_text("utf-8")
    return re.sub(r"!?\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


class Examples(griffe.Extension):
    """Reads the section `Example:` of a docstring as code, as griffe does with `Examples:` alone."""

    def on_object(self, *, obj, **_):
        """Rename the section."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
