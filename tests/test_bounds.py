"""Limits on the size and depth of JSON; pure."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.apis.bodies import LARGE, read_object
from lllms_core.builtin.openai.request_body import read_chat
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.bounds import (
    MOST_PARTS,
    MOST_STRINGS,
    MOST_VALUES,
    check_counts,
    find_too_deep,
    find_too_deep_in_lark,
    is_too_deep,
)

KEYS = st.text(max_size=3) | st.sampled_from(['"', "\\", '\\"', "[", "]}", "{,:"])
VALUES = st.recursive(
    st.none() | st.integers() | KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=30,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def nested(levels: int, between: str = '{"a":', end: str = "1", after: str = "}") -> str:
    return between * levels + end + after * levels


@given(VALUES, st.integers(1, 6))
def test_values_and_texts_are_measured_alike(value: Any, levels: int) -> None:
    """A value is too deep exactly if it has more levels than allowed, and so is its text, whatever its strings hold."""
    wanted = depth(value) > levels
    assert is_too_deep(value, levels) is wanted
    for ascii_only in (False, True):
        assert (find_too_deep(json.dumps(value, ensure_ascii=ascii_only), levels) is not None) is wanted


def test_values_of_python_are_measured() -> None:
    """Tuples and other mappings count as arrays and objects; a value that contains itself is infinitely deep."""
    class Loop(dict[str, object]):
        pass

    loop = Loop()
    loop["a"] = (loop,)
    assert is_too_deep(loop, 64)
    assert is_too_deep(((1,),), 1)
    assert not is_too_deep((1, b"x"), 1)


@pytest.mark.parametrize(
    ("text", "levels", "place"),
    [
        ('{"tools": [{"function": {"parameters": {"a": {}}}}]}', 5, "tools[0].function.parameters.a"),
        ('[1, [2], {"x": [3, [4]]}]', 3, "[2].x[1]"),
        ('{"a": {"b": 1}, "c": [[]]}', 2, "c[0]"),
        ('{"a": {"b"', 1, "a"), ('{"a": "\\"", "b": [[', 2, "b[0]"), ("[[[", 2, "[0][0]"),
        (f'{{"{"k" * 500}": [[]]}}', 2, f"{'k' * 40}[0]"),
        ("[] [[[", 2, None), ("]]] [[[", 2, None), ('"[[[', 2, None), ("", 1, None),
    ],
)
def test_the_place_is_found(text: str, levels: int, place: str | None) -> None:
    """The path leads to the first array or object that is too deep, even in a truncated text."""
    assert find_too_deep(text, levels) == place


def test_only_the_schemas_of_a_grammar_are_measured() -> None:
    """What follows `%json` is a value; the grammar's other brackets do not count, and need not even be balanced."""
    assert find_too_deep_in_lark("start: /[[]/ /[[]/ /[[]/ x\nx: %json " + nested(2), 2) is None
    assert find_too_deep_in_lark("x: %json {}\ny: %json " + nested(3), 2) == "a.a"
    assert find_too_deep_in_lark('x: %json {"a": "%json {", "b": [[[1]]]}', 2) == "b[0]"
    assert find_too_deep_in_lark("%json {" * 200_000, 64) is not None


def test_commas_and_brackets_of_texts_do_not_count() -> None:
    """A table of a million cells in one string is one value; that many items are refused, with what they are."""
    cells = json.dumps(["1,2,[{:\\\"" * (MOST_VALUES // 2)])
    check_counts(cells)
    with pytest.raises(InvalidRequest, match=f"the body has more than {MOST_VALUES:,} values"):
        check_counts("[" + "1," * (MOST_VALUES + 1) + "1]")
    check_counts(json.dumps(['"' * 1_000_000]))
    with pytest.raises(InvalidRequest, match=f"more than {MOST_STRINGS:,} strings"):
        check_counts("[" + '"",' * (MOST_STRINGS + 1) + "1]")
    with pytest.raises(InvalidRequest, match=f"'a': it has more than {MOST_PARTS:,} keys") as caught:
        check_counts("[" + "[]," * MOST_PARTS + "1]", "a")
    assert (caught.value.param, caught.value.code) == ("a", "too_many_values")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"model":' + nested(64) + "}", "model" + ".a" * 63),
        ('{"model":' + nested(5000, "["), "model" + "[0]" * 63), ("[" * 99_999, "[0]" * 63),
        ('{"tools":[' * 60_000, "tools[0]"), ('{"x":"\\u00e9","y":' + nested(400) + "}", "y" + ".a" * 63),
    ],
)
def test_a_deep_body_is_refused_by_its_place(body: str, param: str) -> None:
    """More than 64 levels are refused with the path, however many there are, even more than Python can parse."""
    with pytest.raises(InvalidRequest) as caught:
        read_chat(body.encode())
    assert caught.value.code == "nested_too_deeply"
    assert caught.value.param is not None
    assert caught.value.param.startswith(param[:150])
    assert len(caught.value.param) <= 200
    assert "server.max_json_depth" in caught.value.message


def test_as_deep_as_allowed_is_read() -> None:
    """64 levels are accepted, and more if the configuration allows them."""
    assert "x" in read_object(f'{{"x":{nested(63)}}}'.encode())
    assert "x" in read_object(f'{{"x":{nested(199)}}}'.encode(), 200)
    with pytest.raises(InvalidRequest):
        read_object(f'{{"x":{nested(64)}}}'.encode())


@pytest.mark.parametrize(
    "end", ["", '"\\ud800"', "NaN", "[1,]", "[1", '"\\ud83d\\ude00"', "1e5", "-0", str(10**400), "é"],
)
def test_large_bodies_are_read_as_strictly(end: str) -> None:
    """A body that is parsed in a thread gives the same values, or the same refusal, as a small one."""
    def read(size: int) -> object:
        text = f'{{"n": [1, -2.5, 3], "x": {end or "null"}, "pad": "{"x" * size}"}}'
        try:
            return {key: value for key, value in read_object(text.encode()).items() if key != "pad"}
        except InvalidRequest as error:
            return error.code

    assert read(LARGE) == read(1)
