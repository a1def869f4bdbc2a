"""The arguments of past calls, even cut or broken ones, as objects, which many templates need; pure."""

import json
import re
from typing import cast

RAW = "raw_arguments"
"""The key of arguments that are no object, as text."""
_CUT_ESCAPE = re.compile(r"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\(?:u[0-9a-fA-F]{0,3})?$|\\u[dD][89abAB][0-9a-fA-F]{2}$")
"""The start of an escape, or half a character, at the end of a text."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[{}\[\],]', re.DOTALL)
_CUT_MEMBER = re.compile(r'\s*,?\s*(?:"[^"\\]*+(?:\\.[^"\\]*+)*+\\?"?\s*:?\s*)?[a-zA-Z0-9.+-]{0,24}', re.DOTALL)
"""The start of another member or item, without its value."""


def as_object(arguments: str) -> dict[str, object]:
    """Return arguments as an object.

    Cut ones are closed, without a member that had no value yet. Others that are no object are kept as text under the
    key `RAW`.
    """
    value = _loads(arguments or "{}")
    if isinstance(value, str):
        value = _loads(value)
    if isinstance(value, dict):
        return cast("dict[str, object]", value)
    if value is None and arguments.strip() == "null":
        return {}
    closed = _closed(arguments)
    return {RAW: arguments} if closed is None else closed


def is_object(arguments: str) -> bool:
    """Whether arguments are an object, completely written."""
    return isinstance(_loads(arguments), dict)


def as_text(arguments: str) -> str:
    """Return the text of an object: the arguments unchanged if they are one."""
    return arguments if is_object(arguments) else json.dumps(as_object(arguments), ensure_ascii=False)


def _loads(text: str) -> object:
    try:
        value: object = json.loads(text, strict=False)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half a character is invalid
    except (ValueError, RecursionError):  # a truncated answer, for example, or a thousand open brackets
        return None
    return value


def _closed(text: str) -> dict[str, object] | None:
    """Return the object whose text was cut; None if it is not the start of one."""
    opened: list[str] = []
    safe, open_string = 0, False
    for token in _TOKEN.finditer(text):
        kind = token[0][0]
        open_string = kind == '"' and not token[1]
        if kind in "{[":
            opened.append("}" if kind == "{" else "]")
            safe = token.end()
        elif kind in "}]":
            if opened[-1:] != [kind] or len(opened) == 1:
                return None
            opened.pop()
            safe = token.end()
        elif kind == ",":
            safe = token.start()
        if not opened:
            return None
    end = "".join(reversed(opened))
    value = _loads(_without_cut_escape(text) + '"' + end if open_string else text + end)
    if not isinstance(value, dict) and opened and _CUT_MEMBER.fullmatch(text, safe):
        value = _loads(text[:safe] + end)
    return value if isinstance(value, dict) else None


def _without_cut_escape(text: str) -> str:
    found = _CUT_ESCAPE.search(text, max(0, len(text) - 12))
    if found is None:
        return text
    head = text[: found.start()]
    escaped = (len(head) - len(head.rstrip("\\"))) % 2
    return text if escaped else head
