import sys
from pathlib import Path

# The networks that llama.cpp's plugin is tested with: both engines have to give the same vectors.
sys.path.insert(0, str(Path(__file__).parents[2] / "lllms-llamacpp" / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
