import sys
from pathlib import Path

# The fakes are also imported by a subprocess, so they are a module and not fixtures.
sys.path.insert(0, str(Path(__file__).parent))
