"""The calls of a script, in the notation of many real models."""

import json
from collections.abc import Sequence

from lllms_core.chat.answer_format import HERMES, AnswerFormat, ReasoningFormat
from lllms_mock.options import Call

THOUGHTS = ReasoningFormat()
FORMAT = AnswerFormat(HERMES, THOUGHTS)


def write_calls(calls: Sequence[Call]) -> str:
    """Return the calls as text, for the core to parse."""
    return HERMES.separator.join(
        f"{HERMES.call_start}{json.dumps({'name': call.name, 'arguments': call.arguments}, ensure_ascii=False)}"
        f"{HERMES.call_end}"
        for call in calls
    )


def write_thoughts(thoughts: str) -> str:
    """Return thoughts as text, to put before an answer."""
    return f"{THOUGHTS.start}\n{thoughts}\n{THOUGHTS.end}\n\n"
