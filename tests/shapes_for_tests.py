"""All template shapes of these tests, and strategies for the tools and arguments that each can write."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import more_templates
import templates_for_tests
import told_templates_for_tests
from attrs import frozen
from hypothesis import strategies as st

from lllms_core.chat import ChatTemplate
from lllms_core.chat.answer_format import CallFormat
from lllms_core.types import Message, Tool, ToolCall

_MODULES = (("", templates_for_tests), ("", more_templates), ("TOLD_", told_templates_for_tests))
_NO_CALLS = {"GEMMA", "TOLD_UNTOLD", "NAMED_TAGS", "MANY_TYPES"}
_QUOTES_ALL = {"QUOTED"}
"""Writes numbers as strings, which does not show how its model writes them."""
SHAPES: Mapping[str, str] = {
    prefix + name: getattr(module, name) for prefix, module in _MODULES for name in dir(module)
    if name.isupper() and not name.startswith("_") and prefix + name not in _NO_CALLS | _QUOTES_ALL
}
ASK = Message("user", "probe: what now?")
ENDS = (
    "</s>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|end_of_text|>", "<|END_OF_TURN|>", "<|calls|>", "<end>",
    "<s:eos>", "<turn|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>",  # noqa: RUF001
)
"""Texts that templates write after an answer."""


@cache
def template(shape: str) -> ChatTemplate:
    return ChatTemplate(SHAPES[shape], bos_token="<s>", eos_token="</s>")


@cache
def form_of(shape: str) -> CallFormat:
    form = template(shape).answer_format.calls
    assert form is not None
    return form


def rendered(shape: str, messages: Sequence[Message], tools: Sequence[Tool], **fields: object) -> str:
    return "".join(segment.text for segment in template(shape).render(messages, tools=tools, **fields))


def written(shape: str, tools: Sequence[Tool], calls: Sequence[ToolCall]) -> str:
    """The answer that a template writes for calls: the model's own text, without the end mark."""
    said = Message("assistant", "", tool_calls=tuple(calls))
    prompt = rendered(shape, [ASK], tools).rstrip()
    whole = rendered(shape, [ASK, said], tools, add_generation_prompt=False)
    if whole.startswith(prompt):
        answer = whole[len(prompt) :]
    else:
        mark = form_of(shape).mark
        answer = mark + whole[whole.rindex(ASK.content) :].partition(mark)[2]
    return without_ends(answer)


def without_ends(text: str) -> str:
    before = None
    while text != before:
        before, text = text, text.strip()
        for end in ENDS:
            text = text.removesuffix(end)
    return text


# -- what a shape can write --------------------------------------------------------------------------------------------


@frozen
class Field:
    """An argument's schema, and the fitting values that a shape can write."""

    schema: Mapping[str, object]
    values: st.SearchStrategy[Any]


def _marks(form: CallFormat) -> list[str]:
    return [mark.strip() for mark in form.markers if mark.strip()]


def texts(shape: str) -> st.SearchStrategy[str]:
    """Texts that the shape's template can write as the value of a string."""
    form = form_of(shape)
    any_text = st.text(max_size=12) | st.sampled_from([
        "", "12345", "true", "null", "None", "[1]", '{"a": 1}', "a\\b", 'say "hi"', "C:\\Users\\ann", "x = \\d", "\n",
        " a ", "<b>", "a < b", "\u2028", "\N{GRINNING FACE}", "don't", "a, b", "x=1", "}", "]",
    ])
    if form.shape == "keyword" and form.python:
        # These templates put a text between quotes without escaping it: quotes and escapes in it end or change it.
        return any_text.filter(lambda text: not re.search(r"['\"\\\n\r]", text))
    if form.shape in {"tagged", "keyword"}:
        # A mark inside a value cannot be told from the one that ends it.
        marks = [*_marks(form), "<![CDATA["]
        return any_text.filter(lambda text: not any(mark in text for mark in marks))
    return any_text


def plain_texts(shape: str) -> st.SearchStrategy[str]:
    """Those `texts` that are no value of another type in any notation."""
    return texts(shape).filter(lambda text: not _is_literal(text.strip()))


def _is_literal(text: str) -> bool:
    for read in (json.loads, ast.literal_eval):
        try:
            read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return True
    return False


INTEGERS = st.integers(-(10**12), 10**12)
NUMBERS = INTEGERS | st.floats(-1e300, 1e300, allow_nan=False)


def fields(shape: str) -> st.SearchStrategy[Field]:
    """One argument of a tool."""
    text, plain = texts(shape), plain_texts(shape)
    scalars = st.none() | st.booleans() | NUMBERS | plain
    keys = names(shape)
    anything = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=5,
    )
    inside = st.fixed_dictionaries({}, optional={"a": text, "b": st.lists(INTEGERS, max_size=2)})
    properties = {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}}
    return st.sampled_from([
        Field({"type": "string"}, text), Field({"type": "integer"}, INTEGERS), Field({"type": "number"}, NUMBERS),
        Field({"type": "boolean"}, st.booleans()), Field({"type": "null"}, st.none()),
        Field({"enum": ["c", "f"]}, st.sampled_from(["c", "f"])), Field({"enum": [1, 2]}, st.sampled_from([1, 2])),
        Field({"type": "string", "enum": ["c", "f"]}, st.sampled_from(["c", "f"])),
        Field({"const": "c"}, st.just("c")),
        Field({"type": "string", "pattern": "^[a-z]{1,3}$"}, st.from_regex(r"[a-z]{1,3}", fullmatch=True)),
        Field({"type": "string", "minLength": 1, "maxLength": 3}, text.filter(lambda text: 1 <= len(text) <= 3)),
        Field({"type": "string", "format": "date"}, st.dates().map(str)),
        Field({"type": "integer", "minimum": 1, "maximum": 9}, st.integers(1, 9)),
        Field({"allOf": [{"type": "string"}, {"enum": ["c", "f"]}]}, st.sampled_from(["c", "f"])),
        Field({"oneOf": [{"type": "boolean"}, {"type": "null"}]}, st.none() | st.booleans()),
        Field({"type": ["string", "null"]}, st.none() | text.filter(lambda text: text.strip() not in {"null", "None"})),
        Field({"anyOf": [{"type": "string"}, {"type": "integer"}]}, INTEGERS | plain),
        Field({"$ref": "#/$defs/text"}, text),
        Field({"type": "array", "items": {"type": "string"}}, st.lists(text, max_size=3)),
        Field({"type": "object", "properties": properties}, inside),
        Field({"type": "array"}, st.lists(anything, max_size=3)),
        Field({"type": "object"}, st.dictionaries(keys, anything, max_size=3)),
        Field({}, anything),
    ])


def names(shape: str) -> st.SearchStrategy[str]:
    """Argument names."""
    usual = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
    form = form_of(shape)
    if form.shape == "keyword" and form.python:
        return usual
    odd = st.sampled_from(["@at", "$filter", "a:b", "a b", "a/b", "x[0]", "\u00e9", "a.b"])
    return usual | odd


@st.composite
def tools_with_calls(draw: st.DrawFn, shape: str) -> tuple[tuple[Tool, ...], tuple[ToolCall, ...]]:
    """Two tools, and calls that fit their schemas."""
    tools = []
    givers: list[dict[str, Field]] = []
    tool_names = st.permutations(["run", "W-get_weather", "a", "add_2"])
    for name in draw(tool_names)[:2]:
        own = draw(st.dictionaries(names(shape), fields(shape), max_size=4))
        required = [key for key in own if draw(st.booleans())]
        schema = {
            "type": "object", "properties": {key: field.schema for key, field in own.items()}, "required": required,
            "additionalProperties": False, "$defs": {"text": {"type": "string"}},
        }
        tools.append(Tool(name, "Does it.", schema))
        givers.append(own)
    count = draw(st.integers(1, 3)) if form_of(shape).parallel else 1
    calls = []
    for at in range(count):
        which = draw(st.integers(0, 1))
        required = tools[which].parameters["required"]
        given = {
            key: draw(field.values) for key, field in givers[which].items() if key in required or draw(st.booleans())
        }
        calls.append(ToolCall(f"call_7_{at}", tools[which].name, json.dumps(given, ensure_ascii=False)))
    return tuple(tools), tuple(calls)
