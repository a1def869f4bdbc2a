"""Which of the unenforced restrictions an answer violates."""

import json
from typing import Any

import pytest

from lllms_core.answers import Answer, Choice
from lllms_core.answers.schema_violations import find_unkept, keywords
from lllms_core.types import ChatRequest, Constraint, Finish, FinishReason, Message, Tool, ToolCall, Usage

HI = (Message("user", "hi"),)
SCHEMA = {"properties": {"a": {"anyOf": [{"not": {"const": 1}}, {"type": "null"}]}, "b": {"type": "string"}}}
NOT = "response_format#/properties/a/anyOf/0/not"


def answered(
    *texts: str, unenforced: tuple[str, ...], reason: FinishReason = "stop", calls: tuple[ToolCall, ...] = (),
) -> Answer:
    choices = tuple(Choice(Message("assistant", text, tool_calls=calls), reason) for text in texts)
    return Answer("tiny:1-a", choices, Finish(reason, Usage(1, 1)), unenforced)


def asked(schema: Any, tools: tuple[Tool, ...] = ()) -> ChatRequest:
    return ChatRequest("a", "tiny", HI, constraint=Constraint("json_schema", json.dumps(schema)), tools=tools)


@pytest.mark.parametrize(("texts", "names", "found"), [
    (['{"a": 2}'], (NOT,), ()),
    (['{"a": 1}'], (NOT,), (NOT,)),
    (['{"a": 2}', '{"a": 1}'], (NOT,), (NOT,)),
    (['{"a": 1}'], (), ()),
    (['{"b": 1}'], (NOT,), ("response_format#/properties/b/type",)),
    (['{"b": 1}'], ("response_format#",), ("response_format#/properties/b/type",)),
    (['{"a": 1'], (NOT,), (NOT + ";unchecked",)),
    (["[" * 100_000], (NOT,), (NOT + ";unchecked",)),
    ([""], (NOT,), ()),
])
def test_what_is_broken_is_named(texts: list[str], names: tuple[str, ...], found: tuple[str, ...]) -> None:
    """A violation is attributed to the listed restriction inside or around it, otherwise named by its own path."""
    assert find_unkept(asked(SCHEMA), answered(*texts, unenforced=names)) == found


@pytest.mark.parametrize("reason", ["length", "timeout", "cancelled"])
def test_what_was_cut_is_not_checked(reason: FinishReason) -> None:
    """A truncated answer is only the start of one: it violates nothing."""
    assert find_unkept(asked(SCHEMA), answered('{"a": 1}', unenforced=(NOT,), reason=reason)) == ()


def test_calls_are_checked_by_their_tool() -> None:
    """Arguments are checked against the schema of the called tool, and no other."""
    tools = (Tool("f", parameters={"not": {"required": ["x"]}}), Tool("g", parameters={"not": {"required": ["y"]}}))
    names = ("tools.f#/not", "tools.g#/not")

    def find(*calls: ToolCall) -> tuple[str, ...]:
        return find_unkept(asked({}, tools), answered("", unenforced=names, reason="tool_calls", calls=calls))

    assert find() == ()
    assert find(ToolCall("1", "f", '{"y": 1}')) == ()
    assert find(ToolCall("1", "f", '{"y": 1}'), ToolCall("2", "g", '{"y": 1}')) == ("tools.g#/not",)
    assert find(ToolCall("1", "f", '{"x": 1}'), ToolCall("2", "g", '{"y": 1}')) == names


@pytest.mark.parametrize("schema", [{"not": {"$ref": "#/nowhere"}}, {"not": {"pattern": "(a|aa)+$"}}, {"not": 5}])
def test_what_cannot_be_checked_says_so(schema: Any) -> None:
    """A check that fails or takes too long reports its restriction as unchecked."""
    text = json.dumps("a" * 60 + "b")
    assert find_unkept(asked(schema), answered(text, unenforced=("response_format#/not",))) == (
        "response_format#/not;unchecked",
    )


def test_a_log_has_no_words_of_clients() -> None:
    """Only keywords of JSON schemas are reported; names that a client made up are not quoted."""
    assert keywords([NOT, "tools.f#/secret", "tools.f#/properties/secret", "tools.f#/if;unchecked"]) == [
        "if", "not", "other",
    ]
