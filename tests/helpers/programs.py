"""Where a test's own process finds the library and these helpers."""

import os
from pathlib import Path

TESTS = Path(__file__).parents[1]
PYTHONPATH = os.pathsep.join([str(TESTS), str(TESTS.parent)])


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that a test starts with `python -c` or `python -m`."""
    return os.environ | {"PYTHONPATH": PYTHONPATH} | more
