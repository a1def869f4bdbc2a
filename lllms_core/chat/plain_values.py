"""Unquoted values between tags, as JSON; pure."""

import ast
import json
from collections.abc import Sequence

from lllms_core.chat.argument_types import ANY, Types, equal, type_of

_LONGEST_LITERAL = 10_000
"""Characters of a value in Python's notation; a longer one stays text."""
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def as_json(text: str, types: Types = ANY, listed: Sequence[object] = ()) -> str:
    """Return the JSON that a text means where values of `types` are allowed.

    That is the text itself if it is JSON of one of the types, or its translation from Python's notation; otherwise, and
    for JSON that is nested too deeply, it is the text as a string. If all types are allowed, quotes are JSON's;
    otherwise they belong to a string. `listed` are the only values allowed, if the schema lists them.
    """
    found = _read(text.strip())
    if found is None:
        return _string(text if "string" in types else text.strip())
    spelled, value = found
    kind = type_of(value)
    own_quotes = kind == "string" and types != ANY
    if own_quotes or kind not in types or (text in listed and not any(equal(value, one) for one in listed)):
        return _string(text if "string" in types else text.strip())
    return spelled


def _read(text: str) -> tuple[str, object] | None:
    """Return a value's JSON spelling and the value; None if the text is not a value."""
    spelled = _PYTHON_WORDS.get(text, text)
    try:
        return spelled, json.loads(spelled, parse_constant=_refuse)
    except (ValueError, RecursionError):
        translated = _python_as_json(text)
        return None if translated is None else (translated, json.loads(translated))


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _python_as_json(text: str) -> str | None:
    """Translate a list or an object in Python's notation, which many templates use."""
    if not text.startswith(("[", "{")) or len(text) > _LONGEST_LITERAL:
        return None
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _refuse(word: str) -> object:
    raise ValueError(word)
