"""The faults that clients see: one table from our tree of errors to HTTP status, `type` and `code`."""

import logging
from collections.abc import Mapping

from lllms_core import errors
from lllms_core.apis.fault import INVALID, LIMIT, SERVER, UNKNOWN, Fault
from lllms_core.apis.writing import dumps
from lllms_core.parameters.wording import cut

LOG = logging.getLogger("lllms.api")

LONGEST_MESSAGE = 1200
"""The most bytes of a message in JSON; a longer one loses its middle, since its end says the way out."""


def openai_shape(fault: Fault) -> dict[str, object]:
    """Return `{"error": {"message", "type", "param", "code"}}`; small, whatever the client or an engine wrote."""
    param = None if fault.param is None else _shortened(cut(fault.param), LONGEST_MESSAGE // 2)
    return {"error": {"message": short_message(fault), "type": fault.type, "param": param, "code": fault.code}}


def short_message(fault: Fault) -> str:
    """Return the message for an answer: at most `LONGEST_MESSAGE` bytes of JSON."""
    return _shortened(fault.message, LONGEST_MESSAGE)


TABLE: Mapping[type[errors.LllmsError], tuple[int, str, str]] = {
    errors.ModelUnknown: (404, INVALID, "model_not_found"),
    errors.ModelTooLarge: (503, SERVER, "model_too_large"),
    errors.ModelError: (503, SERVER, "model_not_available"),
    errors.ContextOverflow: (400, INVALID, "context_length_exceeded"),
    errors.UnsupportedParameter: (400, INVALID, "unsupported_parameter"),
    errors.RequestError: (400, INVALID, "invalid_request"),
    errors.OutOfTime: (504, SERVER, "timeout"),
    errors.EngineDied: (500, SERVER, "engine_died"),
    errors.EngineError: (500, SERVER, "engine_failed"),
    errors.DownloadError: (503, SERVER, "model_not_available"),
    errors.KeyRefused: (401, UNKNOWN, "invalid_api_key"),
    errors.RequestCancelled: (499, SERVER, "cancelled"),
    errors.RateLimited: (429, LIMIT, "rate_limit_exceeded"),
    errors.QueueFull: (429, LIMIT, "queue_full"),
    errors.InsufficientMemory: (503, SERVER, "insufficient_memory"),
    errors.WaitedTooLong: (503, SERVER, "waited_too_long"),
    errors.ShuttingDown: (503, SERVER, "shutting_down"),
    errors.Overloaded: (503, SERVER, "overloaded"),
    errors.LllmsError: (500, SERVER, "internal_error"),
}
"""By class; a class that is not listed answers as its nearest base does."""


def explain(error: Exception) -> Fault:
    """Return the fault that a client sees; unexpected errors are logged, and the client learns no details."""
    if isinstance(error, errors.LllmsError):
        return _explain_ours(error)
    if isinstance(error, RecursionError):
        return Fault(400, "the request is nested too deeply; flatten it", INVALID, None, "nested_too_deeply", {})
    # Imported late: it imports Quart, and plugins import this module.
    from lllms_core.apis.http_faults import explain_http

    fault = explain_http(error)
    if fault is not None:
        return fault
    LOG.error("unexpected error while a request was served", exc_info=error)
    return Fault(500, "internal error of the server; its log tells more", SERVER, None, "internal_error", {})


def _explain_ours(error: errors.LllmsError) -> Fault:
    status, kind, code = next(TABLE[base] for base in type(error).__mro__ if base in TABLE)
    param = None
    headers = {}
    if isinstance(error, errors.RequestError):
        param, code = error.param, error.code or code
    elif isinstance(error, errors.ModelUnknown):
        param = "model"
    elif isinstance(error, errors.KeyRefused):
        headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, errors.ModelTooLarge | errors.RequestCancelled):
        headers["x-should-retry"] = "false"  # as OpenAI's clients understand; they retry any other 503
    elif isinstance(error, errors.Overloaded | errors.DownloadError | errors.ModelLoadFailed) and (
        error.retry_after is not None
    ):
        headers["Retry-After"] = str(error.retry_after)
    return Fault(status, error.message, kind, param, code, headers)


def _shortened(text: str, most: int) -> str:
    """Return a text that takes at most `most` bytes as JSON, without its middle if necessary."""
    shown, kept = text, min(most, len(text))
    while len(shown) > most or len(dumps(shown)) - 2 > most:
        kept = kept * 2 // 3
        shown = f"{text[: kept * 2 // 3]} ... {text[len(text) - kept // 3 :]}"
    return shown
