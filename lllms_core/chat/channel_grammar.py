"""The grammar of an answer in channels, and the choice of grammar for any answer; pure."""

import json
from collections.abc import Mapping
from typing import Literal

from lllms_core.chat.answer_format import AnswerFormat, ChannelFormat
from lllms_core.chat.call_grammar import call_constraint, forces_calls, json_schema
from lllms_core.chat.lark import Speller, literal, text_rule
from lllms_core.types import ChatRequest, Constraint, Tool

_MOST_THOUGHTS = 8
"""At most this many messages with thoughts before the forced part."""
_JSON = ("json_object", "json_schema")


def answer_constraint(request: ChatRequest, form: AnswerFormat, names: Mapping[str, int]) -> Constraint | None:
    """Return the constraint on the answer to a request, in the format of its model; None if it is free.

    See `call_constraint`, whose errors it raises. A grammar of channels starts with the answer, and omits the text of
    thoughts, with their end: an engine does not apply it during thoughts.
    """
    channels, given = form.channels, request.constraint
    if channels is None or (form.calls is None and request.tools):
        return given if form.calls is None else call_constraint(request, form.calls, names)
    continued = request.continued
    if not forces_calls(request) and (given is None or given.kind not in _JSON or continued):
        return given
    rules = _Rules(channels, names, request.tools).of(
        request, given, continued=continued, unseen=form.reasoning is not None,
    )
    param = "tool_choice" if request.tool_choice == "required" else "tools" if given is None else given.param
    return Constraint("lark", "\n".join(rules), param)


class _Rules:
    """Writes the rules of answers in channels."""

    def __init__(self, form: ChannelFormat, names: Mapping[str, int], tools: tuple[Tool, ...]) -> None:
        self._form = form
        self._spell = Speller(names)
        self._names = names
        self._tools = tools

    def of(self, request: ChatRequest, given: Constraint | None, *, continued: bool, unseen: bool) -> list[str]:
        """Return all rules. A `continued` answer starts as text; thoughts are `unseen` by the matcher, or text."""
        form, spell = self._form, self._spell
        required = request.tool_choice == "required"
        border = f"ended {spell(form.opening)}"
        thought = f"{self._header(form.thoughts)} {spell(form.opening) if unseen else border}"
        rest = f"thought{{0,{_MOST_THOUGHTS}}}"
        rules = [f"thought: {thought}", *self._texts(form.ends[0])]
        if required:
            rest = f"{rest} call"
        elif given is None:
            rules.append(f"said: {self._header(form.text)} | {self._header(form.calls)}")
            # Spelled in plain letters, the end of a text cannot be told from the text.
            before = f"(said {border})?" if form.ends[0] in self._names else ""
            rest = f"{rest} (said TEXT | {before} call)"
        else:
            rules.append(f"answer: {self._header(form.text, kind='maybe')} %json {json_schema(given)}")
            rest = f"{rest} (answer | call)" if self._tools else f"{rest} answer"
        start = f"start: {border} {rest}" if continued else f"start: {rest}"
        if not required and given is None:
            start = f"{start} | TEXT"
        return [start, *rules, *self._calls()]

    def _texts(self, end: str) -> list[str]:
        """Return the rules TEXT, of a text without an end, and `ended`, of one up to it."""
        ended, rules = self._spell.until("some_text", end)
        return [text_rule((self._form.channel, end), self._names), f"ended: {ended}", *rules]

    def _header(self, channel: str, *, kind: Literal["maybe", "no"] = "no") -> str:
        shown = f"({self._kind()})? " if kind == "maybe" else ""
        return f"{self._spell(self._form.channel)} {literal(channel)} {shown}{self._spell(self._form.body)}"

    def _kind(self) -> str:
        """Return the expression for a body's kind: JSON."""
        return f'" " ({self._spell(self._form.kind_mark)})? {literal(self._form.kind)}'

    def _calls(self) -> list[str]:
        """Return the rules of calls; as models write them, the recipient may be before or after the channel."""
        if not self._tools:
            return []
        form, spell = self._form, self._spell
        rules = [f"call: {' | '.join(f'call_{at}' for at in range(len(self._tools)))}"]
        for at, tool in enumerate(self._tools):
            recipient = literal(f" {form.address}{form.namespace}{tool.name}")
            start = spell(form.channel) + " " + literal(form.calls)
            kind = f"({self._kind()})?" if form.kind else ""
            header = f"({recipient} {start} | {start} {recipient}) {kind} {spell(form.body)}"
            rules += [f"call_{at}: {header} arguments_{at}", f"arguments_{at}: %json {json.dumps(tool.parameters)}"]
        return rules
