from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.builtin.downloaders.file import FileDownloader
from lllms_core.downloads import scheme, store_name
from lllms_core.errors import InvalidSource
from lllms_core.store.spans import Spans

NASTY = st.text(st.sampled_from("./\\~ %:a\x00\n-é🦙"), max_size=12) | st.text(max_size=300)
SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


@given(st.lists(NASTY, min_size=1, max_size=6))
def test_store_names_stay_inside(parts: list[str]) -> None:
    """Whatever a source calls its files, their store names lead down, to nothing hidden, and fit every file system."""
    name = store_name(*parts)
    path = PurePosixPath(name)
    assert not path.is_absolute()
    assert str(path) == name
    assert all(part not in {"", ".", ".."} and not part.startswith((".", "~", "-")) for part in path.parts)
    assert all(len(part) <= 200 and part.isascii() and part.isprintable() and "\\" not in part for part in path.parts)
    assert ".lllms-" not in name
    assert Path("/store/models", name).resolve().is_relative_to("/store/models")


@given(st.lists(NASTY, min_size=1, max_size=4), st.lists(NASTY, min_size=1, max_size=4))
def test_store_names_differ_as_their_parts_do(one: list[str], other: list[str]) -> None:
    """Two files never get the same name."""
    assert (store_name(*one) == store_name(*other)) == (one == other)


def test_store_names_read_like_what_they_stand_for() -> None:
    """Ordinary names stay as they are, and extensions are always kept: engines rely on them."""
    assert store_name("huggingface.co", "org", "repo", "x-Q4_K_M.gguf") == "huggingface.co/org/repo/x-Q4_K_M.gguf"
    assert store_name("h", "x" * 300 + "-00001-of-00005.gguf").endswith("-00001-of-00005.gguf")
    assert store_name("h", *["folder"] * 100, "x.gguf").endswith(".gguf")
    with pytest.raises(ValueError, match="at least one part"):
        store_name()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://example.org/x", "https"), ("HF:org/repo", "hf"), ("file:/x", "file"), ("x.gguf", ""), ("/a:b", ""),
        ("~/x", ""), ("C:\\models\\x.gguf", ""), ("s3+alt:x", "s3+alt"), ("", ""), ("dir/a:b", ""),
    ],
)
def test_scheme(source: str, expected: str) -> None:
    """The text before the first colon is the scheme; a path has none, not even one that begins with a drive."""
    assert scheme(source) == expected


@given(SPANS, st.integers(0, 40))
def test_spans_are_the_set_of_their_bytes(spans: list[tuple[int, int]], size: int) -> None:
    """Adding spans in any order gives the union; what is missing is the rest; the prefix ends at the first gap."""
    added = Spans()
    for start, stop in spans:
        added = added.add(start, stop)
    expected = {byte for start, stop in spans for byte in range(start, stop)}
    assert {byte for start, stop in added.spans for byte in range(start, stop)} == expected
    assert added == Spans.of(spans)
    assert added.count == len(expected)
    missing = {byte for start, stop in added.missing(size) for byte in range(start, stop)}
    assert missing == set(range(size)) - expected
    assert added.prefix == min(set(range(42)) - expected)
    assert Spans.of(spans, size).count == len(expected & set(range(size)))


def test_spans_of_unknown_size_have_no_end() -> None:
    """While the size is unknown, everything after the prefix is missing."""
    [(start, stop)] = Spans(((0, 5), (9, 10))).missing(None)
    assert start == 5
    assert stop > 10**18


def test_file_urls(tmp_path: Path) -> None:
    """A `file:` source is the file itself, in its place."""
    file = tmp_path / "a model.gguf"
    file.write_bytes(b"x")
    [found] = FileDownloader().resolve(f"file://{tmp_path}/a%20model.gguf").files
    assert (found.path, found.size) == (file, 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("file://elsewhere/x.gguf", "on another machine, 'elsewhere'"),
        ("file:x.gguf", "does not start at / or ~"),
        ("file:///nowhere/x.gguf", "there is no file /nowhere/x.gguf"),
    ],
)
def test_bad_file_urls(source: str, message: str) -> None:
    """A `file:` source that leads nowhere is refused by name."""
    with pytest.raises(InvalidSource, match=message):
        FileDownloader().resolve(source)
