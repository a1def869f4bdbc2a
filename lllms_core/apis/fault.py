"""An error as a client sees it, before a dialect gives it a shape."""

from collections.abc import Mapping

from attrs import frozen

INVALID = "invalid_request_error"
SERVER = "server_error"
LIMIT = "rate_limit_error"
UNKNOWN = "authentication_error"


@frozen
class Fault:
    """An error as a client sees it; each API gives it a shape."""

    status: int
    """The HTTP status."""
    message: str
    type: str
    """`invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`."""
    param: str | None
    """The place in the request that is at fault."""
    code: str
    headers: Mapping[str, str]
    """Headers of the answer, like `Retry-After`."""
