"""Call formats of every shape."""

from lllms_core.chat.answer_format import HERMES, CallFormat

BARE = CallFormat(
    "object", arguments_path=("parameters",), parts=('{"name": ', ', "parameters": ', "}"),
)
LIST = CallFormat("object", section_start="[TOOL_CALLS] [", separator=", ", section_end="]")
NESTED = CallFormat("object", call_start="<c>", call_end="</c>", name_path=("function", "name"),
                    arguments_path=("function", "arguments"),
                    parts=('{"function": {"name": ', ', "arguments": ', "}}"))
NAMED = CallFormat(
    "named", section_start="<calls>", call_start="<call>function<sep>", name_end="\n```json\n",
    call_end="\n```</call>", separator="\n", section_end="</calls>",
)
TAGGED = CallFormat(
    "tagged", call_start="<tool_call>\n<function=", name_end=">\n", parameter_start="<parameter=", key_end=">\n",
    value_end="\n</parameter>\n", call_end="</function>\n</tool_call>", separator="\n",
)
PYTHON = CallFormat(
    "keyword", section_start="<calls>[", separator=", ", section_end="]</calls>", name_end="(", key_end="=", quote="'",
    arguments_end=")",
)
BRACES = CallFormat(
    "keyword", call_start="<call>call:", call_end="</call>", name_end="{", key_end=":", quote='<|"|>',
    arguments_end="}",
)
LINES = CallFormat(
    "keyword", section_start="<calls>\n", call_end="\n", section_end="</calls>", name_end="(", key_end="=", quote='"',
    arguments_end=")",
)
TYPED = CallFormat(
    "tagged", section_start="<calls>\n", call_start='<invoke name="', name_end='">\n', parameter_start='<p name="',
    key_end='" string="true">', other_key_end='" string="false">', value_end="</p>\n", call_end="</invoke>\n",
    section_end="</calls>",
)
FORMS = {
    "hermes": HERMES, "bare": BARE, "list": LIST, "nested": NESTED, "named": NAMED, "tagged": TAGGED,
    "python": PYTHON, "braces": BRACES, "lines": LINES, "typed": TYPED,
}
