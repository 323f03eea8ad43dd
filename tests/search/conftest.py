import sys
from pathlib import Path

# The encoder and index of these tests, and the makers of tiny models shared with the tests of encoders, are modules.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "encoders")]
