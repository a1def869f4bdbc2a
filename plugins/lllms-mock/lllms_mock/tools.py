"""The calls of a script, written as many real models write them."""

import json
from collections.abc import Sequence

from lllms_core.chat.answer_format import HERMES, AnswerFormat, ReasoningFormat
from lllms_core.types import Tool
from lllms_mock.options import Call

THOUGHTS = ReasoningFormat()
FORMAT = AnswerFormat(HERMES, THOUGHTS)


def offered(calls: Sequence[Call], tools: Sequence[Tool]) -> list[Call]:
    """The calls of tools that a request offers."""
    names = {tool.name for tool in tools}
    return [call for call in calls if call.name in names]


def write_calls(calls: Sequence[Call]) -> str:
    """The calls as text, from which the core reads them again."""
    return HERMES.separator.join(
        f"{HERMES.call_start}{json.dumps({'name': call.name, 'arguments': call.arguments}, ensure_ascii=False)}"
        f"{HERMES.call_end}"
        for call in calls
    )


def write_thoughts(thoughts: str) -> str:
    """Thoughts as text, before an answer."""
    return f"{THOUGHTS.start}\n{thoughts}\n{THOUGHTS.end}\n\n"
