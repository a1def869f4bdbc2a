"""Tools whose schemas a template cannot handle: shown in a plainer form, or refused by name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.chat import ChatTemplate
from lllms_core.errors import InvalidRequest
from lllms_core.types import Message, Tool

TYPED = r"""
{%- macro shown(field) %}
{%- set names = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} %}
{%- if names[field.type] is defined %}{{- names[field.type] }}
{%- elif field.type == "array" %}{{- "list[" + shown(field['items']) + "]" }}
{%- elif field.type == "object" %}{{- "dict" }}
{%- elif field.type is iterable %}{{- "Union[" }}{%- for kind in field.type %}{{- shown({"type": kind}) }},{%- endfor %}
{{- "]" }}
{%- endif %}
{%- endmacro %}
{%- for tool in tools %}{{- "def " + tool.function.name + "(" }}
{%- for name, field in tool.function.parameters.properties | items %}
{{- name + ": " + shown(field) + ", " }}
{%- endfor %}{{- ")\n" }}
{%- endfor %}
{%- for m in messages %}{{- m.role + ": " + m.content }}
{%- for call in m.tool_calls %}{{- '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{%- endfor %}{{- "\n" }}
{%- endfor %}{%- if add_generation_prompt %}{{- "assistant: " }}{%- endif %}"""
STRICT = TYPED.replace("{{- name + ", "{{- field.type + ' ' + name + ")
ASK = Message("user", "?")


def shown(source: str, *fields: object) -> str:
    properties = {f"f{at}": field for at, field in enumerate(fields)}
    definitions = {"day": {"type": ["null", "integer"], "enum": [1, 2]}}
    tool = Tool("look", "Looks.", {"type": "object", "properties": properties, "$defs": definitions})
    other = Tool("other", parameters={"type": "object", "properties": {"a": {"type": "string"}}})
    return "".join(segment.text for segment in ChatTemplate(source).render([ASK], tools=[other, tool]))


def test_type_lists_are_shown_by_templates_of_one_type() -> None:
    """A macro that descends endlessly into a type list with null gets the other type; other tools are unchanged."""
    text = shown(TYPED, {"type": ["string", "null"]}, {"type": ["null", "integer"]}, {"type": ["number", "string"]})
    assert "def other(a: str, )\ndef look(f0: str, f1: int, f2: float, )\nuser: ?" in text


def test_references_and_alternatives_are_shown_by_templates_that_need_a_type() -> None:
    """A schema without a type gets the one of its alternative, its reference or its values."""
    text = shown(
        STRICT, {"anyOf": [{"type": "null"}, {"type": "boolean"}]}, {"$ref": "#/$defs/day"}, {"enum": [1.5]},
        {"const": True}, {"properties": {}}, {"items": {"$ref": "#/$defs/day"}}, {}, {"$ref": "#/$defs/nothing"},
        {"allOf": [{"$ref": "#/$defs/day"}]}, True,
    )
    kinds = ["bool", "int", "float", "bool", "dict", "list[int]", "str", "str", "int", "str"]
    assert [part.split(": ")[1] for part in text.partition("look(")[2].partition(", )")[0].split(", ")] == kinds


def test_a_tool_that_cannot_be_shown_is_named() -> None:
    """If even a plain schema fails, the error says which tool the template cannot show, and why."""
    fails = "{%- if tool.function.name == 'look' %}{{- nothing.more }}{%- endif %}"
    source = TYPED.replace('{{- "def "', fails + '{{- "def "')
    with pytest.raises(InvalidRequest, match=r"cannot show the tool 'look'.*UndefinedError.*leave the tool") as caught:
        shown(source, {"type": "string"})
    assert caught.value.param == "tools"


def test_other_faults_are_not_blamed_on_tools() -> None:
    """A conversation that the template refuses is refused in the template's words, whatever the tools."""
    source = "{% if messages | length > 1 %}{{ raise_exception('too many') }}{% endif %}" + TYPED
    with pytest.raises(InvalidRequest, match="too many"):
        ChatTemplate(source).render([ASK, Message("assistant", "x"), ASK], tools=[Tool("look")])


FAILING = (
    "{% for t in tools %}{% if '\"$' in (t | tojson) or '[\"' in (t | tojson) %}{{ nothing.x }}{% endif %}"
    "{{ t | tojson }}{% endfor %}"
)
NAMES = st.sampled_from(["type", "anyOf", "allOf", "$ref", "$defs", "a", "properties", "items", "enum", "const"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "null", "#/$defs/a", "object", "array"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(schema=st.dictionaries(st.sampled_from(["properties", "$defs", "required", "anyOf", "$ref"]), VALUES))
def test_any_schema_can_be_made_plain(schema: dict[str, object]) -> None:
    """Whatever a schema holds, the tool is shown, or refused as a fault of the request; its plain form is JSON."""
    tools = [Tool("t", parameters=schema)]
    try:
        text = "".join(segment.text for segment in ChatTemplate(FAILING).render([ASK], tools=tools))
    except InvalidRequest:
        return
    assert json.loads(text)["function"]["name"] == "t"
