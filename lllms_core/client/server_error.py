"""The error of the clients; pure."""

import json
from collections.abc import Mapping

from attrs import define, evolve

from lllms_core.errors import LllmsError

HINTS = {401: " (on the command line: by --api-key, or in the variable LLLMS_API_KEY)"}


@define(auto_exc=True, eq=False, slots=False)
class ServerError(LllmsError):
    """The server cannot be reached, or answers with an error."""

    text: str
    code: str = "unreachable"
    """The server's code for the error; "unreachable" if the connection failed, "unreadable" for an unknown answer."""
    parameter: str | None = None
    """The place in the request that is at fault."""
    retry_after: int | None = None
    """Seconds after which it may be worth trying again."""
    status: int = 0
    """The HTTP status; 0 if the connection failed or broke."""

    __str__ = LllmsError.__str__


def told_error(told: object, status: int = 200, place: str = "") -> ServerError:
    """Return the error that a server has told, in our shape or in OpenAI's; `place` begins its message."""
    error = told.get("error", told) if isinstance(told, Mapping) else told
    if not isinstance(error, Mapping):
        return ServerError(f"{place}{error}", "unreadable", status=status)
    after = error.get("retry_after")
    parameter = error.get("parameter", error.get("param"))
    return ServerError(
        f"{place}{error.get('message') or error}", str(error.get("code") or "unreadable"),
        None if parameter is None else str(parameter), after if isinstance(after, int) else None, status,
    )


def refused(status: int, text: str, url: str) -> ServerError:
    """Return the error for an answer with another status than 200."""
    place = f"{url} answers {status}: "
    try:
        error = told_error(json.loads(text), status, place)
    except ValueError:
        error = ServerError(f"{place}{text[:500]}", "unreadable", status=status)
    error.text += HINTS.get(status, "")
    return evolve(error)


def unreachable(url: str, error: Exception, *, nothing: bool) -> ServerError:
    """Return the error for a server that does not answer, `nothing` if nothing listens there."""
    way_out = "; start one there with `lllms serve`, or name another address" if nothing else ""
    return ServerError(f"no server answers at {url}: {str(error) or type(error).__name__}{way_out}")
