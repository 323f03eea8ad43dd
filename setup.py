"""The packages of the wheel, found on disk; everything else about it is in pyproject.toml.

The folder `cli` is installed as `ibkd_cli`: a top-level package called `cli` would clash with others.
"""

from setuptools import find_packages, setup

COMMANDS = ["ibkd_cli" + name.removeprefix("cli") for name in find_packages(include=["cli", "cli.*"])]

setup(
    package_dir={"ibkd_cli": "cli"},
    packages=[*find_packages(include=["ibkd_retrieval", "ibkd_retrieval.*"]), *COMMANDS],
)
