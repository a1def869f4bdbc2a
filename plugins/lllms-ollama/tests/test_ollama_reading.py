"""What Ollama's clients send, as the core's requests: the same as from OpenAI's shape, or a refusal with its place."""

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from lllms_ollama.jobs import read_chat, read_generate
from lllms_ollama.members import NAMED
from lllms_ollama.messages import read_messages
from lllms_ollama.names import hub_source, pulled_name
from lllms_ollama.pulling import read_pull

from lllms_core.apis.messages import read_messages as read_openai
from lllms_core.config import parse_config
from lllms_core.errors import InvalidRequest, ModelUnknown, RequestError, UnsupportedParameter
from lllms_core.host import Host
from lllms_core.types import ChatRequest, Media, Message, TextRequest

HOST = Host(parse_config({"models": {
    "mock": {"engine": "mock"}, "big:8b": {"engine": "mock"}, "old:latest": {"engine": "mock", "aliases": ["x/y"]},
}}))
HI = [{"role": "user", "content": "Hi"}]

TEXT = st.text(max_size=8)
VALUES = st.none() | st.integers() | TEXT | st.lists(TEXT)
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "ü", "c"]), VALUES, max_size=3)


@st.composite
def turns(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """A conversation, as (role, what was said); the results of each call follow in any order."""
    found: list[tuple[str, Any]] = [("system", draw(TEXT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        found.append(("user", draw(TEXT)))
        names = draw(st.lists(st.sampled_from(["add", "look"]), max_size=2, unique=True))
        calls = [(name, draw(ARGUMENTS)) for name in names]
        found.append(("assistant", (draw(TEXT), draw(st.none() | st.text(min_size=1, max_size=4)), calls)))
        found += [("tool", (index, names[index], draw(TEXT))) for index in draw(st.permutations(range(len(calls))))]
    found.append(("user", draw(TEXT)))
    return found


def as_ollama(said: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for role, what in said:
        if role == "assistant":
            text, thoughts, calls = what
            made = [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]
            messages.append({"role": role, "content": text, "thinking": thoughts, "tool_calls": made or None})
        elif role == "tool":
            messages.append({"role": role, "content": what[2], "tool_name": what[1]})
        else:
            messages.append({"role": role, "content": what})
    return messages


def as_openai(said: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    count, last = 0, 0
    for role, what in said:
        if role == "assistant":
            text, thoughts, calls = what
            last = count
            made = [
                {"id": f"call_{count + index}", "function": {
                    "name": name, "arguments": json.dumps(arguments, ensure_ascii=False),
                }} for index, (name, arguments) in enumerate(calls)
            ]
            count += len(calls)
            messages.append({"role": role, "content": text, "reasoning_content": thoughts, "tool_calls": made})
        elif role == "tool":
            messages.append({"role": role, "content": what[2], "tool_call_id": f"call_{last + what[0]}"})
        else:
            messages.append({"role": role, "content": what})
    return messages


@settings(max_examples=60, deadline=None)
@given(said=turns(), limit=st.none() | st.integers(1, 99), think=st.none() | st.booleans() | st.just("low"))
def test_both_shapes_of_a_conversation_are_one_request(
    said: list[tuple[str, Any]], limit: int | None, think: object,
) -> None:
    """A conversation in Ollama's shape and the same one in OpenAI's make equal requests, results in any order."""
    tools = [{"type": "function", "function": {"name": name}} for name in ("add", "look")]
    body = {
        "model": "mock:latest", "messages": as_ollama(said), "tools": tools, "think": think,
        "options": {"num_predict": limit, "temperature": 0, "top_k": None},
    }
    job = read_chat(HOST, {name: value for name, value in body.items() if value is not None})
    made = HOST.request("mock", messages=read_openai(as_openai(said)), parameters={
        "tools": tools, "max_tokens": limit, "temperature": 0, "reasoning_effort":
        None if think is None else {True: "on", False: "none"}.get(think, think),  # type: ignore[call-overload]  # or a word
    })
    assert job.request is not None
    assert isinstance(job.request.request, ChatRequest)
    assert evolve(job.request.request, id="") == evolve(made, id="")


def chat(**members: object) -> ChatRequest:
    job = read_chat(HOST, {"model": "mock", "messages": HI, **members})
    assert job.request is not None
    assert isinstance(job.request.request, ChatRequest)
    return job.request.request


def generate(**members: object) -> ChatRequest | TextRequest:
    job = read_generate(HOST, {"model": "mock", "prompt": "Hi", **members})
    assert job.request is not None
    assert isinstance(job.request.request, ChatRequest | TextRequest)
    return job.request.request


def test_options_without_effect_are_named() -> None:
    """Options about the instance or without a counterpart are named; nulls and Ollama's "unset" are nothing."""
    options = {**dict.fromkeys(NAMED, 7), "temperature": 0.5, "seed": -1, "num_predict": -2, "top_p": None}
    request = chat(options=options, truncate=True, shift=False)
    assert {*request.unused} == {*(f"options.{name}" for name in NAMED), "truncate", "shift"}
    assert request.sampling.temperature == 0.5
    assert request.sampling.seed is None
    assert request.max_tokens is not None
    assert request.max_tokens > 10**9
    assert generate(context=[1, 2]).unused == ("context",)


@pytest.mark.parametrize(("members", "param"), [
    ({"options": {"nonsense": 1}}, "nonsense"), ({"options": {"tools": []}}, "options.tools"),
    ({"options": {"temperature": "hot"}}, "temperature"), ({"options": {"repeat_penalty": 1.5}}, "repeat_penalty"),
    ({"options": 7}, "options"), ({"n": 3}, "n"), ({"nonsense": 1}, "nonsense"), ({"format": "xml"}, "format"),
    ({"think": "much"}, "think"), ({"keep_alive": "long"}, "keep_alive"), ({"stream": "yes"}, "stream"),
    ({"messages": "Hi"}, "messages"), ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content"),
    ({"messages": [*HI, {"role": "tool", "content": "4"}]}, "messages[1]"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
     "messages[0].tool_calls[0].function.arguments"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    ({"messages": [{"role": "user", "content": "", "images": ["?"]}]}, "messages[0].images[0]"),
    ({"messages": [{"role": "user", "content": "", "images": ["iVBORw0KGgo="]}]}, "messages[0].images[0]"),
])
def test_what_cannot_be_honoured_is_refused_by_name(members: dict[str, object], param: str) -> None:
    """What asks for another text, and what is malformed, is refused with its place."""
    with pytest.raises(RequestError) as caught:
        chat(**members)
    assert caught.value.param == param


@pytest.mark.parametrize(("members", "param"), [
    ({"template": "{{ .Prompt }}"}, "template"), ({"raw": True, "system": "Be brief."}, "system"),
    ({"suffix": "end", "images": ["iVBORw0KGgo="]}, "images"), ({"raw": True, "think": True}, "think"),
    ({"suffix": "end"}, "suffix"), ({"prompt": 7}, "prompt"), ({"tools": []}, "tools"),
])
def test_prompts_are_refused_by_name(members: dict[str, object], param: str) -> None:
    """A template, and parts that the prompt's form has no place for, are refused; so is what the engine lacks."""
    with pytest.raises(RequestError) as caught:
        generate(**members)
    assert caught.value.param == param


def test_a_prompt_is_a_chat_or_a_text() -> None:
    """A prompt is put into the model's template, with its system message; a raw one is continued as it is."""
    made = generate(system="Be brief.", think=False, template="")
    assert isinstance(made, ChatRequest)
    assert made.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    raw = generate(raw=True, think=False, logprobs=True, top_logprobs=2)
    assert isinstance(raw, TextRequest)
    assert (raw.prompt, raw.top_logprobs) == ("Hi", 2)


def test_requests_without_a_prompt_load_or_unload() -> None:
    """Empty messages, or no prompt, load the model, for as long as `keep_alive` says."""
    for job in (
        read_chat(HOST, {"model": "mock", "messages": [], "keep_alive": "5m"}),
        read_chat(HOST, {"model": "mock", "keep_alive": "5m"}),
        read_generate(HOST, {"model": "mock", "prompt": "", "keep_alive": 300}),
    ):
        assert (job.request, job.ttl, job.stream) == (None, 300, True)
    assert read_generate(HOST, {"model": "mock", "keep_alive": 0}).ttl == 0
    assert read_generate(HOST, {"model": "mock", "keep_alive": -1}).ttl == -1
    assert chat(keep_alive="0s").ttl == 0


@pytest.mark.parametrize(("name", "model"), [
    ("mock", "mock"), ("mock:latest", "mock"), ("big:8b", "big:8b"), ("old", "old:latest"),
    ("old:latest", "old:latest"), ("x/y", "old:latest"), ("x/y:latest", "old:latest"), ("hf.co/x/y", "old:latest"),
])
def test_a_model_is_found_with_and_without_latest(name: str, model: str) -> None:
    """`:latest` may be added or left out, as with Ollama; a repository of the hub has several spellings."""
    job = read_chat(HOST, {"model": name, "messages": HI})
    assert (job.card.name, job.name) == (model, name)


def test_patterns_come_last() -> None:
    """A model's own name, with or without `:latest`, comes before another model's alias that is a pattern."""
    host = Host(parse_config({"models": {"all": {"engine": "mock", "aliases": ["*"]}, "mock": {"engine": "mock"}}}))
    for name, model in (("mock:latest", "mock"), ("mock", "mock"), ("gpt-5", "all"), ("a/b", "all")):
        assert read_chat(host, {"model": name, "messages": HI}).card.name == model
    assert read_pull(host, {"model": "mock:latest"}).source is None
    assert read_pull(host, {"model": "gpt-oss:20b"}).name == "all"
    assert read_pull(host, {"model": "hf.co/a/b"}).source == "hf:a/b"


@pytest.mark.parametrize("name", ["big", "big:latest", "mock:8b", "", "hf.co/a/b"])
def test_other_names_are_unknown(name: str) -> None:
    """A tag other than `latest` cannot be left out."""
    with pytest.raises(ModelUnknown, match="there are: mock"):
        read_chat(HOST, {"model": name, "messages": HI})


@pytest.mark.parametrize(("name", "source", "served"), [
    ("hf.co/org/repo:Q4_K_M", "hf:org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
    ("https://huggingface.co/org/repo", "hf:org/repo", "huggingface.co/org/repo"),
    ("org/repo-GGUF:latest", "hf:org/repo-GGUF:latest", "org/repo-GGUF"), ("hf:o/r:Q8_0", "hf:o/r:Q8_0", "hf:o/r:Q8_0"),
])
def test_names_to_pull_are_those_of_the_hub(name: str, source: str, served: str) -> None:
    """A repository of the hub may be written with or without its host; it is served by the client's name."""
    assert (hub_source(name), pulled_name(name)) == (source, served)


@pytest.mark.parametrize("name", ["llama3.2", "llama3.2:1b", "a/b/c", "evil.example/a/b", "../a/b", "hf.co/a/b:../c"])
def test_other_names_cannot_be_pulled(name: str) -> None:
    """Names of Ollama's own library, and anything that is no repository, are refused with the form that works."""
    with pytest.raises(InvalidRequest, match=r"hf\.co/USER/REPO:QUANT"):
        hub_source(name)


def test_images_say_their_kind() -> None:
    """Images in base64 become data URLs, whose type their first bytes tell; the text comes first."""
    [message] = read_messages([{"role": "user", "content": "What?", "images": ["iVBORw0KGgo=", "/9j/4AAQ"]}])
    assert message.parts == (
        "What?", Media("image", "data:image/png;base64,iVBORw0KGgo=", param="messages[0].images[0]"),
        Media("image", "data:image/jpeg;base64,/9j/4AAQ", param="messages[0].images[1]"),
    )


def test_results_find_their_calls() -> None:
    """By their id, by their tool's name, else in order; each call gets one result."""
    calls = [{"id": "x", "function": {"name": "f"}}, {"function": {"name": "g", "arguments": {}}}]
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    results = ({"tool_name": "g", "content": "1"}, {"tool_call_id": "x", "content": "2"})
    messages = read_messages([asked, *({"role": "tool", **one} for one in results)])
    assert [call.id for call in messages[0].tool_calls] == ["x", "call_1"]
    assert [message.tool_call_id for message in messages[1:]] == ["call_1", "x"]
    messages = read_messages([asked, *({"role": "tool", "content": one} for one in "12")])
    assert [message.tool_call_id for message in messages[1:]] == ["x", "call_1"]
    with pytest.raises(InvalidRequest, match="no open call"):
        read_messages([asked, *({"role": "tool", "content": one} for one in "123")])


def test_an_engine_without_schemas_says_so() -> None:
    """`format` takes "json" or a schema, and asks for what the core's parameter asks for."""
    made = chat(format={"type": "object"})
    assert made.constraint is not None
    assert (made.constraint.kind, json.loads(made.constraint.text)) == ("json_schema", {"type": "object"})
    json_mode = chat(format="json")
    assert json_mode.constraint is not None
    assert json_mode.constraint.kind == "json_object"
    assert chat(format="").constraint is None
    with pytest.raises(UnsupportedParameter):
        generate(suffix="end")
