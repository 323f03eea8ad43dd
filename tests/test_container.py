"""The image's recipe: what it copies is there, what it asks for exists, and it runs without rights."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def said(word: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in LINES if line.startswith(f"{word} ")]


def test_the_recipe_copies_what_is_there_and_the_context_holds_it():
    copied = {name for line in said("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept


def test_the_extras_exist():
    (extras,) = (match[1].split(",") for line in said("RUN") if (match := re.search(r'"\.\[(.+)\]"', line)))
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(extras) <= set(declared)


def test_it_serves_as_a_user_without_rights_and_asks_an_address_that_there_is():
    pytest.importorskip("fastapi_offline")
    from ibkd_retrieval.serving.app import _PATHS

    assert said("USER")[-1] not in ("0", "root")
    (health,) = said("HEALTHCHECK")
    asked = re.search(r"127\.0\.0\.1:(\d+)(/\w+)", health)
    assert asked[1] == said("EXPOSE")[0]
    assert asked[2] in _PATHS
    assert json.loads(said("ENTRYPOINT")[0]) == ["ibkd"]
    assert json.loads(said("CMD")[-1])[0] == "serve"
