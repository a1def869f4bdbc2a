import pytest
from engines_for_tests import ScriptedEngine

from lllms_core.engines import room
from lllms_core.engines.room import fits_here, lack_of_memory
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


def test_what_this_machine_has_no_room_for_is_told_with_what_would_fit(monkeypatch):
    """A model above the machine's memory is refused with the options that make it fit, or a word that none does."""
    monkeypatch.setattr(room, "usable_memory", lambda: 1000)
    assert lack_of_memory(Memory(weights=600, kv=400), ["never asked"]) is None
    assert fits_here(Memory(weights=2000, offloaded=True))
    large = Memory(weights=600, kv=300, overhead=101)
    assert not fits_here(large)
    assert str(lack_of_memory(large, ["options.slots = 1", "options.context_length = 9"])).endswith(
        "may use 1.0 kB of memory here; it would fit with options.slots = 1, or with options.context_length = 9: set"
        " that",
    )
    assert "no smaller context makes it fit: choose a smaller model" in str(lack_of_memory(large))
    assert list(ScriptedEngine().smaller(ModelSpec("m", None), fits_here)) == []


def test_what_is_mapped_is_shared_unless_it_is_copied():
    """The sum counts every byte once; instances share what is mapped and not copied, and a GPU's memory is apart."""
    memory = Memory(weights=100, kv=20, compute=3, overhead=4, mapped=True, copied=60, device=1000)
    assert (memory.main, memory.total, memory.shared) == (127, 1127, 40)
    assert Memory(weights=100, copied=60).shared == 0
