"""Errors in the shape of Anthropic's API; pure."""

from collections.abc import Mapping

from lllms_core.apis import Fault
from lllms_core.apis.explanations import short_message

OVERLOADED = 529
NO_ROOM = frozenset({"insufficient_memory", "waited_too_long", "shutting_down", "overloaded"})
"""Codes of faults that end when the server has room again."""
TYPES: Mapping[int, str] = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 504: "timeout_error", OVERLOADED: "overloaded_error",
}
"""By status; others are `invalid_request_error` below 500, and `api_error` above."""

UNTHREADED = "thread_unsupported_request"
"""The code by which clients learn that a server keeps no conversations: they send whole ones from then on."""


def status_of(fault: Fault) -> int:
    """Return the HTTP status of a fault."""
    return OVERLOADED if fault.status == 503 and fault.code in NO_ROOM else fault.status


def fault_value(fault: Fault) -> dict[str, object]:
    """Return `{"type": "error", "error": {"type", "message"}}`."""
    status = status_of(fault)
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    message = short_message(fault)
    if fault.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"  # the words by which clients know that they must shorten it
    told: dict[str, object] = {"type": kind, "message": message}
    if fault.code == UNTHREADED:
        told["details"] = {"error_code": UNTHREADED}
    return {"type": "error", "error": told}
