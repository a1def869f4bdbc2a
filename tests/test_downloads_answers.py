"""Reading addresses and servers' answers, without any network."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.builtin.downloaders.headers import if_range, read_extent, read_retry_after
from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.errors import InvalidSource
from lllms_core.gguf import part_names


@pytest.mark.parametrize(
    "source", ["https://", "https:///x", "https://h", "https://h/", "http://h:x/y", "https://h/a b"],
)
def test_addresses_that_are_none(source: str) -> None:
    """An address without a host or a file is refused by name."""
    with pytest.raises(InvalidSource):
        HttpDownloader().resolve(source)


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_address_is_refused_or_safe(path: str, query: str) -> None:
    """Any address is refused, or its files have names inside the store."""
    try:
        model = HttpDownloader().resolve(f"https://example.org/{path}?{query}")
    except InvalidSource:
        return
    for file in model.files:
        assert Path("/store", file.name).resolve().is_relative_to("/store/example.org")


def test_different_addresses_have_different_names() -> None:
    """Host, port, folders, name and query all count; the extension is kept, for engines."""
    urls = [
        "https://h/x.gguf", "https://h:8443/x.gguf", "https://h/a/x.gguf", "https://h/a%2Fx.gguf", "https://h//x.gguf",
        "https://h/x.gguf?v=1", "https://h/x.gguf?v=2", "https://h/X.gguf", "https://g/x.gguf", "https://h/../x.gguf",
    ]
    names = [HttpDownloader().resolve(url).files[0].name for url in urls]
    assert len(set(names)) == len(urls)
    assert all(name.lower().endswith(".gguf") for name in names)


@pytest.mark.parametrize(
    ("name", "count"), [("a-00002-of-00003.gguf", 3), ("a-00004-of-00003.gguf", 1), ("a-00000-of-00003.gguf", 1),
                        ("a-00001-of-00001.gguf", 1), ("a-1-of-3.gguf", 1), ("a-00001-of-00003.bin", 1), ("x.gguf", 1)],
)
def test_part_names(name: str, count: int) -> None:
    """The parts of a split file are derived from its name; a name that only looks similar is one file."""
    assert len(part_names(name)) == count
    assert name in part_names(name)


def test_reading_retry_after() -> None:
    """Seconds or a date; nonsense gives None."""
    now = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
    assert read_retry_after("120", now) == 120
    assert read_retry_after("Sun, 22 Nov 2026 12:01:00 GMT", now) == 60
    assert read_retry_after("Sun, 22 Nov 2026 11:00:00 GMT", now) == 0
    assert [read_retry_after(value, now) for value in (None, "", "soon", "-1", "1e9")] == [None] * 5


@given(st.text(max_size=30))
def test_any_content_range_is_read(text: str) -> None:
    """A Content-Range gives a valid extent or None, and never an error."""
    extent = read_extent(text) or read_extent(f"bytes {text}")
    assert extent is None or 0 <= extent.start < extent.stop <= extent.size


def test_if_range_needs_a_strong_version() -> None:
    """Only a strong tag or a date may be sent as a condition."""
    assert if_range('"a"') == {"If-Range": '"a"'}
    assert if_range('W/"a"') == if_range(None) == {}
