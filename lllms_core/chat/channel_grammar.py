"""The grammar of an answer in channels, and the choice of grammar for any answer; pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from lllms_core.chat.answer_format import AnswerFormat, ChannelFormat
from lllms_core.chat.call_grammar import call_constraint, forces_calls, json_schema, lazy_calls, lazy_grammar
from lllms_core.chat.lark import Speller, lark, literal
from lllms_core.chat.lazy_grammar import LazyGrammar, channel_cue, selectors
from lllms_core.types import ChatRequest, Constraint, Tool

_MOST_THOUGHTS = 8
"""At most this many messages with thoughts before the forced part."""
_JSON = ("json_object", "json_schema")


def answer_constraint(
    request: ChatRequest, form: AnswerFormat, names: Mapping[str, int],
) -> Constraint | LazyGrammar | None:
    """Return the constraint on the answer to a request, in the format of its model; None if it is free.

    If calls are optional, that is the lazy grammar of the calls. Raises the errors of `call_constraint`. A grammar of
    channels starts with the answer, and omits the text and the end of thoughts: an engine does not apply it during
    thoughts.
    """
    channels, calls, given = form.channels, form.calls, request.constraint
    if calls is None and (channels is None or request.tools):
        return given
    continued = request.continued
    if request.tools and not forces_calls(request):
        if channels is not None:
            return _lazy(request, channels, names, continued=continued)
        return None if calls is None else lazy_calls(request, calls, names, _other_marks(form))
    if channels is None:
        return given if calls is None else call_constraint(request, calls, names)
    if not forces_calls(request) and (given is None or given.kind not in _JSON or continued):
        return given
    rules = _Rules(channels, names, request.tools).of(
        request, given, continued=continued, unseen=form.reasoning is not None,
    )
    param = "tool_choice" if given is None or request.tool_choice == "required" else given.param
    return lark(param, rules)


def _lazy(
    request: ChatRequest, form: ChannelFormat, names: Mapping[str, int], *, continued: bool,
) -> LazyGrammar:
    """Return the grammar of calls in channels, from the start of their recipient on."""
    return lazy_grammar(
        request.tools, lambda tools: lark("tools", _Rules(form, names, tools).begun()),
        channel_cue(form, continued=continued),
    )


def _other_marks(form: AnswerFormat) -> tuple[str, ...]:
    thoughts = () if form.reasoning is None else (form.reasoning.start, form.reasoning.end)
    return (form.text_start, *thoughts)


class _Rules:
    """Writes the rules of answers in channels."""

    def __init__(self, form: ChannelFormat, names: Mapping[str, int], tools: Sequence[Tool]) -> None:
        self._form = form
        self._spell = Speller(names, form.markers)
        self._tools = tools

    def of(self, request: ChatRequest, given: Constraint | None, *, continued: bool, unseen: bool) -> list[str]:
        """Return all rules. A `continued` answer starts as text; thoughts are `unseen` by the matcher, or text."""
        form, spell = self._form, self._spell
        border = f"ended {spell(form.opening)}"
        thought = f"{self._header(form.thoughts)} {spell(form.opening) if unseen else border}"
        rest = f"thought{{0,{_MOST_THOUGHTS}}}"
        rules = [f"thought: {thought}", *self._ended(form.ends[0])]
        if request.tool_choice == "required" or given is None:
            rest = f"{rest} call"
        else:
            rules.append(f"answer: {self._header(form.text, kind='maybe')} %json {json_schema(given)}")
            rest = f"{rest} (answer | call)" if self._tools else f"{rest} answer"
        start = f"start: {border} {rest}" if continued else f"start: {rest}"
        return [start, *rules, *self._calls()]

    def begun(self) -> list[str]:
        """Return all rules of one call, from the text that its cue selects: recipient after channel, or before it."""
        form, spell = self._form, self._spell
        after, before = map(literal, selectors(2))
        rules = [f"start: {after} after | {before} before"]
        for at, tool in enumerate(self._tools):
            kind = f"({self._kind()})? " if form.kind else ""
            rest = f"{kind}{spell(form.body)} arguments_{at}"
            channel = f"{spell(form.channel)} {literal(form.calls)}"
            rules += [
                f"after_{at}: {literal(form.namespace + tool.name)} {rest}",
                f"before_{at}: {literal(tool.name)} {channel} {rest}",
                f"arguments_{at}: %json {json.dumps(tool.parameters)}",
            ]
        for rule in ("after", "before"):
            rules.append(f"{rule}: {' | '.join(f'{rule}_{at}' for at in range(len(self._tools)))}")
        return rules

    def _ended(self, end: str) -> list[str]:
        """Return the rule `ended`: a text up to and including its end."""
        ended, rules = self._spell.until("some_text", end)
        return [f"ended: {ended}", *rules]

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
