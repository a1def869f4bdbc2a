import sys
from pathlib import Path

# The hub on loopback, and the waits of the core's tests.
sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
