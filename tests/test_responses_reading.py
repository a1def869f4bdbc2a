"""Requests for responses are read as those of chats are: the same conversation gives the same request."""

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.builtin.openai.request_body import read_chat
from lllms_core.builtin.openai.responses.input_items import Placed, kept_items, read_conversation, reference_of
from lllms_core.builtin.openai.responses.response_body import Creation, in_our_words, read_creation
from lllms_core.errors import ContextOverflow, InvalidRequest, RequestError, UnsupportedParameter
from lllms_core.host import Host
from lllms_core.parameters.bounds import LEVELS
from lllms_core.types import ChatRequest, Constraint, Message, ToolCall

pytest.importorskip("lllms_llamacpp")

TEXTS = st.text(max_size=8)
WORDS = st.text("abc", min_size=1, max_size=3)


def read(**members: object) -> Creation:
    return read_creation(json.dumps({"model": "tiny-chat", **members}).encode(), LEVELS)


def messages(**members: object) -> list[Message]:
    made = read(**members)
    return read_conversation(made.items, made.toolbox.names)


def built(host: Host, **members: object) -> ChatRequest:
    """The request as the route builds it."""
    made = read(**members)
    said = read_conversation(made.items, made.toolbox.names)
    if made.instructions is not None:
        said.insert(0, Message("system", made.instructions))
    try:
        return host.request(
            made.model, messages=said, parameters=made.parameters, constraint=made.constraint, unused=made.unused,
        )
    except RequestError as error:
        raise in_our_words(error) from None


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


# -- a random conversation, in both forms -----------------------------------------------------------------------------

def parts(text: list[str], kind: str) -> list[dict[str, str]]:
    return [{"type": kind, "text": one} for one in text]


@st.composite
def turns(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A turn of a conversation as items, and as messages of a chat."""
    role = draw(st.sampled_from(["user", "system", "developer", "assistant", "assistant"]))
    if role != "assistant":
        text = draw(st.lists(TEXTS, min_size=1, max_size=3))
        content: object = parts(text, "input_text") if draw(st.booleans()) or len(text) > 1 else text[0]
        kind = {"type": "message"} if draw(st.booleans()) else {}
        said = parts(text, "text") if len(text) > 1 else text[0]
        return [{**kind, "role": role, "content": content}], [{"role": role, "content": said}]
    thoughts, text = draw(st.text(max_size=5)), draw(TEXTS)
    calls = draw(st.lists(st.tuples(WORDS, st.dictionaries(WORDS, TEXTS, max_size=2)), max_size=2))
    items: list[dict[str, Any]] = []
    if draw(st.booleans()) or thoughts:
        content = [{"type": "reasoning_text", "text": thoughts}] if thoughts else None
        items.append({"type": "reasoning", "id": "rs_1", "summary": [], "content": content, "encrypted_content": None})
    items.append({
        "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    })
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thoughts:
        message["reasoning_content"] = thoughts
    results = []
    for number, (name, arguments) in enumerate(calls):
        call_id, given_ = f"call_{number}", json.dumps(arguments)
        items.append({"type": "function_call", "id": "fc_1", "call_id": call_id, "name": name, "arguments": given_,
                      "status": "completed"})
        message.setdefault("tool_calls", []).append(
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": given_}})
        results.append((call_id, draw(TEXTS)))
    for call_id, result in results:
        output: object = parts([result], "input_text") if draw(st.booleans()) else result
        items.append({"type": "function_call_output", "call_id": call_id, "output": output})
    return items, [message, *({"role": "tool", "tool_call_id": one, "content": result} for one, result in results)]


def joined(conversation: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]) -> list[Any]:
    """Whole turns, of which no two of the assistant follow each other."""
    fit: list[Any] = []
    for turn in conversation:
        if not fit or turn[1][0]["role"] != "assistant" or fit[-1][1][-1]["role"] != "assistant":
            fit.append(turn)
    return fit


@settings(max_examples=80, deadline=None)
@given(conversation=st.lists(turns(), min_size=1, max_size=6).map(joined), instructions=st.none() | TEXTS)
def test_items_and_messages_are_the_same_request(host: Host, conversation: Any, instructions: str | None) -> None:
    """A conversation as items, and as a chat's messages, gives the same request to an engine."""
    items = [item for turn in conversation for item in turn[0]]
    chat = [message for turn in conversation for message in turn[1]]
    if instructions is not None:
        chat.insert(0, {"role": "system", "content": instructions})
    wanted = read_chat(json.dumps({"model": "tiny-chat", "messages": chat}).encode())
    expected = host.request("tiny-chat", messages=wanted.messages or ())
    assert evolve(built(host, input=items, instructions=instructions), id=expected.id) == expected


@settings(max_examples=50, deadline=None)
@given(conversation=st.lists(turns(), min_size=1, max_size=6).map(joined))
def test_kept_items_are_read_the_same(conversation: Any) -> None:
    """Items as they are kept, with ids and parts, mean the same as those that were sent."""
    items = read(input=[item for turn in conversation for item in turn[0]]).items
    kept = [Placed(item, "") for item in kept_items(items, f"resp_{'0' * 48}")]
    assert read_conversation(kept, {}) == read_conversation(items, {})
    assert all(isinstance(one.item["id"], str) for one in kept)


# -- input ------------------------------------------------------------------------------------------------------------

def test_a_text_is_a_users_message() -> None:
    """`input` may be a string, even an empty one."""
    assert messages(input="Hi") == [Message("user", "Hi")]
    assert messages(input="") == [Message("user", "")]


def test_consecutive_items_of_the_assistant_are_one_message() -> None:
    """Thoughts, texts and calls until the next message or result belong together; empty thoughts are none."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    said = messages(input=[
        {"role": "user", "content": "Go"}, {"type": "reasoning", "summary": [], "content": None},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "One."}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, call, {**call, "call_id": "d"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "So."}]},
    ])
    calls = (ToolCall("c", "f", "{}"), ToolCall("d", "f", "{}"))
    assert said == [
        Message("user", "Go"), Message("assistant", "One.\nNo.", tool_calls=calls, reasoning="Hm."),
        Message("tool", "1", tool_call_id="c"), Message("assistant", "", reasoning="So."),
    ]


def test_media_keep_their_place() -> None:
    """Images, files and sounds are parts of a message, also of a result; a refusal by an engine names their place."""
    [said, result] = messages(input=[
        {"role": "user", "content": [
            {"type": "input_text", "text": "See"}, {"type": "input_image", "image_url": "data:x", "detail": "auto"},
            {"type": "input_file", "file_data": "data:y", "filename": "y"},
            {"type": "input_audio", "input_audio": {"data": "z", "format": "wav"}},
        ]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "data:w"}]},
    ])
    assert said.content == "See"
    assert [(one.kind, one.source, one.param) for one in said.parts[1:]] == [  # type: ignore[union-attr]
        ("image", "data:x", "input[0].content[1].type"), ("file", "data:y", "input[0].content[2].type"),
        ("audio", "z", "input[0].content[3].type"),
    ]
    assert result.parts[0].param == "input[1].output[0].type"  # type: ignore[union-attr]


def test_what_other_servers_did_is_left_out_and_named() -> None:
    """Items of tools that only OpenAI's servers run say nothing to a model here."""
    made = read(input=[{"role": "user", "content": "Hi"}, {"type": "web_search_call", "id": "ws_1"}])
    assert made.unused == ("input.web_search_call",)
    assert read_conversation(made.items, {}) == [Message("user", "Hi")]


def test_references_lead_to_responses() -> None:
    """An id that we gave an item contains its response's; others lead nowhere."""
    token = "0123456789abcdef" * 3
    assert reference_of({"id": f"msg_{token}_0"}) == reference_of({"id": f"fc_{token}_i12"}) == f"resp_{token}"
    assert [reference_of({"id": one}) for one in ("msg_1", f"msg_{token}", f"msg_{token}_x", token, "")] == [None] * 5
    assert read(input=[{"id": "msg_1"}]).items[0].item["type"] == "item_reference"


# -- tools ------------------------------------------------------------------------------------------------------------

def function(name: str, **more: object) -> dict[str, object]:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, **more}


def test_namespaces_are_flattened() -> None:
    """A function in a namespace keeps its name, unless another has it, too; past calls and choices name it as well."""
    tools = [
        function("send"), {"type": "namespace", "name": "mail", "description": "", "tools": [
            function("send"), function("read", strict=True)]},
    ]
    made = read(
        tools=tools, tool_choice={"type": "function", "namespace": "mail", "name": "send"}, input=[
            {"role": "user", "content": "Go"},
            {"type": "function_call", "call_id": "c", "namespace": "mail", "name": "send", "arguments": "{}"},
            {"type": "function_call", "call_id": "d", "name": "send", "arguments": "{}"},
        ],
    )
    names = [tool["function"]["name"] for tool in made.parameters["tools"]]  # type: ignore[attr-defined]
    assert names == ["send", "mail__send", "read"]
    assert made.parameters["tool_choice"] == {"type": "function", "function": {"name": "mail__send"}}
    [_, said] = read_conversation(made.items, made.toolbox.names)
    assert [call.name for call in said.tool_calls] == ["mail__send", "send"]
    assert made.toolbox.origins["mail__send"] == ("mail", "send")
    assert [tool["type"] for tool in made.echo["tools"]] == ["function", "namespace"]  # type: ignore[attr-defined]


def test_a_missing_strict_is_best_effort(host: Host) -> None:
    """Only `strict: true` makes a grammar; unread members are named."""
    asked = built(host, input="Hi", tools=[function("a"), function("b", strict=True, defer_loading=True)])
    assert [tool.strict for tool in asked.tools] == [False, True]
    assert asked.unused == ("tools.defer_loading",)


def test_tools_of_servers_are_left_out_and_named(host: Host) -> None:
    """Codex always sends `web_search`: the answer's header names it, and its functions work."""
    asked = built(host, input="Hi", tools=[
        {"type": "web_search", "external_web_access": False}, function("a"),
        {"type": "mcp", "server_label": "x", "server_url": "y"}, {"type": "image_generation"}, {"type": "local_shell"},
    ], tool_choice={"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "web_search"}, {"type": "function", "name": "a"}]})
    assert [tool.name for tool in asked.tools] == ["a"]
    assert asked.tool_choice == "required"
    assert asked.unused == ("tools.web_search", "tools.mcp", "tools.image_generation", "tools.local_shell")
    assert built(host, input="Hi", tools=[{"type": "web_search"}]).tools == ()


@pytest.mark.parametrize(("choice", "expected"), [
    ("none", ((), "auto")), ("auto", (("a", "b"), "auto")), ("required", (("a", "b"), "required")),
    ({"type": "function", "name": "b"}, (("b",), "required")),
    ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "a"}]}, (("a",), "auto")),
    ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, ((), "auto")),
])
def test_choices(host: Host, choice: object, expected: object) -> None:
    """`tool_choice` has this API's shapes, with the meaning that it has in a chat."""
    asked = built(host, input="Hi", tools=[function("a"), function("b")], tool_choice=choice)
    assert (tuple(tool.name for tool in asked.tools), asked.tool_choice) == expected


# -- the other members ------------------------------------------------------------------------------------------------

def test_formats(host: Host) -> None:
    """`text.format` is a chat's `response_format`, also together with `tool_choice`, as instructor sends it."""
    schema = {"type": "object", "properties": {}}
    named = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    asked = built(host, input="Hi", text={"format": named}, tools=[function("a")],
                  tool_choice={"type": "function", "name": "a"})
    assert asked.constraint == Constraint("json_schema", json.dumps(schema), "text.format", strict=True)
    assert asked.tool_choice == "required"
    plain = built(host, input="Hi", text={"format": {"type": "json_object"}}).constraint
    assert plain == Constraint("json_object", param="text.format")
    assert all(built(host, input="Hi", text=text).constraint is None for text in ({}, {"format": {"type": "text"}}))


def test_parameters_have_their_chat_names(host: Host) -> None:
    """Limits, efforts, log-probabilities and everything that chats have in common arrive."""
    made = read(
        input="Hi", max_output_tokens=1, reasoning={"effort": "low", "summary": "auto"}, temperature=0.5, stop=["x"],
        include=["message.output_text.logprobs", "reasoning.encrypted_content"], top_logprobs=2, store=None,
        text={"verbosity": "low"},
    )
    assert made.parameters == {
        "max_tokens": 1, "reasoning_effort": "low", "temperature": 0.5, "stop": ["x"], "logprobs": True,
        "top_logprobs": 2, "verbosity": "low",
    }
    assert made.unused == ("reasoning.summary", "include.reasoning.encrypted_content")
    assert built(host, input="Hi", top_logprobs=2).top_logprobs == 2
    assert built(host, input="Hi", include=[]).top_logprobs is None


def test_what_concerns_no_text_is_named(host: Host) -> None:
    """Bookkeeping of clients and of OpenAI's servers is accepted; what has an effect is not named."""
    asked = built(
        host, input="Hi", metadata={"a": "b"}, user="u", service_tier="flex", safety_identifier="s", store=True,
        prompt_cache_key="k", prompt_cache_retention="24h", stream=True, stream_options={"include_obfuscation": True},
        client_metadata={"x": 1}, background=False, truncation="auto", max_tool_calls=3, context_management=[],
        parallel_tool_calls=True, truncate=None,
    )
    assert set(asked.unused) == {
        "user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "client_metadata",
        "stream_options.include_obfuscation", "truncation", "max_tool_calls", "context_management",
    }


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "input", "missing_required_parameter"), ({"input": 1}, "input", "invalid_type"),
    ({"input": [1]}, "input[0]", "invalid_type"), ({"input": [{}]}, "input[0].type", "missing_required_parameter"),
    ({"input": [{"type": "x"}]}, "input[0].type", "invalid_value"),
    ({"input": [{"type": 1}]}, "input[0].type", "invalid_type"),
    ({"input": [{"type": "custom_tool_call"}]}, "input[0].type", "unsupported_parameter"),
    ({"input": [{"role": "tool", "content": ""}]}, "input[0].role", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
    ({"input": [{"role": "user", "content": 1}]}, "input[0].content", "invalid_type"),
    ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0].type", "invalid_value"),
    ({"input": [{"role": "system", "content": [{"type": "input_image", "image_url": ""}]}]}, "input[0].content[0].type",
     "invalid_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0].file_id",
     "unsupported_parameter"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text",
     "missing_required_parameter"),
    ({"input": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": 1}]}]}, "input[0].content[0].text",
     "invalid_type"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id",
     "missing_required_parameter"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output", "missing_required_parameter"),
    ({"input": "", "tools": {}}, "tools", "invalid_type"), ({"input": "", "tools": [{}]}, "tools[0].type",
                                                            "missing_required_parameter"),
    ({"input": "", "tools": [{"type": "custom", "name": "x"}]}, "tools[0].type", "unsupported_parameter"),
    ({"input": "", "tools": [{"type": "x"}]}, "tools[0].type", "invalid_value"),
    ({"input": "", "tools": [{"type": "web_search"}, {"type": "function", "name": "a b"}]}, "tools[1].name",
     "invalid_value"),
    ({"input": "", "tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]},
     "tools[0].tools[0].type", "unsupported_parameter"),
    ({"input": "", "tools": [function("a")], "tool_choice": {"type": "web_search"}}, "tool_choice.type",
     "unsupported_parameter"),
    ({"input": "", "tools": [function("a")], "tool_choice": {"type": "function"}}, "tool_choice.name",
     "missing_required_parameter"),
    ({"input": "", "tools": [function("a")], "tool_choice": {"type": "function", "name": "b"}}, "tool_choice",
     "invalid_value"),
    ({"input": "", "tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice", "None"),
    ({"input": "", "text": {"format": {}}}, "text.format.type", "missing_required_parameter"),
    ({"input": "", "text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema",
     "missing_required_parameter"),
    ({"input": "", "text": {"style": 1}}, "text.style", "unknown_parameter"),
    ({"input": "", "max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
    ({"input": "", "reasoning": {"effort": "much"}}, "reasoning.effort", "invalid_value"),
    ({"input": "", "include": ["x"]}, "include[0]", "invalid_value"),
    ({"input": "", "conversation": "c"}, "conversation", "unsupported_parameter"),
    ({"input": "", "prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    ({"input": "", "messages": []}, "messages", "unknown_parameter"), ({"input": "", "n": 2}, "n", "unknown_parameter"),
    ({"input": "", "colour": 1}, "colour", "unknown_parameter"), ({"input": "", "stream": 1}, "stream", "invalid_type"),
    ({"input": "", "background": True, "store": False}, "background", "invalid_value"),
    ({"input": "", "truncation": "x"}, "truncation", "invalid_value"),
    ({"input": "", "metadata": 1}, "metadata", "invalid_type"),
    ({"input": "", "instructions": []}, "instructions", "invalid_type"),
]


@pytest.mark.parametrize(("body", "param", "code"), FAULTS, ids=lambda one: json.dumps(one)[:60])
def test_faults_name_their_place(host: Host, body: dict[str, Any], param: str, code: str) -> None:
    """Whatever is wrong, the error names the member of this API, not the chat's."""
    with pytest.raises(RequestError) as caught:
        built(host, **body)
    assert (caught.value.param, str(caught.value.code)) == (param, code)


def test_errors_are_in_this_apis_words() -> None:
    """Of the chat's names, none is left in an error."""
    error = in_our_words(ContextOverflow("lower 'max_tokens', or shorten 'messages'", "max_tokens", "x"))
    assert isinstance(error, ContextOverflow)
    assert (error.text, error.param, error.code) == (
        "lower 'max_output_tokens', or shorten 'input'", "max_output_tokens", "x",
    )
    assert in_our_words(InvalidRequest("", "messages[3].tool_calls[0]")).param == "input"
    assert in_our_words(UnsupportedParameter("", "logprobs")).param == "include"
