"""Errors in the shape of llama-server; pure."""

from collections.abc import Mapping

from lllms_core.apis import Fault
from lllms_core.apis.explanations import short_message

NOT_SUPPORTED = "not_supported"
"""The code of a fault that asks for what the model, or this server, never does."""
TYPES: Mapping[int, str] = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 501: "not_supported_error",
    503: "unavailable_error",
}
"""By status; others are `invalid_request_error` below 500, and `server_error` above."""


def status_of(fault: Fault) -> int:
    """Return the HTTP status of a fault."""
    return 501 if fault.code == NOT_SUPPORTED else fault.status


def fault_value(fault: Fault) -> dict[str, object]:
    """Return `{"error": {"code", "message", "type"}}`; the code is the HTTP status."""
    status = status_of(fault)
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    if fault.code == "context_length_exceeded":
        kind = "exceed_context_size_error"
    return {"error": {"code": status, "message": short_message(fault), "type": kind}}
