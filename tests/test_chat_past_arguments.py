import json
from functools import cache

import more_templates
import pytest
import templates_for_tests
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.chat import ChatTemplate, settle_results
from lllms_core.chat.past_arguments import RAW, as_object, as_text
from lllms_core.types import Message, Tool, ToolCall

FAMILIES = {
    name: getattr(module, name) for module in (templates_for_tests, more_templates)
    for name in dir(module) if name.isupper()
}
ASK = Message("user", "?")
TOOL = Tool("add", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@cache
def template(family: str) -> ChatTemplate:
    return ChatTemplate(FAMILIES[family], bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("", {}), ("{}", {}), ("null", {}), ('{"a": 1}', {"a": 1}), ('"{\\"a\\": 1}"', {"a": 1}),
        ('{"city": "Pa', {"city": "Pa"}), ('{"city": "Pa\\', {"city": "Pa"}), ('{"city": "Pa\\u00', {"city": "Pa"}),
        ('{"a": "\\ud83d\\ude0', {"a": ""}), ('{"a": "\\ud83d', {"a": ""}), ('{"a": "x\\\\', {"a": "x\\"}),
        ('{"a": 1, "b', {"a": 1}), ('{"a": 1, "b"', {"a": 1}), ('{"a": 1, "b": tr', {"a": 1}), ("{", {}),
        ('{"a": [1, {"b": "x', {"a": [1, {"b": "x"}]}), ('{"a": [1, ', {"a": [1]}), ('{"a": "1\n2', {"a": "1\n2"}),
        ("ls -la", {RAW: "ls -la"}), ("[1]", {RAW: "[1]"}), ("7", {RAW: "7"}), ("{]", {RAW: "{]"}), ("}", {RAW: "}"}),
        ("{\"path\": 'a.py'}", {RAW: "{\"path\": 'a.py'}"}), ("{\"a\": 1, 'b': 2", {RAW: "{\"a\": 1, 'b': 2"}),
        ('{"a": 1} x', {RAW: '{"a": 1} x'}), ("[" * 5000, {RAW: "[" * 5000}), ('"x', {RAW: '"x'}),
    ],
)
def test_past_arguments_are_objects(arguments: str, value: object) -> None:
    """Truncated arguments are closed, without a member that has no value; otherwise broken ones are kept as text."""
    assert as_object(arguments) == value
    assert json.loads(as_text(arguments)) == value


@given(value=st.dictionaries(st.text(max_size=4), VALUES, max_size=4), data=st.data())
def test_any_cut_of_an_object_is_closed(value: dict[str, object], data: st.DataObject) -> None:
    """Wherever an object is cut, its complete members are kept, in order, and at most the last member differs."""
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    found = as_object(text[: data.draw(st.integers(1, len(text)))])
    assert list(found) == list(value)[: len(found)]
    assert [value[key] for key in list(found)[:-1]] == list(found.values())[:-1]


@pytest.mark.parametrize("arguments", ['{"city": "Pa', '{"city": ', "{", "ls -la", "{'city': 'Paris'}", "[1]"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cut_and_broken_calls_can_be_sent_back(family: str, arguments: str) -> None:
    """Every template shape renders a past call whose arguments are not an object, with and without its result."""
    model = template(family)
    call = ToolCall("call_x_0", "add", arguments)
    said = Message("assistant", "", tool_calls=(call,))
    result = Message("tool", "It was cut.", tool_call_id=call.id)
    for history in ([ASK, said, result], [ASK, said, Message("user", "Go on.")]):
        prompt = "".join(segment.text for segment in model.render(settle_results(history), tools=[TOOL]))
        assert history[-1].content in prompt
        assert "add" in prompt.rpartition(ASK.content)[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_was_cut_in_a_call_is_continued_before_it(family: str) -> None:
    """If a conversation ends with a truncated call, the model writes the call anew, after its text."""
    model = template(family)

    def prompt(*messages: Message) -> str:
        return "".join(segment.text for segment in model.render(settle_results(messages), tools=[TOOL]))

    cut = ToolCall("call_x_0", "add", '{"city": "Pa')
    assert prompt(ASK, Message("assistant", "", tool_calls=(cut,))) == prompt(ASK)
    said = Message("assistant", "Wait.")
    assert prompt(ASK, Message("assistant", "Wait.", tool_calls=(cut,))) == prompt(ASK, said)


def test_a_cut_call_needs_no_result() -> None:
    """No client can run a call whose arguments were cut, so a conversation may continue without its result."""
    cut, whole = ToolCall("a", "add", '{"city": "Pa'), ToolCall("b", "add", "{}")
    said, result = Message("assistant", "", tool_calls=(whole, cut)), Message("tool", "3", tool_call_id="b")
    assert settle_results([ASK, said, result, ASK]) == (ASK, said, Message("tool", "3", "add", tool_call_id="b"), ASK)
