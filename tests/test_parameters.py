import json
import math

import pytest
from attrs import fields
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.errors import InvalidRequest, RequestError
from lllms_core.parameters import ROUTES, TABLE, Generation, check
from lllms_core.types import Sampling


def test_the_table_covers_every_sampling_parameter():
    """Every field of `Sampling` can be requested, on both routes, and its default is in range."""
    for attribute in fields(Sampling):
        assert ROUTES["chat"][attribute.name] is ROUTES["text"][attribute.name]
        default = getattr(Sampling(), attribute.name)
        if default is not None:
            assert check(attribute.name, default) == default


def test_each_route_has_a_parameter_once():
    """No two lines of the table are about the same parameter of the same route."""
    assert sum(len(parameter.routes) for parameter in TABLE) == sum(len(names) for names in ROUTES.values())


def test_neutral_values_are_values():
    """A neutral value of a line is a valid value of the parameter, unchanged by its check."""
    for parameter in TABLE:
        for value in parameter.neutral:
            assert parameter.check(value) == value
            assert parameter.asks_for_nothing(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0), ("temperature", 2), ("top_k", 0), ("top_p", 0), ("top_p", 1), ("min_p", 0),
        ("frequency_penalty", -2), ("presence_penalty", 2.0), ("seed", 0), ("seed", -1), ("seed", -(2**63)),
        ("max_tokens", 1), ("repeat_penalty", 0.01),
    ],
)
def test_the_ends_of_a_range_belong_to_it(name, value):
    """A value at the limit is accepted, and 0 is a value."""
    checked = check(name, value)
    assert checked == value
    assert isinstance(checked, int if name in {"top_k", "seed", "max_tokens"} else float)


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
        ("top_k", -2, "integer_below_min_value"),
        ("top_k", 2**31, "integer_above_max_value"),
        ("top_k", 1.0, "invalid_type"),
        ("repeat_penalty", 0, "decimal_below_min_value"),
        ("seed", 2**63, "integer_above_max_value"),
        ("max_tokens", 0, "integer_below_min_value"),
        ("stop", ["a"] * 65, "array_above_max_length"),
        ("max_tokens", -3, "integer_below_min_value"),
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
    """Messages are worded as OpenAI words them."""
    with pytest.raises(InvalidRequest) as caught:
        check("temperature", 3)
    expected = "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead."
    assert str(caught.value) == expected


@pytest.mark.parametrize(("given", "expected"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), ((), ())])
def test_stop_is_a_string_or_a_list(given, expected):
    """One stop string and a list of them become the same kind of value."""
    assert check("stop", given) == expected


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = SCALARS | st.lists(SCALARS, max_size=6) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=20)


@given(parameter=st.sampled_from(TABLE), value=VALUES)
def test_a_checked_value_is_checked_again_unchanged(parameter, value):
    """`check` either refuses, naming the parameter, or returns a value accepted for the parameter that it means."""
    try:
        checked = parameter.check(value)
    except RequestError as error:
        fault = error
    else:
        acting = ROUTES[parameter.routes[0]][parameter.means or parameter.name]
        assert checked is None or acting.check(checked) == checked
        return
    assert fault.param.startswith(parameter.name)


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("logit_bias", {"x": 1}, "logit_bias"), ("logit_bias", {"1": 101}, "logit_bias.1"),
        ("logit_bias", {"1": "1"}, "logit_bias.1"), ("logit_bias", [1], "logit_bias"),
        ("n", True, "n"), ("n", 129, "n"), ("tools", {}, "tools"),
        ("tool_choice", {"type": []}, "tool_choice.type"),
        (
            "tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": {}, "tools": []}},
            "tool_choice.allowed_tools.mode",
        ),
        ("tool_choice", ["auto"], "tool_choice"),
    ],
)
def test_every_kind_of_value_is_checked(name, value, param):
    """A value of the wrong kind, or outside OpenAI's specification, is refused with its path."""
    with pytest.raises(InvalidRequest) as caught:
        ROUTES["chat"][name].check(value)
    assert caught.value.param == param


def test_biases_go_by_token():
    """A bias is for the token with that id."""
    assert ROUTES["chat"]["logit_bias"].check({"10": 5, "9": -100}) == {9: -100.0, 10: 5.0}


def test_schemas_are_json():
    """Each parameter's schema can be served."""
    for parameter in TABLE:
        assert json.loads(json.dumps(parameter.kind.schema)).keys() & {"type", "anyOf"}


def test_generation_overrides_only_what_is_given():
    """A model's defaults override the core's, and a request's values override both."""
    model = Generation().override({"temperature": 0, "max_tokens": 5, "stop": "x"})
    request = model.override({"top_k": 1, "stop": []})
    assert request == Generation(Sampling(temperature=0.0, top_k=1), max_tokens=5, stop=())


def test_generation_refuses_unknown_names():
    """A name that is not a parameter is not ignored."""
    with pytest.raises(KeyError):
        Generation().override({"temprature": 1})
