"""Values written as text: each means what its key's type says."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.values.from_text import from_here, value_from_text
from lllms_core.values.structure import Bytes, fits

LETTERS = st.characters(codec="ascii", exclude_categories=["C"])


@frozen
class Part:
    path: Path
    scale: float = 1.0


@frozen
class Whole:
    parts: tuple[Part, ...] = field(factory=tuple)


@pytest.mark.parametrize(("text", "kind", "value"), [
    ("4", int, 4), ("4", float, 4), ("1e6", float, 1e6), ("0.5", float | None, 0.5), ("4", int | Literal["auto"], 4),
    ("auto", int | Literal["auto"], "auto"), ("q8_0", Literal["f16", "q8_0"], "q8_0"), ("1", Literal[1, 2], 1),
    ("true", bool, True), ("off", bool, False), ("No", bool, False), ("auto", bool | Literal["auto"], "auto"),
    ("on", Literal["auto", "on", "off"], "on"), ("5", str, "5"), ("true", str | None, "true"), ("", str, ""),
    ("./x.jinja", str | Path | None, "./x.jinja"), ("/x", Path, "/x"), ("10GB", Annotated[int, Bytes()], "10GB"),
    ("10", Annotated[int, Bytes()], 10), ("a, b", tuple[str, ...], ["a", "b"]),
    ('["a", "b"]', tuple[str, ...], ["a", "b"]),
    ('[{path = "a", scale = 2}]', tuple[Part, ...], [{"path": "a", "scale": 2}]),
    ('{a = 1}', Mapping[str, int], {"a": 1}), ("x", int, "x"), ("1.5", int, "1.5"), ("a = 1", int, "a = 1"),
])
def test_a_text_means_what_its_type_says(text, kind, value):
    """Numbers, words, switches, paths, lists and tables are read by the type; what fits none stays text."""
    assert value_from_text(text, kind) == value


@given(value=st.one_of(
    st.tuples(st.just(int), st.integers()), st.tuples(st.just(bool), st.booleans()), st.tuples(st.just(str), st.text()),
    st.tuples(st.just(float), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just(tuple[str, ...]), st.lists(st.text(alphabet=LETTERS))),
))
def test_every_value_can_be_written(value):
    """Each value of a type has a text that means it, and a text never becomes what its type does not take."""
    kind, wanted = value
    text = wanted if isinstance(wanted, str) else repr(wanted) if isinstance(wanted, float) else json.dumps(wanted)
    assert value_from_text(text, kind) == wanted
    assert fits(value_from_text(text, kind), kind)


@given(text=st.text())
def test_no_text_is_a_surprise(text):
    """Whatever is written for an integer is one, or the text itself."""
    value = value_from_text(text, int)
    assert value == text or type(value) is int


def test_paths_start_in_the_working_directory(tmp_path, monkeypatch):
    """Relative paths, also within tables, become absolute; a text that may be a path does if there is such a file."""
    monkeypatch.chdir(tmp_path)
    here = os.fspath(tmp_path / "a")
    assert from_here("a", Path) == here
    assert from_here("a", str | Path | None) == "a"
    (tmp_path / "a").touch()
    assert from_here("a", str | Path | None) == here
    assert from_here("a", str) == "a"
    assert from_here([{"path": "a", "scale": 1}], tuple[Part, ...]) == [{"path": here, "scale": 1}]
    assert from_here({"parts": [{"path": "a"}]}, Whole) == {"parts": [{"path": here}]}
    assert from_here("x\0y" * 2000, str | Path) == "x\0y" * 2000
    assert from_here(4, int) == 4
