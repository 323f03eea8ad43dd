"""Memory that is kept when freed, and given back when asked."""

import subprocess
import sys

import pytest

CODE = """
import numpy as np
from ibkd_retrieval.encoders.device import give_freed_memory_back, keep_freed_memory
from ibkd_retrieval.indexing.building.memory import resident_bytes
keep_freed_memory()
blocks = [np.ones(1 << 17) for _ in range(100)]
del blocks
kept = resident_bytes()
give_freed_memory_back()
raise SystemExit(0 if kept - resident_bytes() > 80_000_000 else f"{kept} {resident_bytes()}")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_kept_is_given_back():
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=60)
