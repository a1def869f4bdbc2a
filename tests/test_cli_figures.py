import pytest

from lllms_core.cli.figures import count_text, memory_text
from lllms_core.types import Memory


@pytest.mark.parametrize(("count", "text"), [
    (0, "0"), (999, "999"), (1000, "1k"), (1_419_680, "1.42M"), (8_030_261_312, "8.03B"), (671e9, "671B"),
])
def test_counts_have_three_digits(count, text):
    """Numbers of parameters are abbreviated as in the names of models."""
    assert count_text(int(count)) == text


def test_memory_is_one_line():
    """An estimate shows its sum, its parts, and the memory that instances share."""
    assert memory_text(Memory(10**9, 5 * 10**8, 10**8, mapped=True)) == (
        "1.6 GB: weights 1.0 GB (mapped: instances share them), KV cache 500.0 MB, buffers 100.0 MB"
    )
    assert "mapped" not in memory_text(Memory(1, 2, 3))


def test_memory_that_only_a_long_text_takes_is_told() -> None:
    """An estimate for the longest text says how much of it shorter texts do not need."""
    text = memory_text(Memory(10**6, 0, 4 * 10**9, longest=3 * 10**9))
    assert text.endswith("buffers 4.0 GB (3.0 GB of them once a text fills the context)")
    assert "context" not in memory_text(Memory(1, 2, 3))


def test_memory_apart_from_the_model_is_told() -> None:
    """An estimate says which weights each instance has for itself, what the engine takes, and what is on GPUs."""
    text = memory_text(Memory(10**9, 0, 0, overhead=10**8, mapped=True, copied=6 * 10**8, device=2 * 10**9))
    assert text.startswith("3.1 GB: weights 1.0 GB (mapped: instances share them, each has its own 600.0 MB of them)")
    assert text.endswith("buffers 0 bytes, libraries and vocabulary 100.0 MB, in the memory of GPUs 2.0 GB")
