import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.engines import SAMPLING_PARAMETERS
from lllms_core.errors import InvalidRequest
from lllms_core.parameters import PARAMETERS, Generation, check
from lllms_core.types import Sampling


def test_the_table_covers_every_sampling_parameter():
    """Every field of `Sampling` can be asked for, and its default is in range."""
    assert PARAMETERS.keys() - {"max_tokens", "stop"} == SAMPLING_PARAMETERS
    for name in SAMPLING_PARAMETERS - {"seed"}:
        assert check(name, getattr(Sampling(), name)) == getattr(Sampling(), name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0), ("temperature", 2), ("top_k", 0), ("top_p", 0), ("top_p", 1), ("min_p", 0),
        ("frequency_penalty", -2), ("presence_penalty", 2.0), ("seed", 0), ("seed", -1), ("seed", -(2**63)),
        ("max_tokens", 1), ("repeat_penalty", 0.01),
    ],
)
def test_the_ends_of_a_range_belong_to_it(name, value):
    """A value at the limit is taken, and 0 is a value."""
    checked = check(name, value)
    assert checked == value
    assert isinstance(checked, int if PARAMETERS[name].type == "integer" else float)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("temperature", 2.1, "decimal_above_max_value"),
        ("temperature", math.nan, "decimal_below_min_value"),
        ("temperature", -math.inf, "decimal_below_min_value"),
        ("temperature", 10**400, "decimal_above_max_value"),
        ("temperature", "1", "invalid_type"),
        ("temperature", True, "invalid_type"),
        ("temperature", None, "invalid_type"),
        ("top_k", -1, "integer_below_min_value"),
        ("top_k", 2**31, "integer_above_max_value"),
        ("top_k", 1.0, "invalid_type"),
        ("repeat_penalty", 0, "decimal_below_min_value"),
        ("seed", 2**63, "integer_above_max_value"),
        ("max_tokens", 0, "integer_below_min_value"),
        ("stop", ["a"] * 5, "array_above_max_length"),
        ("stop", ["a", ""], "string_below_min_length"),
        ("stop", ["a", 1], "invalid_type"),
        ("stop", {"a": "b"}, "invalid_type"),
        ("stop", 3, "invalid_type"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name, value, code):
    """A wrong value is an `InvalidRequest` with the parameter's name and OpenAI's code."""
    with pytest.raises(InvalidRequest) as caught:
        check(name, value)
    assert (caught.value.param, caught.value.code) == (name, code)
    assert f"'{name}'" in caught.value.message


def test_messages_say_the_limit_and_the_value():
    """A message is worded as OpenAI words it."""
    with pytest.raises(InvalidRequest) as caught:
        check("temperature", 3)
    expected = "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead."
    assert str(caught.value) == expected


@pytest.mark.parametrize(("given", "expected"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), ((), ())])
def test_stop_is_a_string_or_up_to_four(given, expected):
    """One stop string and a list of them come out as the same kind of value."""
    assert check("stop", given) == expected


@given(name=st.sampled_from(sorted(PARAMETERS)), value=st.none() | st.integers() | st.floats() | st.text())
def test_a_checked_value_is_checked_again_unchanged(name, value):
    """`check` either refuses or returns what it would itself accept."""
    try:
        checked = check(name, value)
    except InvalidRequest:
        return
    assert check(name, checked) == checked


def test_generation_overrides_only_what_is_given():
    """A model's defaults stand on the core's, a request's values on both."""
    model = Generation().override({"temperature": 0, "max_tokens": 5, "stop": "x"})
    request = model.override({"top_k": 1, "stop": []})
    assert request == Generation(Sampling(temperature=0.0, top_k=1), max_tokens=5, stop=())


def test_generation_refuses_unknown_names():
    """A name that is no parameter is not passed over."""
    with pytest.raises(KeyError):
        Generation().override({"temprature": 1})
