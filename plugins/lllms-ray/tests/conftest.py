import sys
from pathlib import Path

# The engines and waits of the core's tests, and the clusters of these.
sys.path[:0] = [str(Path(__file__).parents[3] / "tests"), str(Path(__file__).parent)]
