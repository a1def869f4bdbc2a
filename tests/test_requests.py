"""From a client's parameters to a request: the verdicts of the table, per engine."""

from types import SimpleNamespace
from typing import Any

import pytest
from attrs import fields
from engines_for_tests import RawEngine

from lllms_core.config import parse_config
from lllms_core.engines import Engine
from lllms_core.errors import InvalidRequest, UnsupportedParameter
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.parameters import ROUTES, TABLE, Route, verdicts
from lllms_core.parameters.structured import NAMES
from lllms_core.plugins import Plugins
from lllms_core.types import ChatRequest, Media, Message, Request, Sampling, TextRequest

# From OpenAI's specification of POST /chat/completions and POST /completions.
CHAT_PARAMETERS = [
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "modalities", "model", "moderation", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort",
    "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
]
TEXT_PARAMETERS = [
    "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "model", "n", "presence_penalty",
    "prompt", "seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p", "user",
]
EMBEDDING_PARAMETERS = ["dimensions", "encoding_format", "input", "model", "user"]
SPECIFIED = {"chat": CHAT_PARAMETERS, "text": TEXT_PARAMETERS, "embeddings": EMBEDDING_PARAMETERS}

API_ONLY = {"model", "messages", "prompt", "input", "stream", "stream_options", "timings", "echo", "encoding_format"}
"""Never passed to a request as parameters: the API reads them."""


OTHER_NAMES = {line.name for line in TABLE if line.means}
MERGED = {"logprobs", "functions", "function_call", *NAMES, *OTHER_NAMES}
"""Aliases of other parameters."""

DONE = {"honoured", "emulated"}
ENGINES = {name for one in Plugins.discover().engines.values() for name in one.object.parameters}
"""All parameters that any installed engine declares."""


class PlainEngine(RawEngine):
    """Declares nothing."""

    name = "plain"


class WarmEngine(RawEngine):
    """Declares a few parameters."""

    name = "warm"
    parameters = frozenset({"temperature", "top_k"})
    media = frozenset({"image"})


@hookimpl
def lllms_engines() -> list[Engine]:
    return [PlainEngine(), WarmEngine()]


@pytest.fixture(scope="module")
def host() -> Host:
    """A host that is never started; it only builds requests."""
    extra = {"tests": SimpleNamespace(lllms_engines=lllms_engines)}
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra=extra)
    return Host(parse_config({"models": {name: {"engine": name} for name in ("plain", "warm")}}), plugins)


def ask(host: Host, route: str, model: str = "plain", /, **parameters: object) -> Request:
    if route == "chat":
        return host.request(model, messages=[Message("user", "Hi")], parameters=parameters)
    return host.request(model, prompt="Hi", parameters=parameters)


@pytest.mark.parametrize("route", SPECIFIED)
def test_the_table_is_openais_and_the_extensions(route: Route) -> None:
    """Each parameter of the specification is in the table, and every other one is marked as an extension."""
    assert {name for name, line in ROUTES[route].items() if not line.extension} == set(SPECIFIED[route])


def test_other_names_have_the_verdict_of_what_they_mean() -> None:
    """An alias points to a line of the same routes that is not an alias, and has its verdict for any engine."""
    for names in ROUTES.values():
        for line in (one for one in names.values() if one.means):
            acting = names[line.means]
            assert not acting.means
            assert (line.otherwise, line.fixed) == (acting.otherwise, acting.fixed)
            assert line.verdict({acting.name}) == acting.verdict({acting.name})


@pytest.mark.parametrize("route", ["chat", "text"])
def test_null_means_left_out(host: Host, route: Route) -> None:
    """Null is accepted for every parameter and changes nothing, supported or not."""
    changed = ask(host, route, **dict.fromkeys(ROUTES[route].keys() - {"model"}, None))
    assert changed.sampling == ask(host, route).sampling
    assert changed.max_tokens is None


@pytest.mark.parametrize("route", ["chat", "text"])
def test_values_that_ask_for_nothing_are_taken(host: Host, route: Route) -> None:
    """A refused parameter may be sent with the values that have no effect."""
    for name, line in ROUTES[route].items():
        if line.otherwise == "refused":
            for value in line.neutral:
                ask(host, route, **{name: value})


REFUSED: list[tuple[str, object]] = [
    ("tools", [{"type": "function", "function": {"name": "f"}}]), ("tool_choice", "required"),
    ("response_format", {"type": "json_object"}), ("modalities", ["text", "audio"]), ("reasoning_effort", "low"),
    ("audio", {}), ("moderation", {"model": "x"}), ("web_search_options", {}), ("temperature", 0),
    ("logit_bias", {"1": 2}), ("min_tokens", 5), ("stop_token_ids", [1]), ("banned_strings", ["x"]),
    ("samplers", ["top_k"]), ("chat_template", "{{ messages }}"), ("repeat_last_n", 128), ("best_of", 2),
    ("echo", True), ("repetition_penalty", 1.1), ("think", True), ("guided_regex", "a+"), ("format", "json"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_nobody_does_is_refused_by_name(host: Host, name: str, value: object) -> None:
    """A known parameter that asks for something more is a fault that names it, the engine and the way out."""
    with pytest.raises(UnsupportedParameter) as caught:
        ask(host, "chat", **{name: value})
    assert (name, "unsupported_parameter") == (caught.value.param, caught.value.code)
    assert "engine 'plain' of model 'plain': leave it out" in caught.value.message


def test_what_the_engine_declares_reaches_the_request(host: Host) -> None:
    """An engine that declares a parameter gets its value, 0 included; another engine's declaration has no influence."""
    assert ask(host, "chat", "warm", temperature=0, top_k=0).sampling.temperature == 0
    with pytest.raises(UnsupportedParameter):
        ask(host, "chat", "warm", top_p=0.5)


@pytest.mark.parametrize(
    ("route", "name"), [("chat", "foo"), ("chat", "suffix"), ("text", "tools"), ("text", "max_completion_tokens")],
)
def test_what_the_specification_does_not_know_is_refused(host: Host, route: str, name: str) -> None:
    """An unknown name is a fault, even if another route has it."""
    with pytest.raises(InvalidRequest) as caught:
        ask(host, route, **{name: 1})
    assert (name, "unknown_parameter") == (caught.value.param, caught.value.code)


def test_what_the_api_reads_is_no_parameter_of_a_request(host: Host) -> None:
    """Nothing is dropped silently: a name that means nothing to a request is a fault."""
    with pytest.raises(InvalidRequest, match="says nothing about an answer"):
        ask(host, "chat", stream=True)


def test_media_are_for_engines_that_take_them(host: Host) -> None:
    """A message with an image is refused with its place, unless the engine declares that it takes images."""
    image = Media("image", "https://example.org/cat.png", param="messages[0].content[1].type")
    messages = [Message("user", "See", parts=("See", image))]
    with pytest.raises(UnsupportedParameter, match="is an image, which engine 'plain'") as caught:
        host.request("plain", messages=messages)
    assert caught.value.param == "messages[0].content[1].type"
    assert host.request("warm", messages=messages).messages == tuple(messages)


@pytest.mark.parametrize("route", ["chat", "text"])
def test_every_parameter_has_a_meaning(route: Route) -> None:
    """Every parameter that is emulated, or may be honoured, has a field in the request, or is read by the API."""
    request = ChatRequest if route == "chat" else TextRequest
    read = {one.name for kind in (request, Sampling) for one in fields(kind)} | API_ONLY | MERGED
    done = {name for verdict in (set(), ENGINES) for name, what in verdicts(verdict)[route].items() if what in DONE}
    assert done <= read


def test_both_names_of_the_limit_are_taken(host: Host) -> None:
    """`max_completion_tokens` is `max_tokens`; both may be given if they agree."""
    assert ask(host, "chat", max_completion_tokens=5).max_tokens == 5
    assert ask(host, "chat", max_completion_tokens=5, max_tokens=5).max_tokens == 5
    for wrong in ({"max_tokens": 1, "max_completion_tokens": 2}, {"max_completion_tokens": 0}):
        with pytest.raises(InvalidRequest) as caught:
            ask(host, "chat", **wrong)
        assert caught.value.param == "max_completion_tokens"


def test_a_text_may_ask_for_no_token(host: Host) -> None:
    """`max_tokens` 0 is valid for /completions, as OpenAI specifies it, but not for /chat/completions."""
    assert ask(host, "text", max_tokens=0).max_tokens == 0
    with pytest.raises(InvalidRequest):
        ask(host, "chat", max_tokens=0)


def test_an_engine_cannot_declare_what_does_not_exist() -> None:
    """A misspelt declaration is an error where the engine is defined."""
    with pytest.raises(TypeError, match="no parameters named temprature"):
        type("Misspelt", (RawEngine,), {"parameters": frozenset({"temprature"})})


def test_verdicts_are_complete() -> None:
    """Every parameter of every route has one verdict."""
    table: dict[Any, Any] = verdicts({"temperature"})
    assert {route: set(names) for route, names in table.items()} == {r: set(names) for r, names in ROUTES.items()}
    assert (table["chat"]["temperature"], table["text"]["top_p"]) == ("honoured", "refused")


@pytest.mark.parametrize(("name", "value"), [("continue_final_message", True), ("add_generation_prompt", False)])
def test_to_continue_an_answer_is_done_anyway(host: Host, name: str, value: bool) -> None:
    """The flags by which other servers continue an answer that comes last ask for nothing there, and nowhere else."""
    said = [Message("user", "Hi"), Message("assistant", "Hello")]
    assert host.request("plain", messages=said, parameters={name: value}).unused == ()
    with pytest.raises(UnsupportedParameter, match=name):
        host.request("plain", messages=said[:1], parameters={name: value})
