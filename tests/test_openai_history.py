"""Earlier messages are sent back: fields of a conversation, as clients keep and send them."""

import json
import logging
from typing import Any

import pytest
from test_openai_wire import CALL, chat, message

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.tools import TOOLS
from lllms_core.types import Message, ToolCall

EXTRAS: dict[str, Any] = {
    "id": "msg_1", "index": 0, "annotations": [{"type": "url_citation"}], "parsed": {"a": 1}, "colour": 1, "weight": 1,
    "cache_control": {"type": "ephemeral"}, "provider_specific_fields": {}, "extra_content": {"x": [1]},
    "refusal": None, "audio": None, "function_call": None, "prefix": True, "images": [],
}
ASK = {"role": "user", "content": "?"}


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_fields_that_say_nothing_are_dropped(role: str) -> None:
    """Bookkeeping of clients and SDKs in any message changes nothing, whatever its value."""
    fields = {"role": role, "content": "x", **({"tool_call_id": "c1"} if role == "tool" else {})}
    assert message(**fields, **EXTRAS).messages == message(**fields).messages


def test_fields_inside_calls_and_parts_are_dropped() -> None:
    """An index, parsed arguments and caching marks are ignored; a call without a type calls a function."""
    function = {"name": "add", "arguments": '{"a": 1}', "parsed_arguments": {"a": 1}}
    call = {"id": "c1", "index": 0, "function": function, "extra_content": {}}
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}, "annotations": []}
    read = chat(messages=[{"role": "assistant", "content": [part], "tool_calls": [call]}]).messages
    assert read == (Message("assistant", "x", tool_calls=(ToolCall("c1", "add", '{"a": 1}'),)),)


def test_dropped_names_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log names each dropped field once, at debug level, without its value."""
    odd = "first_seen_in_this_test"
    with caplog.at_level(logging.DEBUG, "lllms.api"):
        for _ in range(3):
            message(role="user", content="x", **{odd: "its value"})
    told = [record.getMessage() for record in caplog.records if odd in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"the field messages[].{odd} ")
    assert "its value" not in told[0]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


THOUGHT = {"type": "reasoning.text", "text": "Hm."}


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "Hm."}, {"reasoning": "Hm."}, {"thinking": "Hm."}, {"reasoning_details": [THOUGHT]},
        {"reasoning_content": "Hm.", "reasoning": "Hm.", "reasoning_details": [THOUGHT]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}]},
        {"reasoning": "", "reasoning_details": [{"type": "reasoning.summary", "summary": "Hm."}]},
        {"content": [{"type": "thinking", "thinking": "Hm."}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
    ],
)
def test_thoughts_come_back_under_every_name(fields: dict[str, Any]) -> None:
    """Thoughts need no text beside them (an answer cut off in its thoughts has none), whatever field they are in."""
    assert message(**{"role": "assistant", "content": None, **fields}).messages == (
        Message("assistant", "", reasoning="Hm."),
    )
    call = {"role": "assistant", "tool_calls": [CALL], **fields}
    assert chat(messages=[call]).messages == (
        Message("assistant", "", tool_calls=(ToolCall("c1", "add", '{"a": 1}'),), reasoning="Hm."),
    )


@pytest.mark.parametrize("details", [[{"type": "reasoning.encrypted", "data": "x"}], [1], "x", {}, [], [{"text": 1}]])
def test_thoughts_that_nobody_can_read_are_none(details: object) -> None:
    """Encrypted thoughts and unknown forms are dropped."""
    read = message(role="assistant", content="x", reasoning_details=details).messages
    assert read == (Message("assistant", "x"),)


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_empty_contents_are_empty_texts(role: str) -> None:
    """An empty list of parts is a message without text."""
    [read] = message(role=role, content=[], tool_call_id="c1").messages or ()
    assert (read.role, read.content) == (role, "")


def test_an_answer_may_have_been_empty() -> None:
    """Null content means that an answer was empty; missing content is refused."""
    assert message(role="assistant", content=None).messages == (Message("assistant", ""),)
    with pytest.raises(InvalidRequest) as caught:
        message(role="assistant")
    assert caught.value.param == "messages[0].content"


def test_tools_may_carry_caching_marks() -> None:
    """A caching mark on a tool, or on its function, is accepted."""
    mark = {"cache_control": {"type": "ephemeral"}}
    tools = [{"type": "function", "function": {"name": "f", **mark}, **mark}]
    assert [tool.name for tool in TOOLS.read("tools", json.loads(json.dumps(tools)))] == ["f"]
