import sys
from pathlib import Path

# The maker of comparisons is a module.
sys.path.insert(0, str(Path(__file__).parent))
