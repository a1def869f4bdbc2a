import sys
from pathlib import Path

# The test networks of llama.cpp's plugin: both engines must give the same vectors.
sys.path.insert(0, str(Path(__file__).parents[2] / "lllms-llamacpp" / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
