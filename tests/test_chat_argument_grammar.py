"""Grammars of calls whose arguments are no JSON object."""

from collections.abc import Mapping

import pytest
from attrs import evolve
from forms_for_tests import BRACES, PYTHON, TAGGED, TYPED
from grammars_for_tests import NAMES, accepts

from lllms_core.chat import call_constraint
from lllms_core.chat.answer_format import CallFormat
from lllms_core.types import ChatRequest, Message, Tool

FIELDS: dict[str, object] = {
    "city": {"type": "string", "description": "where"}, "days": {"type": "integer"}, "now": {"type": "boolean"},
    "unit": {"enum": ["c", "f", 1]}, "code": {"type": "string", "pattern": "^[A-Z]+$"},
    "more": {"type": "array", "items": {"type": "string"}},
}


def tool(*required: str, **fields: object) -> Tool:
    return Tool("f", parameters={"type": "object", "properties": fields, "required": list(required)})


def takes(form: CallFormat, used: Tool, text: str, names: Mapping[str, int] | None = None) -> bool:
    """Whether a forced call may be a text, whose marks are tokens if they have `names`."""
    request = ChatRequest("1", "m", (Message("user", "?"),), tools=(used,), tool_choice="required")
    return accepts(call_constraint(request, form, names or {}), text, names)


@pytest.mark.parametrize(
    ("arguments", "good"),
    [
        ('city="Rome"', True), ("city='Rome'", True), ("city='L\\'A'", True), ('city="a", days=3', True),
        ('city="a",now=True', True), ('city="a", now=true', True), ('city="a", unit="c"', True),
        ('city="a", unit=1', True), ('city="a", code="AB"', True), ('city="a", more=["x", "y"]', True),
        ("", False), ("days=3", False), ('days=3, city="a"', False), ('city="a", unit="k"', False), ("city=3", False),
        ('city="a", code="ab"', False), ("city=\"a\", code='AB'", False), ('city="a", more=[1]', False),
        ('city="a" days=3', False), ('city="a", town=1', False),
    ],
)
def test_python(arguments: str, good: bool) -> None:
    """Values in the notation of JSON, with Python's words and quotes besides, in the order of the schema."""
    assert takes(PYTHON, tool("city", **FIELDS), f"<calls>[f({arguments})]</calls>") == good


@pytest.mark.parametrize("names", [{}, NAMES], ids=["letters", "tokens"])
@pytest.mark.parametrize(
    ("arguments", "good"),
    [
        ('city:<|"|>Ro"me<|"|>', True), ('city:<|"|>a<|"|>,days:3,now:true', True), ("days:3", True), ("", True),
        ('unit:<|"|>c<|"|>', True), ("unit:1", True), ('more:[<|"|>x<|"|>,<|"|>y<|"|>]', True), ("more:[]", True),
        ('code:<|"|>AB<|"|>', True), ('code:"AB"', False), ('code:<|"|>ab<|"|>', False), ("city:Rome", False),
        (",days:3", False), ("more:[1]", False), ('unit:<|"|>k<|"|>', False),
    ],
)
def test_braces(names: dict[str, int], arguments: str, good: bool) -> None:
    """Strings stand between the form's own quotes, as narrow as their schema wants them."""
    assert takes(BRACES, tool(**FIELDS), f"<call>call:f{{{arguments}}}</call>", names) == good


@pytest.mark.parametrize("end", ["</p>\n", "</<~>p>\n"])
@pytest.mark.parametrize(
    ("key", "string", "value", "good"),
    [
        ("city", "true", 'a "b"\n</x>', True), ("city", "false", '"a"', False), ("days", "false", "3", True),
        ("days", "true", "3", False), ("now", "false", "true", True), ("now", "false", "True", False),
        ("unit", "true", "c", True), ("unit", "false", "1", True), ("unit", "true", "1", False),
        ("code", "false", '"AB"', False), ("code", "true", "AB", True), ("code", "true", "ab", False),
        ("more", "false", '["x"]', True),
    ],
)
def test_tags_that_tell_strings(end: str, key: str, string: str, value: str, good: bool) -> None:
    """A tag says of each value whether it is a string, also where the end of values is a token in part."""
    form = evolve(TYPED, value_end=end)
    text = f'<calls>\n<invoke name="f">\n<p name="{key}" string="{string}">{value}{end}</invoke>\n</calls>'
    assert takes(form, tool(**FIELDS), text, NAMES) == good


def test_plain_tags_hold_words_of_python() -> None:
    """Where tags tell nothing of a value, a boolean may be written as Python does."""
    text = "<tool_call>\n<function=f>\n<parameter=now>\n{}\n</parameter>\n</function>\n</tool_call>"
    taken = [takes(TAGGED, tool(**FIELDS), text.format(word)) for word in ("true", "True", "yes")]
    assert taken == [True, True, False]
