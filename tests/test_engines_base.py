import pytest
from engines_for_tests import ScriptedEngine

from lllms_core.errors import ModelLoadFailed
from lllms_core.types import Memory, ModelSpec


def test_estimate_counts_the_file(tmp_path):
    """An engine without an estimate of its own counts the bytes of the model's file; a missing file is named."""
    file = tmp_path / "model.bin"
    file.write_bytes(bytes(1234))
    assert ScriptedEngine().estimate(ModelSpec("m", None, file)) == Memory(weights=1234)
    assert ScriptedEngine().estimate(ModelSpec("m", None)).total == 0
    file.unlink()
    with pytest.raises(ModelLoadFailed, match=r"model\.bin"):
        ScriptedEngine().estimate(ModelSpec("m", None, file))
