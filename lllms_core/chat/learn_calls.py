"""Learning from a template how its model writes calls: small conversations are rendered and compared; pure."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import product

from attrs import evolve, frozen

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.history import CallStyle
from lllms_core.chat.probe import Probe, Render
from lllms_core.types import Message, Tool, ToolCall

_TAG = re.compile(r"<[^<>\n]{1,60}>|\[/?[A-Z_]{2,}\]")
_ASK = Message("user", "probe-ask")
_REPLY = Message("assistant", "probe-reply")
_TOOL = Tool("probe_tool", "probe-purpose", {"type": "object", "properties": {"probe_key": {"type": "string"}}})
_NAMES = ("probe_alpha", "probe_omega")
_ARGUMENTS: tuple[dict[str, object], ...] = (
    {"probe_key": "probe-one", "probe_size": 1717}, {"probe_key": "probe-two", "probe_size": 1818},
)
_IDS = ("callprob1", "callprob2")


@frozen
class ToolSupport:
    """What a template does about tools."""

    declares: bool
    """It shows the tools that there are."""
    style: CallStyle | None
    """How it wants to be given calls; None: it does not show them."""
    results: bool
    """It shows what a tool's message says."""
    calls: CallFormat | None
    """How its model writes calls, as far as that could be learnt."""


def learn_tools(render: Render) -> ToolSupport:
    """Find out by rendering; templates that know nothing of tools ignore them, or refuse the conversation."""
    shown = render(Probe([_ASK], [_TOOL]))
    declares = shown is not None and _TOOL.name in shown
    style = _find_style(render)
    if style is None:
        return ToolSupport(declares, None, results=False, calls=None)
    results = _shows_result(render, style)

    def write(calls: Sequence[ToolCall]) -> str | None:
        return _written(render, style, calls)

    return ToolSupport(declares, style, results, learn_calls(write))


def learn_calls(write: Callable[[Sequence[ToolCall]], str | None]) -> CallFormat | None:
    """Learn the form of calls from something that writes them; None if it is none of the known shapes."""
    first, second = (_call(at) for at in (0, 1))
    one, two = write([first]), write([first, second])
    alone = None if one is None else _locate(one, 0, 0)
    if one is None or alone is None:
        return None
    start, end, form = alone
    head, tail = one[:start], one[end:]
    if two is None or not two.startswith(one[:end]) or (other := _locate(two, 1, end)) is None:
        return _with_texts(form, head, tail, None)
    between = two[end : other[0]]
    return _with_texts(form, head, tail, between if two[other[1] :] == tail else None)


# -- what the template takes -------------------------------------------------------------------------------------------


def _call(at: int, *, long_id: bool = False) -> ToolCall:
    return ToolCall(f"call_probe_{at}" if long_id else _IDS[at], _NAMES[at], json.dumps(_ARGUMENTS[at]))


def _find_style(render: Render) -> CallStyle | None:
    for short, text, null in product((False, True), repeat=3):
        style = CallStyle(text, null, short)
        call = _call(0, long_id=True)
        messages = [_ASK, Message("assistant", "", tool_calls=(call,))]
        shown = render(Probe(messages, [_TOOL], style, generate=False))
        # Python's way to print an object, and quotes that were escaped once more, are no way to write a call.
        if (
            shown is not None and call.name in shown and "probe-one" in shown
            and "'probe_key'" not in shown and '\\"probe_key' not in shown
        ):
            return style
    return None


def _shows_result(render: Render, style: CallStyle) -> bool:
    call = _call(0, long_id=True)
    result = Message("tool", "probe-result", call.name, tool_call_id=call.id)
    shown = render(Probe([_ASK, Message("assistant", "", tool_calls=(call,)), result], [_TOOL], style))
    return shown is not None and "probe-result" in shown


def _written(render: Render, style: CallStyle, calls: Sequence[ToolCall]) -> str | None:
    """What stands between the header of an answer with these calls and its end."""
    plain = render(Probe([_ASK, _REPLY], [_TOOL], style, generate=False))
    called = render(
        Probe([_ASK, Message("assistant", "", tool_calls=tuple(calls))], [_TOOL], style, generate=False),
    )
    if plain is None or called is None or _REPLY.content not in plain:
        return None
    before, _, after = plain.rpartition(_REPLY.content)
    prompt = render(Probe([_ASK], [_TOOL], style))
    start = _snap_down(_alike(before, called), before, called)
    if prompt is not None and called.startswith(prompt):
        start = max(start, len(prompt))
    end = _snap_up(_alike(after[::-1], called[start:][::-1]), after, called)
    return called[start : len(called) - end]


# -- where a call is ---------------------------------------------------------------------------------------------------


def _locate(text: str, at: int, after: int) -> tuple[int, int, CallFormat] | None:
    """Where the probe's call stands in a text, from `after` on, and the form of the call itself."""
    name = text.find(_NAMES[at], after)
    if name < 0:
        return None
    return _locate_object(text, at, after, name) or _locate_named(text, at, name) or _locate_tagged(text, at, name)


def _locate_object(text: str, at: int, after: int, name: int) -> tuple[int, int, CallFormat] | None:
    decoder = json.JSONDecoder()
    for match in re.compile(r"\{").finditer(text, after, name):
        start = match.start()
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            continue
        names, arguments = _path(value, _NAMES[at]), _path(value, _ARGUMENTS[at])
        if not names or not arguments:
            continue
        parts = _parts(text[start:end], at)
        if parts is not None:
            return start, end, CallFormat("object", name_path=names, arguments_path=arguments, parts=parts)
    return None


def _path(value: object, wanted: object) -> tuple[str, ...]:
    """The keys that lead to a value in nested objects; arguments may also be text that holds them."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if item == wanted or (isinstance(wanted, dict) and isinstance(item, str) and _loads(item) == wanted):
            return (key,)
        if found := _path(item, wanted):
            return (key, *found)
    return ()


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _parts(call: str, at: int) -> tuple[str, str, str] | None:
    """What stands around the name and the arguments of a call that is an object; None if the name comes last."""
    name = json.dumps(_NAMES[at])
    before, _, rest = call.partition(name)
    for match in re.compile(r'[{"]').finditer(rest):
        try:
            value, end = json.JSONDecoder().raw_decode(rest, match.start())
        except ValueError:
            continue
        if value == _ARGUMENTS[at]:
            return before, rest[: match.start()], rest[end:]
    return None


def _locate_named(text: str, at: int, name: int) -> tuple[int, int, CallFormat] | None:
    behind = name + len(_NAMES[at])
    start = text.find("{", behind)
    try:
        value, end = json.JSONDecoder().raw_decode(text, start) if start >= 0 else (None, 0)
    except ValueError:
        return None
    return (name, end, CallFormat("named", name_end=text[behind:start])) if value == _ARGUMENTS[at] else None


def _locate_tagged(text: str, at: int, name: int) -> tuple[int, int, CallFormat] | None:
    """A call of two arguments with texts between them; the end is that of its last value."""
    spots = [name, name + len(_NAMES[at])]
    for word in (part for pair in _ARGUMENTS[at].items() for part in map(str, pair)):
        start = text.find(word, spots[-1])
        if start < 0:
            return None
        spots += [start, start + len(word)]
    _, name_stop, key, key_stop, value, value_stop, next_key, next_key_stop, next_value, last = spots
    key_end, between = text[key_stop:value], text[value_stop:next_key]
    if not key_end.strip() or text[next_key_stop:next_value] != key_end:
        return None
    value_end = _common_head(between, text[last:])
    parameter_start = between[len(value_end) :]
    before = text[name_stop:key]
    if not value_end.strip() or not parameter_start.strip() or not before.endswith(parameter_start):
        return None
    form = CallFormat(
        "tagged", name_end=before.removesuffix(parameter_start), parameter_start=parameter_start, key_end=key_end,
        value_end=value_end,
    )
    return name, last + len(value_end), form


# -- what stands around ------------------------------------------------------------------------------------------------


def _with_texts(form: CallFormat, head: str, tail: str, between: str | None) -> CallFormat:
    """Tell apart what belongs to each call and what to all: `between` two calls stands the end of one, and more."""
    if between is None:
        return evolve(form, call_start=head, call_end=tail, parallel=False)
    call_end = _common_head(between, tail)
    rest = between[len(call_end) :]
    call_start = _common_tail(rest, head)
    return evolve(
        form, section_start=head.removesuffix(call_start), call_start=call_start, call_end=call_end,
        separator=rest.removesuffix(call_start), section_end=tail[len(call_end) :],
    )


def _common_head(one: str, other: str) -> str:
    """The text with which both begin, not cut inside of a tag."""
    return one[: _snap_down(_alike(one, other), one, other)]


def _common_tail(one: str, other: str) -> str:
    """The text with which both end, not cut inside of a tag."""
    return one[len(one) - _snap_up(_alike(one[::-1], other[::-1]), one, other) :]


def _alike(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _snap_down(length: int, *texts: str) -> int:
    """How long a common beginning of `length` is without the part of a tag at its end."""
    for text in texts:
        length = min([length, *(tag.start() for tag in _TAG.finditer(text) if tag.start() < length < tag.end())])
    return length


def _snap_up(length: int, *texts: str) -> int:
    """How long a common end of `length` is without the part of a tag at its beginning."""
    for text in texts:
        cut = len(text) - length
        length = min([length, *(len(text) - tag.end() for tag in _TAG.finditer(text) if tag.start() < cut < tag.end())])
    return length
