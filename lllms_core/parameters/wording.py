"""The faults of a request's JSON, in OpenAI's wording."""

from collections.abc import Mapping

from lllms_core.errors import InvalidRequest, UnsupportedParameter

LONGEST = 200
"""Characters of a client's own words that an error repeats."""


def cut(text: str) -> str:
    """Return a client's own words as an error repeats them: the first `LONGEST` characters."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def missing(param: str) -> InvalidRequest:
    """Return the error for a missing required field."""
    param = cut(param)
    return InvalidRequest(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def unknown(param: str) -> InvalidRequest:
    """Return the error for an unknown field."""
    param = cut(param)
    return InvalidRequest(f"Unknown parameter: '{param}'.", param, "unknown_parameter")


def wrong_type(param: str, expected: str, value: object) -> InvalidRequest:
    """Return the error for a field whose JSON type is not `expected`, like "a string"."""
    param = cut(param)
    text = f"Invalid type for '{param}': expected {expected}, but got {kind_of(value)} instead."
    return InvalidRequest(text, param, "invalid_type")


def wrong_value(param: str, fault: str, expected: str, value: object, code: str) -> InvalidRequest:
    """Return the error for a value out of bounds: `fault` names the bound, `expected` the accepted values."""
    param = cut(param)
    text = f"Invalid '{param}': {fault}. Expected {expected}, but got {_shown(value)} instead."
    return InvalidRequest(text, param, code)


def wrong_choice(param: str, value: object, *choices: str) -> InvalidRequest:
    """Return the error for a value that is not among the choices."""
    param = cut(param)
    text = f"Invalid value: '{_shown(value)}'. Supported values are: {', '.join(repr(one) for one in choices)}."
    return InvalidRequest(text, param, "invalid_value")


def empty(param: str) -> InvalidRequest:
    """Return the error for an empty array that needs at least one item."""
    param = cut(param)
    text = f"Invalid '{param}': empty array. Expected an array with minimum length 1."
    return InvalidRequest(text, param, "empty_array")


def unsupported(param: str, *accepted: str, by: str = "") -> UnsupportedParameter:
    """Return the error for an unsupported field (`by` names the engine), with the values that request nothing."""
    param = cut(param)
    way_out = f"leave it out, or send {' or '.join(accepted)}" if accepted else "leave it out"
    whose = f" by {by}" if by else ""
    return UnsupportedParameter(f"'{param}' is not supported{whose}: {way_out}.", param, "unsupported_parameter")


def kind_of(value: object) -> str:
    """Return the JSON type of a value, with its article."""
    if value is None:
        return "null"
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "a boolean"), (int, "an integer"), (float, "a decimal number"), (str, "a string"),
        ((list, tuple), "an array"), (Mapping, "an object"),
    ]
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def _shown(value: object) -> str:
    """A value as an error repeats it; of an array or object, which may be large, its kind."""
    simple = value is None or isinstance(value, str | int | float)
    return cut(str(value)) if simple else kind_of(value)
