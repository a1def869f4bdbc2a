"""Learn from a template how its model writes calls: render small conversations and compare them; pure."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import Literal

from attrs import evolve, frozen

from lllms_core.chat.answer_format import ANY_ID, ANY_NUMBER, CallFormat
from lllms_core.chat.history import CallStyle
from lllms_core.chat.locate_call import ARGUMENTS, NAMES, locate
from lllms_core.chat.probe import Render, TemplateProbe
from lllms_core.chat.tags import TAG, alike, common_head, common_tail, snap_down, snap_up
from lllms_core.chat.told_calls import learn_told
from lllms_core.types import Message, Tool, ToolCall

_LAST_TAG = re.compile(r"(<[^<>/\n]{1,60}>)\s*$")
_ASK = Message("user", "probe-ask")
_REPLY = Message("assistant", "probe-reply")
_TOOL = Tool("probe_tool", "probe-purpose", {"type": "object", "properties": {"probe_key": {"type": "string"}}})
_IDS = ("callprob1", "callprob2")
_ID_STYLES: tuple[Literal["own", "short", "named"], ...] = ("own", "short", "named")


@frozen
class ToolSupport:
    """A template's support for tools."""

    declares: bool
    """Whether it shows the available tools."""
    style: CallStyle | None
    """The style in which it expects calls; None: it does not show them."""
    results: bool
    """Whether it shows the content of a tool's message."""
    calls: CallFormat | None
    """How its model writes calls, as far as could be learnt."""


def learn_tools(render: Render, end: str = "", thoughts: str = CallStyle.thoughts) -> ToolSupport:
    """Find out by rendering; templates that do not support tools ignore them, or refuse the conversation.

    `end`: the text of the token that ends answers. `thoughts`: the key of a message's thoughts.
    """
    shown = render(TemplateProbe([_ASK], [_TOOL]))
    declares = shown is not None and _TOOL.name in shown
    told = learn_told(shown, render(TemplateProbe([_ASK])) or "") if shown is not None and declares else None
    style = _find_style(render)
    if style is None:
        return ToolSupport(declares, None, results=declares and _shows_result(render, None), calls=told)
    results = _shows_result(render, style)
    own_end = _own_end(*(_written(render, style, [_call(at) for at in range(count)], end) for count in (1, 2)))

    def write(calls: Sequence[ToolCall]) -> str | None:
        found = _written(render, style, calls, end)
        return None if found is None else found.text.rstrip().removesuffix(own_end) if own_end else found.text

    detailed = _details(render, evolve(style, thoughts=thoughts))
    calls = learn_calls(write)
    return ToolSupport(declares, detailed, results, told if calls is None else evolve(calls, answer_end=own_end))


def learn_calls(write: Callable[[Sequence[ToolCall]], str | None]) -> CallFormat | None:
    """Learn the form of calls from a function that writes them; None if it has none of the known shapes."""
    form = _learn_form(write)
    if form is None or form.shape != "tagged":
        return form
    if form.other_key_end and not _tells_strings(write, form):
        return None
    markup = write([ToolCall(_IDS[0], NAMES[0], '{"probe_key": "a<b"}')]) or ""
    return evolve(form, cdata="<![CDATA[a<b]]>" in markup)


def _tells_strings(write: Callable[[Sequence[ToolCall]], str | None], form: CallFormat) -> bool:
    """Whether tags show only whether a value is a string."""
    values: list[object] = ["probe-text", True, None, 1.5, ["probe-item"], {"probe_inner": "probe-deep"}]
    arguments = json.dumps({f"probe_{number}": value for number, value in enumerate(values)})
    written = write([ToolCall(_IDS[0], NAMES[0], arguments)]) or ""
    starts = [f"{form.parameter_start}probe_{number}" for number in range(len(values))]
    ends = [form.key_end, *[form.other_key_end] * (len(values) - 1)]
    return all(start + end in written for start, end in zip(starts, ends, strict=True))


def _learn_form(write: Callable[[Sequence[ToolCall]], str | None]) -> CallFormat | None:
    first, second = (_call(at) for at in (0, 1))
    one, two = (_with_any_id(write(calls)) for calls in ([first], [first, second]))
    alone = None if one is None else locate(one, 0, 0)
    if one is None or alone is None:
        return None
    start, end, form = alone
    head, tail = one[:start], one[end:]
    if two is None or not two.startswith(one[:end]) or (other := locate(two, 1, end)) is None:
        return _usable(_with_texts(form, head, tail, None))
    between = two[end : other[0]]
    same = _numbered(form, other[2])
    if same is None:
        return None
    return _usable(_with_texts(same, head, tail, between if two[other[1] :] == tail else None))


def _with_any_id(written: str | None) -> str | None:
    """Replace ids by the placeholder."""
    return None if written is None else re.sub("|".join(_IDS), ANY_ID, written)


def _numbered(one: CallFormat, other: CallFormat) -> CallFormat | None:
    """Return the form common to two calls, apart from their numbers; None if they differ in more."""
    pairs = zip((one.name_end, *one.parts), (other.name_end, *other.parts), strict=True)
    texts = [text for a, b in pairs if (text := _numbered_text(a, b)) is not None]
    if len(texts) < 4:
        return None
    name_end, before, between, after = texts
    form = evolve(one, name_end=name_end, parts=(before, between, after))
    return form if form == evolve(other, name_end=name_end, parts=form.parts) else None


def _numbered_text(one: str, other: str) -> str | None:
    """Return the text of the first and the second call, if it differs only in a number that goes up by one."""
    first, second = (re.split(r"([0-9]+)", text) for text in (one, other))
    if len(first) != len(second):
        return None
    pairs = list(zip(first, second, strict=True))
    if any(a != b and not (a.isdigit() and b.isdigit() and int(a) + 1 == int(b)) for a, b in pairs):
        return None
    return "".join(a if a == b else ANY_NUMBER for a, b in pairs)


def _usable(form: CallFormat) -> CallFormat | None:
    """Return the form, unless it cannot tell calls from text, or contains parts that vary between calls."""
    if form.shape != "object" and not form.mark:
        return None
    return None if any(NAMES[0] in text for text in (*form.markers, *form.parts)) else form


# -- the template's requirements ---------------------------------------------------------------------------------------


def _call(at: int, *, long_id: bool = False) -> ToolCall:
    return ToolCall(f"call_probe_{at}" if long_id else _IDS[at], NAMES[at], json.dumps(ARGUMENTS[at]))


def _find_style(render: Render) -> CallStyle | None:
    for ids, text, null in product(_ID_STYLES, (False, True), (False, True)):
        style = CallStyle(text, null, ids)
        call = _call(0, long_id=True)
        messages = [_ASK, Message("assistant", "", tool_calls=(call,))]
        shown = (render(TemplateProbe(messages, [_TOOL], style, generate=False)) or "").partition(call.name)[2]
        # Python's notation of an object and doubly escaped quotes are not valid calls.
        if "probe-one" in shown and "'probe_key'" not in shown and '\\"probe_key' not in shown:
            return style
    return None


def _details(render: Render, style: CallStyle) -> CallStyle:
    """Return the style with the template's other requirements: each is set only if rendering fails without it."""
    calls = tuple(_call(at, long_id=True) for at in range(2))
    results = [Message("tool", "probe-result", call.name, tool_call_id=call.id) for call in calls]
    said = Message("assistant", "probe-text", tool_calls=calls[:1], reasoning="probe-thought")
    several = TemplateProbe([_ASK, Message("assistant", "", tool_calls=calls), *results], [_TOOL], style)
    beside = TemplateProbe([_ASK, said, results[0]], [_TOOL], style)
    plain = TemplateProbe([_ASK], [Tool(_TOOL.name, parameters=_TOOL.parameters)], style)

    def helps(probe: TemplateProbe, better: CallStyle, *names: str) -> bool:
        before, after = render(probe), render(evolve(probe, style=better))
        return (before is None or any(name not in before for name in names)) and after is not None and all(
            name in after for name in names
        )

    return evolve(
        style, one_call=helps(several, evolve(style, one_call=True), *NAMES),
        no_text=helps(beside, evolve(style, no_text=True)), described=helps(plain, evolve(style, described=True)),
    )


def _shows_result(render: Render, style: CallStyle | None) -> bool:
    """Whether a tool's result is shown after a call, in words if the template shows no calls."""
    call = _call(0, long_id=True)
    said = Message("assistant", "probe-text") if style is None else Message("assistant", "", tool_calls=(call,))
    result = Message("tool", "probe-result", call.name, tool_call_id=call.id)
    shown = render(TemplateProbe([_ASK, said, result], [_TOOL], style or CallStyle()))
    return shown is not None and "probe-result" in shown


@frozen
class _Written:
    """The text between the header of an answer with calls and its end."""

    text: str
    open: bool
    """Whether its end differs from that of other answers, so that it may be part of the text."""


def _own_end(one: _Written | None, two: _Written | None) -> str:
    """Return the tag that ends answers with calls, one or two, if their end differs from other answers; or ""."""
    if one is None or two is None or not one.open or not (found := _LAST_TAG.search(one.text)):
        return ""
    return found[1] if two.text.rstrip().endswith(found[1]) and two.text.count(found[1]) == 1 else ""


def _written(render: Render, style: CallStyle, calls: Sequence[ToolCall], end_token: str) -> _Written | None:
    plain = render(TemplateProbe([_ASK, _REPLY], [_TOOL], style, generate=False))
    called = render(
        TemplateProbe([_ASK, Message("assistant", "", tool_calls=tuple(calls))], [_TOOL], style, generate=False),
    )
    if plain is None or called is None or _REPLY.content not in plain:
        return None
    before, _, after = plain.rpartition(_REPLY.content)
    prompt = render(TemplateProbe([_ASK], [_TOOL], style))
    start = snap_down(alike(before, called), before, called)
    if prompt is not None and called.startswith(prompt):
        start = max(start, len(prompt))
    end = snap_up(alike(after[::-1], called[start:][::-1]), after, called)
    written = called[start : len(called) - end]
    for mark in (end_token, after.strip()):
        # After the end of the answer, some templates write the start of the next message.
        written = _up_to(mark, written)
    return _Written(written, bool(TAG.search(after)) and not TAG.search(called[len(called) - end :]))


def _up_to(mark: str, written: str) -> str:
    """Return the text before `mark`, if that is a tag, or ends with one, and comes after the arguments."""
    values = max(written.rfind(str(value)) for arguments in ARGUMENTS for value in arguments.values())
    found = written.find(mark, values + 1) if TAG.search(mark) else -1
    return written if found < 0 else written[:found]


# -- surrounding texts -------------------------------------------------------------------------------------------------


def _with_texts(form: CallFormat, head: str, tail: str, between: str | None) -> CallFormat:
    """Split the texts around single calls from those around all: `between` two calls starts with the end of one."""
    if between is None:
        return evolve(form, call_start=head, call_end=tail, parallel=False)
    call_end = common_head(between, tail)
    rest = between[len(call_end) :]
    call_start = common_tail(rest, head)
    return evolve(
        form, section_start=head.removesuffix(call_start), call_start=call_start, call_end=call_end,
        separator=rest.removesuffix(call_start), section_end=tail[len(call_end) :],
    )
