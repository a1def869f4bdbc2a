"""The faults of a request's JSON, worded as OpenAI words them."""

from lllms_core.errors import InvalidRequest, UnsupportedParameter
from lllms_core.parameters import kind_of


def missing(param: str) -> InvalidRequest:
    """Say that a required field is not there."""
    return InvalidRequest(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def unknown(param: str) -> InvalidRequest:
    """Say that a field does not exist."""
    return InvalidRequest(f"Unknown parameter: '{param}'.", param, "unknown_parameter")


def wrong_type(param: str, expected: str, value: object) -> InvalidRequest:
    """Say that a field has another JSON type than `expected`, like "a string"."""
    text = f"Invalid type for '{param}': expected {expected}, but got {kind_of(value)} instead."
    return InvalidRequest(text, param, "invalid_type")


def empty(param: str) -> InvalidRequest:
    """Say that an array needs at least one item."""
    text = f"Invalid '{param}': empty array. Expected an array with minimum length 1."
    return InvalidRequest(text, param, "empty_array")


def unsupported(param: str, *accepted: str) -> UnsupportedParameter:
    """Say that a field asks for what is not done, and with which values it asks for nothing."""
    way_out = f"leave it out, or send {' or '.join(accepted)}" if accepted else "leave it out"
    return UnsupportedParameter(f"'{param}' is not supported yet: {way_out}.", param, "unsupported_parameter")
