"""The parameters of other servers: which are named, which mean the same as ours, and which contradict them."""

import json
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from attrs import evolve
from engines_for_tests import RawEngine
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.config import parse_config
from lllms_core.engines import Engine
from lllms_core.errors import InvalidRequest, RequestError, UnsupportedParameter
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.parameters import ROUTES, TABLE, Route, UnknownNames, check_all
from lllms_core.parameters.synonyms import NEVER, Duration
from lllms_core.plugins import Plugins
from lllms_core.types import ChatRequest, Message


class PlainEngine(RawEngine):
    """Declares nothing."""

    name = "plain"


class AbleEngine(RawEngine):
    """Declares parameters that have aliases."""

    name = "able"
    parameters = frozenset({"typical_p", "repeat_penalty", "mirostat", "top_k", "logit_bias", "reasoning_effort"})
    constraints = frozenset({"json_object", "json_schema", "gbnf", "lark", "regex"})


@hookimpl
def lllms_engines() -> list[Engine]:
    return [PlainEngine(), AbleEngine()]


@pytest.fixture(scope="module")
def host() -> Host:
    """A host that is never started; it only builds requests."""
    extra = {"tests": SimpleNamespace(lllms_engines=lllms_engines)}
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra=extra)
    return Host(parse_config({"models": {name: {"engine": name} for name in ("plain", "able")}}), plugins)


def ask(host: Host, model: str, **parameters: object) -> ChatRequest:
    return host.request(model, messages=[Message("user", "Hi")], parameters=parameters)


NAMED: list[tuple[str, object]] = [
    ("user", "me"), ("user", 7), ("metadata", {"a": 1, "b": None}), ("safety_identifier", "x"), ("store", True),
    ("service_tier", "flex"), ("verbosity", "low"), ("prediction", {"type": "content", "content": "x"}),
    ("prompt_cache_retention", "24h"), ("provider", {"order": ["a"]}), ("route", "fallback"), ("models", ["a", "b"]),
    ("transforms", ["middle-out"]), ("usage", {"include": True}), ("plugins", [{"id": "web"}]), ("session_id", "s"),
    ("chat_id", "c"), ("id", "i"), ("features", {"web_search": False}), ("files", [{"id": "f"}]),
    ("drop_params", True), ("caching", True), ("id_slot", 0), ("timings_per_token", True), ("return_progress", True),
    ("num_ctx", 8192), ("num_batch", 256), ("num_thread", 4), ("num_gpu", 1), ("use_mmap", False),
    ("context_length", 4096), ("draft_model", "m"),
]


@pytest.mark.parametrize(("name", "value"), NAMED)
def test_what_says_nothing_about_the_text_is_named(host: Host, name: str, value: object) -> None:
    """It does not change the request, whatever its value, and the request names it."""
    request = ask(host, "plain", **{name: value})
    assert request.unused == (name,)
    assert evolve(request, id="", unused=()) == evolve(ask(host, "plain"), id="")


def test_values_that_ask_for_nothing_are_not_named(host: Host) -> None:
    """Values that ask for nothing new, and nulls, are not reported."""
    parameters = {"store": False, "service_tier": "auto", "verbosity": None, "num_ctx": None, "min_tokens": 0,
                  "frequency_penalty": 0, "metadata": {}}
    assert ask(host, "plain", **parameters).unused == ()


def test_unknown_names_are_named_where_the_configuration_says_so() -> None:
    """With `unknown_parameters = "name"` only unknown names pass; what asks for another text is still refused."""
    models = {"m": {"engine": "mock"}}
    host = Host(parse_config({"server": {"unknown_parameters": "name"}, "models": models}))
    assert ask(host, "m", colour="red", top_k=5, verbosity="low", mood=None).unused == ("colour", "verbosity")
    assert host.check("embeddings", "m", {"input_type": "query"}).unused == ("input_type",)
    with pytest.raises(UnsupportedParameter):
        ask(host, "m", min_tokens=5)


SAME: list[tuple[str, Any, str, Any]] = [
    ("max_new_tokens", 5, "max_tokens", 5), ("n_predict", 5, "max_tokens", 5), ("num_predict", 5, "max_tokens", 5),
    ("max_completion_tokens", 5, "max_tokens", 5), ("num_predict", -2, "max_tokens", -1),
    ("max_tokens", 2**53 - 1, "max_tokens", 2**53 - 1),
    ("typical", 0.5, "typical_p", 0.5), ("repetition_penalty", 1.2, "repeat_penalty", 1.2),
    ("rep_pen", 1.2, "repeat_penalty", 1.2), ("mirostat_mode", 2, "mirostat", 2), ("top_k", -1, "top_k", 0),
    ("keep_alive", "5m", "ttl", 300), ("keep_alive", 60, "ttl", 60), ("keep_alive", "1h30m", "ttl", 5400),
    ("keep_alive", -1, "ttl", -1), ("keep_alive", "-1m", "ttl", -1), ("keep_alive", "0", "ttl", 0),
    ("think", True, "reasoning_effort", "on"), ("think", False, "reasoning_effort", "none"),
    ("think", "high", "reasoning_effort", "high"), ("enable_thinking", False, "reasoning_effort", "none"),
    ("thinking", {"type": "enabled"}, "reasoning_effort", "on"),
    ("thinking", {"type": "disabled"}, "reasoning_effort", "none"),
    ("thinking", {"type": "adaptive"}, "reasoning_effort", None),
    ("reasoning", {"effort": "low"}, "reasoning_effort", "low"),
    ("reasoning", {"enabled": False}, "reasoning_effort", "none"), ("reasoning", {}, "reasoning_effort", None),
    ("reasoning_budget", 0, "reasoning_effort", "none"), ("reasoning_budget", -1, "reasoning_effort", None),
    ("logit_bias", [], "logit_bias", {}), ("stop", [str(one) for one in range(64)], "stop", [*map(str, range(64))]),
]


@pytest.mark.parametrize(("name", "value", "means", "canonical"), SAME)
def test_other_names_and_words_mean_the_same(
    host: Host, name: str, value: object, means: str, canonical: object,
) -> None:
    """A request with another server's names and values equals the request with ours."""
    request = ask(host, "able", **{name: value})
    assert evolve(request, id="") == evolve(ask(host, "able", **{means: canonical}), id="")


JSON_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
AS_SCHEMA = ("json_schema", json.dumps(JSON_SCHEMA))
CONSTRAINTS: list[tuple[str, Any, tuple[str, str] | None]] = [
    ("guided_json", JSON_SCHEMA, AS_SCHEMA), ("guided_json", json.dumps(JSON_SCHEMA), AS_SCHEMA),
    ("guided_regex", "a+", ("regex", "a+")), ("guided_choice", ["a", 'b"\n'], ("lark", 'start: "a" | "b\\"\\n"\n')),
    ("guided_grammar", 'root ::= "a"', ("gbnf", 'root ::= "a"')),
    ("structured_outputs", {"json": JSON_SCHEMA}, AS_SCHEMA),
    ("structured_outputs", {"regex": "a", "choice": None}, ("regex", "a")), ("structured_outputs", {}, None),
    ("structured_outputs", {"json_object": True}, ("json_object", "")), ("format", JSON_SCHEMA, AS_SCHEMA),
    ("structured_outputs", {"choice": ["a"]}, ("lark", 'start: "a"\n')), ("format", "json", ("json_object", "")),
    ("format", "", None), ("response_format", {"type": "json_object", "schema": JSON_SCHEMA}, AS_SCHEMA),
    ("response_format", {"type": "json_schema", "schema": JSON_SCHEMA}, AS_SCHEMA),
]


@pytest.mark.parametrize(("name", "value", "expected"), CONSTRAINTS)
def test_other_servers_forms_are_constraints(host: Host, name: str, value: object, expected: object) -> None:
    """The forms of vLLM, Ollama and llama.cpp mean our constraints, which record the name that was used."""
    constraint = ask(host, "able", **{name: value}).constraint
    assert (None if constraint is None else (constraint.kind, constraint.text)) == expected
    assert constraint is None or constraint.param.startswith(name)


DIFFERENT: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 5, "n_predict": 6}, "n_predict"),
    ({"num_predict": -1, "max_completion_tokens": 9}, "max_completion_tokens"),
    ({"repeat_penalty": 1.1, "rep_pen": 1.2}, "rep_pen"), ({"ttl": 5, "keep_alive": "5m"}, "keep_alive"),
    ({"think": False, "reasoning_effort": "low"}, "reasoning_effort"),
    ({"thinking": {"type": "enabled"}, "enable_thinking": False}, "enable_thinking"),
    ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning_effort"),
]


@pytest.mark.parametrize(("parameters", "param"), DIFFERENT)
def test_two_names_with_different_values_are_refused(host: Host, parameters: dict[str, Any], param: str) -> None:
    """The refusal names both; the same value twice is no contradiction."""
    with pytest.raises(InvalidRequest, match="ask for the same, with different values") as caught:
        ask(host, "able", **parameters)
    assert caught.value.param == param
    assert all(f"'{name}'" in caught.value.message for name in parameters)


@pytest.mark.parametrize("parameters", [
    {"max_tokens": 5, "n_predict": 5}, {"think": True, "reasoning_effort": "high"}, {"ttl": 300, "keep_alive": "5m"},
    {"reasoning": {"effort": "high"}, "enable_thinking": True}, {"guided_json": JSON_SCHEMA, "format": JSON_SCHEMA},
    {"format": JSON_SCHEMA, "response_format": {"type": "json_schema", "json_schema": {
        "name": "n", "schema": JSON_SCHEMA, "strict": True}}},
])
def test_two_names_that_agree_are_taken(host: Host, parameters: dict[str, Any]) -> None:
    """Asking for a thing in two ways is accepted; of two efforts the specific one counts, of two schemas the strict."""
    request = ask(host, "able", **parameters)
    assert request.reasoning_effort in {None, "high"}
    assert request.constraint is None or request.constraint.strict is ("response_format" in parameters)


UNREAD: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, ("thinking.budget_tokens",)),
    ({"reasoning": {"effort": "low", "exclude": False, "max_tokens": 9}}, ("reasoning.max_tokens",)),
    ({"reasoning": {"effort": "low", "summary": {}, "exclude": []}}, ("reasoning.exclude", "reasoning.summary")),
    ({"structured_outputs": {"regex": "a", "disable_fallback": True}}, ("structured_outputs.disable_fallback",)),
]


@pytest.mark.parametrize(("parameters", "unused"), UNREAD)
def test_members_that_nobody_reads_are_named(host: Host, parameters: dict[str, Any], unused: tuple[str, ...]) -> None:
    """A part of a value that has no effect is named by its path, and the rest of the value counts."""
    assert ask(host, "able", **parameters).unused == unused


@pytest.mark.parametrize(("parameters", "param"), [
    ({"thinking": {"type": "maybe"}}, "thinking.type"), ({"thinking": {"depth": 1}}, "thinking.depth"),
    ({"reasoning": {"enabled": False, "effort": "low"}}, "reasoning.effort"), ({"think": "much"}, "think"),
    ({"think": 1}, "think"), ({"reasoning_budget": 5}, "reasoning_budget"), ({"keep_alive": "soon"}, "keep_alive"),
    ({"keep_alive": "5 parsecs"}, "keep_alive"), ({"keep_alive": []}, "keep_alive"), ({"n_predict": 0}, "n_predict"),
    ({"n_predict": -3}, "n_predict"), ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"guided_json": "{"}, "guided_json"), ({"guided_json": "[]"}, "guided_json"),
    ({"guided_choice": []}, "guided_choice"), ({"guided_choice": "a"}, "guided_choice"),
    ({"guided_choice": [""]}, "guided_choice"), ({"guided_json": "[" * 1000}, "guided_json.[0][0]"),
    ({"structured_outputs": {"json": JSON_SCHEMA, "regex": "a"}}, "structured_outputs.regex"),
    ({"structured_outputs": {"json_object": True, "choice": ["a"]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    ({"format": "xml"}, "format"), ({"format": 1}, "format"),
    ({"response_format": {"type": "json_object", "schema": 1}}, "response_format.schema"),
    ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
])
def test_a_wrong_value_is_named_as_it_was_sent(host: Host, parameters: dict[str, Any], param: str) -> None:
    """A fault in another server's form is reported by that server's name, with the place in it."""
    with pytest.raises(RequestError) as caught:
        ask(host, "able", **parameters)
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)


NAMES = st.sampled_from(sorted({name for names in ROUTES.values() for name in names} | {"colour", "", "a.b"}))
SCALARS = st.none() | st.booleans() | st.integers(-3, 130) | st.floats() | st.sampled_from(["", "auto", "5m", "none"])
MEMBERS = st.sampled_from(["type", "effort", "enabled", "json", "regex", "choice", "summary", "budget_tokens", "x"])
LISTS = SCALARS | st.lists(SCALARS, max_size=3)
VALUES = LISTS | st.dictionaries(MEMBERS, LISTS | st.dictionaries(MEMBERS, SCALARS, max_size=1), max_size=3)


@given(
    route=st.sampled_from(sorted(ROUTES)), values=st.dictionaries(NAMES, VALUES, max_size=4),
    honoured=st.frozensets(st.sampled_from([line.name for line in TABLE if not line.fixed and not line.means])),
    unknown_names=st.sampled_from(get_args(UnknownNames)),
)
def test_nothing_is_dropped_in_silence(
    route: Route, values: dict[str, Any], honoured: frozenset[str], unknown_names: UnknownNames,
) -> None:
    """Everything sent is refused by its name, acts under the name that it means, is named, or asks for nothing."""
    fault = None
    try:
        checked = check_all(route, values, honoured, "engine 'e'", unknown_names)
    except RequestError as error:
        fault = error
    if fault is not None:
        assert any((fault.param or "?").startswith(name) for name in values)
        return
    assert {name.partition(".")[0] for name in checked.unused if name not in values} <= values.keys()
    for name, value in values.items():
        line = ROUTES[route].get(name)
        if line is None:
            assert (name in checked.unused) is (value is not None)
        elif value is not None:
            proper, acting = line.check(value), ROUTES[route][line.means or name]
            acts = acting.name in checked.values
            assert (proper is None) or acts or name in checked.unused or acting.asks_for_nothing(proper)
            assert not acts or acting.verdict(honoured) in {"honoured", "emulated"}


UNITS = {"h": 3600, "m": 60, "s": 1}


@given(parts=st.lists(st.tuples(st.integers(0, 99), st.sampled_from(sorted(UNITS))), min_size=1, max_size=4))
def test_durations_are_the_sum_of_their_parts(parts: list[tuple[int, str]]) -> None:
    """A duration with units is the sum of its parts in seconds; a negative one never ends."""
    text = "".join(f"{number}{unit}" for number, unit in parts)
    seconds = sum(number * UNITS[unit] for number, unit in parts)
    assert Duration().check("ttl", text) == Duration().check("ttl", seconds) == seconds
    assert Duration().check("ttl", f"-{text}") == NEVER


def test_a_duration_of_very_many_digits_is_refused_at_once():
    """The time to refuse it does not grow with the square of its length: a megabyte takes no seconds."""
    with pytest.raises(InvalidRequest):
        Duration().check("ttl", "9" * 1_000_000)
