from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import attrs
import pytest
from attrs import field, frozen

from lllms_core.values.structure import Bytes, Range, structure
from lllms_core.values.violations import StructureError, dotted


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@frozen
class Inner:
    size: int = 1


@frozen
class Everything:
    whole: int = 0
    real: float = 0.0
    text: str = ""
    flag: bool = False
    place: Path = Path()
    kind: Literal["a", 1] = "a"
    colour: Colour = Colour.RED
    threads: int | Literal["auto"] = "auto"
    number: int | float = 0
    maybe: int | None = None
    words: tuple[str, ...] = ()
    counts: list[int] = field(factory=list)
    inner: Inner = field(factory=Inner)
    inners: tuple[Inner, ...] = ()
    maybe_inner: Inner | None = None
    table: Mapping[str, int] = field(factory=dict)
    anything: object = None
    port: Annotated[int, Range(0, 10)] = 0
    share: Annotated[float, Range(0)] = 0.0
    maximum: Annotated[int, Bytes()] = 1


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("whole", 3, 3), ("real", 3, 3.0), ("text", "", ""), ("flag", False, False), ("place", "/x", Path("/x")),
        ("place", "~/x", Path.home() / "x"), ("kind", 1, 1), ("colour", "blue", Colour.BLUE),
        ("threads", "auto", "auto"), ("threads", 4, 4), ("number", 1, 1), ("number", 1.0, 1.0),
        ("maybe", None, None), ("maybe", 0, 0),
        ("words", ["a"], ("a",)), ("counts", (1, 2), [1, 2]), ("inner", {"size": 2}, Inner(2)),
        ("inners", [{}, {"size": 2}], (Inner(), Inner(2))), ("maybe_inner", {"size": 3}, Inner(3)),
        ("table", {"a": 1}, {"a": 1}), ("anything", [{"a": 1}], [{"a": 1}]), ("port", 10, 10), ("share", 1, 1.0),
        ("maximum", 5, 5), ("maximum", "10MiB", 10 * 2**20), ("maximum", "1.5 kB", 1500), ("maximum", "2g", 2 * 10**9),
    ],
)
def test_a_value_of_the_right_type_is_taken(key, given, expected):
    """Valid values arrive in the declared type; a value of a union keeps the type of its own member."""
    value = getattr(structure({key: given}, Everything), key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "given", "fault"),
    [
        ("whole", "3", "x.whole: expected an integer, got '3'"),
        ("whole", True, "x.whole: expected an integer, got True"),
        ("whole", 3.0, "x.whole: expected an integer, got 3.0"),
        ("whole", None, "x.whole: expected an integer, got None"),
        ("real", "3", "x.real: expected a number, got '3'"),
        ("real", float("nan"), "x.real: expected a number, got nan"),
        ("real", float("inf"), "x.real: expected a number, got inf"),
        ("text", 3, "x.text: expected a string, got 3"),
        ("flag", 1, "x.flag: expected true or false, got 1"),
        ("place", "", "x.place: expected a path, got ''"),
        ("kind", True, "x.kind: expected 'a' or 1, got True"),
        ("colour", "green", "x.colour: expected 'red' or 'blue', got 'green'"),
        ("threads", "many", "x.threads: expected an integer or 'auto', got 'many'"),
        ("maybe", "x", "x.maybe: expected an integer, got 'x'"),
        ("words", "abc", "x.words: expected a list, got 'abc'"),
        ("words", ["a", 1], "x.words[1]: expected a string, got 1"),
        ("counts", {"a": 1}, "x.counts: expected a list, got {'a': 1}"),
        ("inner", [1], "x.inner: expected a table, got [1]"),
        ("inner", {"sise": 1}, "x.inner.sise: unknown key (did you mean 'size'?)"),
        ("inners", [{}, {"size": "x"}], "x.inners[1].size: expected an integer, got 'x'"),
        ("maybe_inner", {"size": "x"}, "x.maybe_inner.size: expected an integer, got 'x'"),
        ("table", {"a": "b"}, "x.table.a: expected an integer, got 'b'"),
        ("table", [1], "x.table: expected a table, got [1]"),
        ("port", 11, "x.port: expected 0 to 10, got 11"),
        ("port", "1", "x.port: expected an integer, got '1'"),
        ("share", -0.5, "x.share: expected at least 0, got -0.5"),
        ("maximum", 0, "x.maximum: expected at least 1, got 0"),
        ("maximum", "ten", "x.maximum: expected a size like 1048576 or \"10MiB\", got 'ten'"),
        ("maximum", 1.5, "x.maximum: expected an integer, got 1.5"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_path(key, given, fault):
    """Nothing is coerced: the fault gives the place, the expected type, and the value."""
    with pytest.raises(StructureError) as caught:
        structure({key: given}, Everything, ("x",))
    assert str(caught.value) == fault


def test_every_fault_is_reported():
    """Wrong types, unknown and missing keys of one table are reported together."""

    @frozen
    class Needs:
        engine: str
        count: int = 0

    with pytest.raises(StructureError) as caught:
        structure({"count": "x", "cuont": 1, "other": 2}, Needs, ("models", "a.b"))
    assert set(map(str, caught.value.violations)) == {
        'models."a.b".engine: missing; expected a string',
        "models.\"a.b\".count: expected an integer, got 'x'",
        "models.\"a.b\".cuont: unknown key (did you mean 'count'?)",
        'models."a.b".other: unknown key (known: count, engine)',
    }


def test_the_validators_of_a_class_are_asked():
    """An engine's Options may check themselves with the validators of attrs."""

    @frozen
    class Checked:
        slots: int = field(default=1, validator=attrs.validators.ge(1))

    with pytest.raises(StructureError, match=r"^options: 'slots' must be >= 1: 0$"):
        structure({"slots": 0}, Checked, ("options",))


def test_paths_are_written_as_toml_writes_them():
    """A key that is not a bare key is quoted, so that a path is unambiguous."""
    assert dotted(("models", "llama3.2", "aliases", 0)) == 'models."llama3.2".aliases[0]'
