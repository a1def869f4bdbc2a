import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.cli.figures import memory_text, size_text
from lllms_core.types import Memory


@pytest.mark.parametrize(("count", "text"), [
    (0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (2**20, "1.00 MiB"), (15 * 2**20, "15.0 MiB"),
    (150 * 2**20, "150 MiB"), (5 * 2**30, "5.00 GiB"), (2**50, "1024 TiB"),
])
def test_sizes_have_three_digits(count, text):
    """Bytes are shown in the unit that leaves at most three digits before the point."""
    assert size_text(count) == text


@given(st.integers(0, 2**49))
def test_sizes_are_near(count):
    """What is shown is within 1 % of the count."""
    number, unit = size_text(count).split()
    factor = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    assert float(number) * factor == pytest.approx(count, rel=0.01)


def test_memory_is_one_line():
    """An estimate shows its sum, its parts, and what instances share."""
    assert memory_text(Memory(2**30, 2**29, 2**28, mapped=True)) == (
        "1.75 GiB: weights 1.00 GiB (mapped: instances share them), KV cache 512 MiB, buffers 256 MiB"
    )
    assert "mapped" not in memory_text(Memory(1, 2, 3))
