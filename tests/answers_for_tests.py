"""Reads raw answers with the parser."""

import json
from collections.abc import Sequence
from typing import Any

from attrs import define, field

from lllms_core.chat.answer_format import HERMES, AnswerFormat, CallFormat, ReasoningFormat
from lllms_core.chat.parser import AnswerParser, Pieces
from lllms_core.types import Tool

TOOLS = (
    Tool("get_weather", parameters={"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}),
    Tool("add", parameters={"properties": {"a": {"type": "number"}, "b": {"type": "number"}}}),
)
RUN = Tool("run", parameters={"type": "object", "properties": {"command": {"type": "string"}, "n": {}}})
THINK = ReasoningFormat()
FUNCTION = "<function=run>\n<parameter=command>\nls\n</parameter>\n</function>"
"""A tagged call, without the marks around it."""


@define
class Answer:
    """The pieces of an answer, put together."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(factory=list)
    """Id, name and arguments of each call."""
    cut: bool = False

    def add(self, pieces: Pieces) -> None:
        self.text += pieces.text
        self.reasoning += pieces.reasoning
        for piece in pieces.calls:
            if piece.index == len(self.calls):
                assert piece.id
                assert piece.name, "the first piece of a call names it"
                self.calls.append([piece.id, piece.name, ""])
            else:
                assert not piece.id + piece.name
            self.calls[piece.index][2] += piece.arguments

    @property
    def made(self) -> list[tuple[str, object]]:
        return [(name, json.loads(arguments)) for _, name, arguments in self.calls]


def parse(
    *pieces: str, calls: CallFormat | None = HERMES, reasoning: ReasoningFormat | None = None,
    tools: Sequence[Tool] = TOOLS, complete: bool = True, parallel: bool = True, thinking: bool = False,
    kept: bool = False, following: str = "",
) -> Answer:
    parser = AnswerParser(
        AnswerFormat(calls, reasoning), tools, answer_id="7", parallel=parallel, thinking=thinking,
    )
    parser.kept = kept
    answer = Answer()
    for piece in pieces:
        answer.add(parser.feed(piece))
    answer.add(parser.finish(complete=complete, following=following))
    answer.cut = parser.cut
    return answer


def read(raw: str, calls: CallFormat = HERMES, **fields: Any) -> Answer:
    """Parse an answer to a request that offers `RUN` and `TOOLS`; checks that any split into pieces gives the same."""
    fields.setdefault("tools", (RUN, *TOOLS))
    whole = parse(raw, calls=calls, **fields)
    assert whole == parse(*raw, calls=calls, **fields)
    return whole


def hermes(text: str) -> str:
    """Put the call marks around a text."""
    return f"<tool_call>\n{text}\n</tool_call>"


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
