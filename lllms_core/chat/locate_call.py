"""Find a probe's call in a template's output, and the form of the call itself; pure."""

import json
import re

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.tags import common_head

NAMES = ("probe_alpha", "probe_omega")
ARGUMENTS: tuple[dict[str, object], ...] = (
    {"probe_key": "probe-one", "probe_size": 1717}, {"probe_key": "probe-two", "probe_size": 1818},
)
_CLOSING = {"(": ")", "{": "}"}


def locate(text: str, at: int, after: int) -> tuple[int, int, CallFormat] | None:
    """Return the place of the probe's call in a text, at or after `after`, and the form of the call itself."""
    name = text.find(NAMES[at], after)
    if name < 0:
        return None
    found = _locate_object(text, at, after, name) or _locate_named(text, at, name)
    return found or _locate_keyword(text, at, name) or _locate_tagged(text, at, name)


def _locate_object(text: str, at: int, after: int, name: int) -> tuple[int, int, CallFormat] | None:
    decoder = json.JSONDecoder()
    for match in re.compile(r"\{").finditer(text, after, name):
        start = match.start()
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            continue
        names, arguments = _path(value, NAMES[at]), _path(value, ARGUMENTS[at])
        if not names or not arguments:
            continue
        parts = _parts(text[start:end], at)
        if parts is not None:
            return start, end, CallFormat("object", name_path=names, arguments_path=arguments, parts=parts)
    return None


def _path(value: object, wanted: object) -> tuple[str, ...]:
    """Return the keys that lead to a value in nested objects; arguments may also be text that holds them."""
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
    """Return the texts around the name and the arguments of a call that is an object; None if the name comes last."""
    name = json.dumps(NAMES[at])
    before, _, rest = call.partition(name)
    for match in re.compile(r'[{"]').finditer(rest):
        try:
            value, end = json.JSONDecoder().raw_decode(rest, match.start())
        except ValueError:
            continue
        if value == ARGUMENTS[at]:
            return before, rest[: match.start()], rest[end:]
    return None


def _locate_named(text: str, at: int, name: int) -> tuple[int, int, CallFormat] | None:
    behind = name + len(NAMES[at])
    start = text.find("{", behind)
    try:
        value, end = json.JSONDecoder().raw_decode(text, start) if start >= 0 else (None, 0)
    except ValueError:
        return None
    return (name, end, CallFormat("named", name_end=text[behind:start])) if value == ARGUMENTS[at] else None


def _spots(text: str, at: int, name: int) -> list[str] | None:
    """Return the texts between the name, both keys and both values, in order, and the text after the last."""
    pieces, end = [], name + len(NAMES[at])
    for word in (part for pair in ARGUMENTS[at].items() for part in map(str, pair)):
        start = text.find(word, end)
        if start < 0:
            return None
        pieces.append(text[end:start])
        end = start + len(word)
    return [*pieces, text[end:]]


def _locate_keyword(text: str, at: int, name: int) -> tuple[int, int, CallFormat] | None:
    """A call of two arguments in brackets, with the string in quotes; in some templates also the number."""
    spots = _spots(text, at, name)
    if spots is None:
        return None
    name_end, before, between, key_end, rest = spots
    closing = _CLOSING.get(name_end.strip())
    if key_end == before and key_end[-1:] in {"'", '"'} and rest.startswith(key_end[-1]):
        key_end, rest = key_end[:-1], rest[1:]
    quote = before.removeprefix(key_end)
    if closing is None or not key_end.strip() or not before.startswith(key_end) or not quote.strip():
        return None
    if not between.startswith(quote) or between.removeprefix(quote).strip() != "," or not rest.startswith(closing):
        return None
    form = CallFormat("keyword", name_end=name_end, key_end=key_end, quote=quote, arguments_end=closing)
    return name, len(text) - len(rest) + len(closing), form


def _locate_tagged(text: str, at: int, name: int) -> tuple[int, int, CallFormat] | None:
    """A call of two arguments with texts between them; it ends with the end of its last value."""
    spots = _spots(text, at, name)
    if spots is None:
        return None
    before, key_end, between, other_key_end, rest = spots
    if not key_end.strip() or not other_key_end.strip():
        return None
    value_end = common_head(between, rest)
    parameter_start = between[len(value_end) :]
    if not value_end.strip() or not parameter_start.strip() or not before.endswith(parameter_start):
        return None
    form = CallFormat(
        "tagged", name_end=before.removesuffix(parameter_start), parameter_start=parameter_start, key_end=key_end,
        other_key_end="" if other_key_end == key_end else other_key_end, value_end=value_end,
    )
    return name, len(text) - len(rest) + len(value_end), form
