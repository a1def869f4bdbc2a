"""How values become JSON."""

import json
from math import inf, nan

from hypothesis import given
from hypothesis import strategies as st

from lllms_core.apis.writing import dumps, event
from lllms_core.builtin.openai.logprobs import ChatLogprobs, TextLogprobs
from lllms_core.types import TokenScore

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)


def refuse(constant: str) -> None:
    raise AssertionError(constant)


def strictly(text: bytes) -> object:
    """Read JSON by the standard, without NaN and Infinity."""
    return json.loads(text, parse_constant=refuse)


@given(VALUES)
def test_whatever_is_written_is_json(value: object) -> None:
    """No NaN or Infinity is ever written; all other values are unchanged."""
    read = strictly(dumps(value))
    assert strictly(event(value)[len("data: "):]) == read
    text = json.dumps(value)
    if not any(name in text for name in ("NaN", "Infinity")):
        assert read == json.loads(text)


def test_numbers_that_json_lacks_become_null() -> None:
    """Values beside a number that cannot be written are kept."""
    assert strictly(dumps({"a": [nan, 1.5, inf], "b": (-inf, {"c": nan})})) == {
        "a": [None, 1.5, None], "b": [None, {"c": None}],
    }


def test_impossible_tokens_have_a_number() -> None:
    """A probability of 0, whose logarithm is not a JSON number, is written as -9999 in both forms."""
    scores = [TokenScore(b"a", -inf, ((b"b", -0.5), (b"c", -inf)))]
    chat, text = ChatLogprobs().write(scores), TextLogprobs().write(scores)
    [one] = chat["content"]
    assert one["logprob"] == text["token_logprobs"][0] == -9999.0
    assert [other["logprob"] for other in one["top_logprobs"]] == [-0.5, -9999.0]
    assert text["top_logprobs"] == [{"a": -9999.0, "b": -0.5, "c": -9999.0}]
