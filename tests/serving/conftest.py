import sys
from pathlib import Path

# The encoder and index of these tests are those of the tests of search; the client is a module.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "search")]
