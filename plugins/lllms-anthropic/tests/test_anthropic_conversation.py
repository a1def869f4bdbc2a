"""Conversations in Anthropic's blocks, read into the messages that chat templates know."""

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from lllms_anthropic.conversation import read_conversation
from lllms_anthropic.request_body import read_request

from lllms_core.apis.messages import read_messages
from lllms_core.config import parse_config
from lllms_core.errors import RequestError
from lllms_core.host import Host
from lllms_core.types import Media, Message, ToolCall

HI = {"role": "user", "content": "Hi"}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
LOOK = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "ö"}}


def user(*blocks: object) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def said(*blocks: object) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **more: object) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def result(called: str, content: object = None, **more: object) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": called, "content": content, **more}


CALL = ToolCall("t1", "look", '{"at": "ö"}')
CACHED = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(("system", "messages", "read"), [
    (None, [HI], [Message("user", "Hi")]),
    ("Be brief.", [HI], [Message("system", "Be brief."), Message("user", "Hi")]),
    ([text("One.", **CACHED), text("Two.")], [user(text("a", **CACHED), text("b"))],
     [Message("system", "One.\nTwo."), Message("user", "a\nb")]),
    ("", [HI], [Message("user", "Hi")]), ([], [HI], [Message("user", "Hi")]),
    ([text("x-anthropic-billing-header: cc_version=2.1; cch=1;"), text("One.")], [HI],
     [Message("system", "One."), Message("user", "Hi")]),
    (None, [HI, {"role": "system", "content": "Mind."}], [Message("user", "Hi"), Message("system", "Mind.")]),
    (None, [HI, {"role": "assistant", "content": "Yes"}, HI],
     [Message("user", "Hi"), Message("assistant", "Yes"), Message("user", "Hi")]),
    (None, [HI, {"role": "assistant", "content": "The answer is ("}],
     [Message("user", "Hi"), Message("assistant", "The answer is (")]),
    (None, [HI, user(text("there"))], [Message("user", "Hi\nthere")]),
    (None, [HI, said(text("a")), said(text("b"))], [Message("user", "Hi"), Message("assistant", "a\nb")]),
    (None, [HI, said({"type": "thinking", "thinking": "Hm.", "signature": ""}, text("a")), HI],
     [Message("user", "Hi"), Message("assistant", "a", reasoning="Hm."), Message("user", "Hi")]),
    (None, [HI, said({"type": "redacted_thinking", "data": "x"}, text("a")), HI],
     [Message("user", "Hi"), Message("assistant", "a"), Message("user", "Hi")]),
    (None, [HI, said(LOOK), user(text("Well?"), result("t1", "red"))],
     [Message("user", "Hi"), Message("assistant", "", tool_calls=(CALL,)), Message("tool", "red", tool_call_id="t1"),
      Message("user", "Well?")]),
    (None, [HI, said(LOOK, {**LOOK, "id": "t2"}), user(result("t2", [text("a"), text("b")])), user(result("t1"))],
     [Message("user", "Hi"), Message("assistant", "", tool_calls=(CALL, evolve(CALL, id="t2"))),
      Message("tool", "a\nb", tool_call_id="t2"), Message("tool", "", tool_call_id="t1")]),
    (None, [HI, said(LOOK), {"role": "system", "content": "Mind."}, user(result("t1", "red"))],
     [Message("user", "Hi"), Message("assistant", "", tool_calls=(CALL,)), Message("tool", "red", tool_call_id="t1"),
      Message("system", "Mind.")]),
    (None, [HI, said(LOOK), user(result("t1", is_error=True))],
     [Message("user", "Hi"), Message("assistant", "", tool_calls=(CALL,)),
      Message("tool", "error", tool_call_id="t1")]),
    (None, [HI, said(LOOK), user(result("t1", "no such file", is_error=True))],
     [Message("user", "Hi"), Message("assistant", "", tool_calls=(CALL,)),
      Message("tool", "no such file", tool_call_id="t1")]),
    (None, [user(text("See"), PNG)], [Message("user", "See", parts=(
        "See", Media("image", "data:image/png;base64,AAAA", param="messages[0].content[1].type"),
    ))]),
    (None, [user({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}})], [Message("user", "", parts=(
        Media("image", "https://x/y.png", param="messages[0].content[0].type"),
    ))]),
    (None, [HI, said(LOOK), user(result("t1", [PNG]))],
     [Message("user", "Hi"), Message("assistant", "", tool_calls=(CALL,)),
      Message("tool", "", tool_call_id="t1", parts=(
          Media("image", "data:image/png;base64,AAAA", param="messages[2].content[0].content[0].type"),
      ))]),
    (None, [user()], [Message("user", "")]),
])
def test_conversations_are_read(system: object, messages: list[Any], read: list[Message]) -> None:
    """Each kind of block becomes what it is in a chat; results come right after their calls, before the rest."""
    assert list(read_conversation(system, messages)) == read


@pytest.mark.parametrize(("messages", "param"), [
    ("x", "messages"), ([], "messages"), ([1], "messages[0]"), ([{"content": "x"}], "messages[0].role"),
    ([{"role": "tool", "content": "x"}], "messages[0].role"), ([{"role": "user"}], "messages[0].content"),
    ([user({"text": "x"})], "messages[0].content[0].type"), ([user({"type": "x"})], "messages[0].content[0].type"),
    ([user({"type": "document", "source": {}})], "messages[0].content[0].type"),
    ([user({"type": "text"})], "messages[0].content[0].text"), ([user(LOOK)], "messages[0].content[0].type"),
    ([HI, said({**LOOK, "input": "x"})], "messages[1].content[0].input"),
    ([HI, said({"type": "tool_use", "id": "t1"})], "messages[1].content[0].name"),
    ([HI, said({"type": "thinking"})], "messages[1].content[0].thinking"),
    ([user({"type": "image"})], "messages[0].content[0].source"),
    ([user({"type": "image", "source": {"type": "file", "file_id": "f"}})], "messages[0].content[0].source.type"),
    ([user(result("t9"))], "messages[0].content[0].tool_use_id"),
    ([HI, said(LOOK), user(result("t1"), result("t1"))], "messages[2].content[1].tool_use_id"),
    ([HI, said(LOOK), HI], "messages"), ([HI, said(LOOK)], "messages"), ([HI, said(LOOK, LOOK)], "messages"),
    ([HI, said(LOOK), user(result("t1", is_error="yes"))], "messages[2].content[0].is_error"),
    ([{"role": "system", "content": [PNG]}], "messages[0].content[0].type"),
])
def test_faults_name_their_place(messages: object, param: str) -> None:
    """A conversation that cannot be read is refused, and the error names the place in Anthropic's own fields."""
    with pytest.raises(RequestError) as caught:
        read_conversation(None, messages)
    assert caught.value.param == param


words = st.text("ab{}\"\\ \n<>ü", max_size=12)
inputs = st.dictionaries(words, st.none() | st.booleans() | st.integers(-9, 9) | words | st.lists(words, max_size=2),
                         max_size=2)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[object, list[Any], list[Any]]:
    """A conversation in both forms: the system prompt, Anthropic's messages, and a chat's."""
    system = draw(st.none() | st.lists(words, min_size=1, max_size=2))
    blocks: list[Any] = []
    chat: list[Any] = []
    if system is not None:
        chat.append({"role": "system", "content": [text(one) for one in system]})
    results: list[tuple[str, str]] = []
    for turn in range(draw(st.integers(1, 3))):
        asked = draw(st.lists(words, min_size=not results, max_size=2))
        blocks.append(user(*(text(one) for one in asked), *(result(name, content) for name, content in results)))
        chat += [{"role": "tool", "tool_call_id": name, "content": content} for name, content in results]
        if asked or not results:
            chat.append({"role": "user", "content": [text(one) for one in asked]})
        results = []
        if draw(st.booleans()):
            rule = draw(words)
            blocks.append({"role": "system", "content": rule})
            chat.append({"role": "system", "content": rule})
        answer, thoughts = draw(st.lists(words, max_size=2)), draw(st.none() | words.filter(bool))
        calls = [(f"c{turn}{number}", draw(inputs)) for number in range(draw(st.integers(0, 2)))]
        blocks.append(said(
            *([{"type": "thinking", "thinking": thoughts, "signature": ""}] if thoughts else []),
            *(text(one) for one in answer),
            *({"type": "tool_use", "id": name, "name": "look", "input": given} for name, given in calls),
        ))
        chat.append({
            "role": "assistant", "content": [text(one) for one in answer], "reasoning_content": thoughts,
            "tool_calls": [
                {"id": name, "type": "function",
                 "function": {"name": "look", "arguments": json.dumps(given, ensure_ascii=False)}}
                for name, given in calls
            ],
        })
        results = [(name, draw(words)) for name, _ in calls]
    last = draw(words)
    blocks.append(user(*(result(name, content) for name, content in results), text(last)))
    chat += [{"role": "tool", "tool_call_id": name, "content": content} for name, content in results]
    chat.append({"role": "user", "content": last})
    return None if system is None else [text(one) for one in system], blocks, chat


HOST = Host(parse_config({"models": {"bot": {"engine": "mock"}}}))
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
COMMON: dict[str, Any] = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 3}


@given(conversations(), st.sampled_from([("auto", "auto"), ("any", "required"), ("none", "none")]), st.booleans())
def test_both_dialects_make_the_same_request(
    conversation: tuple[object, list[Any], list[Any]], choice: tuple[str, str], parallel: bool,
) -> None:
    """A conversation, its tools and its parameters give the same request in Anthropic's form and in a chat's."""
    system, blocks, chat = conversation
    ours = {
        "model": "bot", "messages": blocks, "stop_sequences": ["x", "yy"], **COMMON,
        "tools": [{"name": "look", "description": "Look.", "input_schema": SCHEMA}],
        "tool_choice": {"type": choice[0], "disable_parallel_tool_use": not parallel},
        **({} if system is None else {"system": system}),
    }
    theirs = {
        "stop": ["x", "yy"], **COMMON, "tool_choice": choice[1], "parallel_tool_calls": parallel,
        "tools": [{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": SCHEMA}}],
    }
    read = read_request(HOST, json.loads(json.dumps(ours)), set()).request
    expected = HOST.request("bot", messages=read_messages(json.loads(json.dumps(chat))), parameters=theirs)
    assert evolve(read, id="") == evolve(expected, id="")
