import json
import re

import pytest
import templates_for_tests as templates
from grammars_for_tests import accepts, keeps

from lllms_core.chat import ChatTemplate, call_constraint
from lllms_core.chat.answer_format import HERMES
from lllms_core.chat.call_grammar import lazy_calls
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import ChatRequest, Constraint, Message, Request, Tool, ToolCall

pytestmark = pytest.mark.slow

SCHEMA = {
    "type": "object", "required": ["city"], "additionalProperties": False,
    "properties": {
        "city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}, "days": {"type": "integer"},
    },
}
WEATHER = Tool("get_weather", parameters=SCHEMA)
NOW = Tool("now", parameters={"type": "object", "properties": {}, "additionalProperties": False})
ASK = Message("user", "?")
FAMILIES = [name for name in dir(templates) if name.isupper() and name != "GEMMA"]


def call(**arguments: object) -> ToolCall:
    return ToolCall("callprob1", "get_weather", json.dumps(arguments, ensure_ascii=False))


def written(family: str, *calls: ToolCall) -> str:
    """Calls as a family's template writes them, without the end of the turn."""
    model = ChatTemplate(getattr(templates, family), bos_token="<s>", eos_token="</s>")

    def show(message: Message) -> str:
        segments = model.render([ASK, message], tools=[WEATHER], add_generation_prompt=False)
        return "".join(segment.text for segment in segments)

    head, _, tail = show(Message("assistant", "plain")).rpartition("plain")
    text = show(Message("assistant", "", tool_calls=calls)).removesuffix(tail)
    return re.sub(r"^.*(<\|?im_start\|?>assistant|<.Assistant.>|<\|assistant\|>|\[/INST\])", "", (
        text.removeprefix(head)
    ), flags=re.DOTALL).removeprefix("\n<think></think>").strip()


def asked(*tools: Tool, **fields: object) -> Request:
    return ChatRequest("1", "m", (ASK,), tools=tools, **fields)


@pytest.mark.parametrize("family", FAMILIES)
def test_forced_calls_are_those_that_the_template_writes(family: str) -> None:
    """The grammar accepts each family's own spelling of a valid call, and neither text nor other arguments."""
    form = ChatTemplate(getattr(templates, family), bos_token="<s>", eos_token="</s>").answer_format.calls
    assert form is not None
    constraint = call_constraint(asked(NOW, WEATHER, tool_choice="required"), form, {})
    good = call(city='Z\u00fcrich "x"', unit="f", days=3)
    assert accepts(constraint, written(family, good))
    assert accepts(constraint, written(family, call(city="Rome")))
    for bad in (call(city="Rome", unit="kelvin"), call(unit="f"), call(city="Rome", days="x"), call(town="Rome")):
        assert not accepts(constraint, written(family, bad))
    assert not accepts(constraint, "Hello.")
    if form.parallel:
        assert accepts(constraint, written(family, good, call(city="Rome")))
        one = call_constraint(asked(NOW, WEATHER, tool_choice="required", parallel_tool_calls=False), form, {})
        assert not accepts(one, written(family, good, call(city="Rome")))
    free = lazy_calls(asked(NOW, WEATHER), form, {})
    assert keeps(free, "Hello, Ann < Bob.")
    for text in (written(family, good), written(family, call(city="Rome"))):
        assert keeps(free, text), text
        assert form.mark == "" or keeps(free, f"Let me see. {text}"), text
    for bad in (call(city="Rome", unit="kelvin"), call(city="Rome", days="x"), call(town="Rome")):
        assert not keeps(free, written(family, bad))
    assert not keeps(free, written(family, call(city="Rome")).replace("get_weather", "get_wether"))
    if form.parallel:
        assert keeps(free, written(family, good, call(city="Rome")))
        assert not keeps(free, written(family, good, call(town="Rome")))


def test_marks_that_are_tokens_are_named() -> None:
    """If the vocabulary has a token for a mark, the grammar asks for that token."""
    constraint = call_constraint(asked(NOW, tool_choice="required"), HERMES, {"<tool_call>": 7, "</tool_call>": 8})
    assert constraint is not None
    assert '<[7]> "\\n" call "\\n" <[8]>' in constraint.text


def test_where_nothing_is_forced_nothing_is_constrained() -> None:
    """Tools that may be called leave the whole answer free; without tools, the request's own constraint stays."""
    own = Constraint("regex", "a+")
    assert call_constraint(asked(NOW), HERMES, {}) is None
    assert call_constraint(asked(constraint=own), HERMES, {}) is own


def test_json_and_tools_go_together() -> None:
    """A JSON answer may be calls instead; other constraints combined with tools are refused by name."""
    keys = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    schema = Constraint("json_schema", json.dumps(keys))
    both = call_constraint(asked(NOW, constraint=schema), HERMES, {})
    assert accepts(both, '{"a": 1}')
    assert accepts(both, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
    assert not accepts(both, "Hello.")
    assert accepts(call_constraint(asked(NOW, constraint=Constraint("json_object")), HERMES, {}), "{}")
    with pytest.raises(UnsupportedParameter, match="do not go together"):
        call_constraint(asked(NOW, constraint=Constraint("regex", "a+", "grammar")), HERMES, {})
