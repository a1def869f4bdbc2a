"""Derives everything that the pool and a worker need from a request, which is costly for a large one."""

from collections.abc import Hashable, Sequence

from lllms_core.chat import prefix_keys, text_prefix_keys
from lllms_core.errors import EngineFailed, InvalidRequest, LllmsError
from lllms_core.parameters.wording import cut
from lllms_core.queries import AnyRequest, Prepared
from lllms_core.types import Request, TextRequest
from lllms_core.worker.wire import Open, encode


def prepare(request: AnyRequest, *, framed: bool) -> Prepared:
    """Prepare a request; from any thread. Raises `LllmsError` if it cannot be sent to a worker."""
    try:
        return Prepared(request, _prefixes(request), encode(Open(request)) if framed else None)
    except Exception as error:
        raise unsendable(error) from error


def unsendable(error: Exception) -> LllmsError:
    """Return the error for the client whose request could not be sent to a worker because of `error`."""
    if isinstance(error, LllmsError):
        return error
    reason = cut(f"{type(error).__name__}: {error}")
    if isinstance(error, MemoryError):
        return EngineFailed("the server has not enough memory to hand this request to its model; shorten it")
    return InvalidRequest(f"the request cannot be sent to its model ({reason}); simplify it", None, "invalid_request")


def _prefixes(request: AnyRequest) -> Sequence[Hashable]:
    if not isinstance(request, Request) or not request.cache_prompt:
        return ()
    if isinstance(request, TextRequest):
        # Only the engine can match tokens: the pool does not know the text that they stand for.
        return text_prefix_keys(request.prompt) if isinstance(request.prompt, str) else ()
    return prefix_keys(request.messages, request.tools)
