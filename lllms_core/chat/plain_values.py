"""Unquoted values between tags, as JSON; pure."""

import ast
import json

_LONGEST_LITERAL = 10_000
"""Characters of a value in Python's notation; a longer one stays text."""
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def as_json(text: str) -> str:
    """Return a value unchanged if it is JSON, translated if it is Python's, else (or if nested too deeply) a string."""
    text = _PYTHON_WORDS.get(text, text)
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _python_as_json(text) or json.dumps(text, ensure_ascii=False)
    return text


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
