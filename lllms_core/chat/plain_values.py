"""Values that stand between tags, without quotes, as JSON; pure."""

import ast
import json

_LONGEST_LITERAL = 10_000
"""Characters of a value in Python's spelling; a longer one stays text."""
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def as_json(text: str) -> str:
    """A value as it is if it is JSON, translated if it is Python's, else as a string; so is one nested too deeply."""
    text = _PYTHON_WORDS.get(text, text)
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _python_as_json(text) or json.dumps(text, ensure_ascii=False)
    return text


def _python_as_json(text: str) -> str | None:
    """A list or an object that is written as Python writes it, as many templates do."""
    if not text.startswith(("[", "{")) or len(text) > _LONGEST_LITERAL:
        return None
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _refuse(word: str) -> object:
    raise ValueError(word)
