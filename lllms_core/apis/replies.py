"""Whole answers of HTTP APIs."""

from collections.abc import Callable, Sequence

from quart import Response

from lllms_core.answers import Answer, Stream
from lllms_core.apis.bodies import work
from lllms_core.apis.contract import Api
from lllms_core.apis.explanations import explain, openai_shape
from lllms_core.apis.fault import Fault
from lllms_core.apis.ignored import ignored_header
from lllms_core.apis.same_paths import find_speaker
from lllms_core.apis.unkept import check_answers
from lllms_core.apis.writing import dumps
from lllms_core.types import Request


def reply(value: object, unused: Sequence[str] = ()) -> Response:
    """Answer with a value as JSON; a header names the `unused` parts of the request."""
    return reply_json(dumps(value), unused)


async def reply_large(size: int, value: Callable[[], object], unused: Sequence[str] = ()) -> Response:
    """Answer like `reply` with a value of about `size` bytes; a large one is made and encoded in a thread."""
    return reply_json(await work(size, lambda: dumps(value())), unused)


async def reply_answers(
    streams: Sequence[Stream], answers: Sequence[Answer], size: int, value: Callable[[], object],
) -> Response:
    """Answer like `reply_large` with the whole answers to the requests of `streams`; a slow reader is not cut off.

    Headers name the `unused` parts of the requests, and the restrictions of their schemas that were not kept (see
    `lllms_core.apis.unkept`).
    """
    request = streams[0].request
    response = await reply_large(size, value, request.unused if isinstance(request, Request) else ())
    response.timeout = None
    response.headers.update(await check_answers(streams, answers))
    return response


def reply_json(text: bytes, unused: Sequence[str] = ()) -> Response:
    """Answer like `reply` with a value that is already encoded."""
    return Response(text, headers={"Content-Type": "application/json", **ignored_header(unused)})


def reply_fault(fault: Fault, api: Api | None = None) -> Response:
    """Answer with a fault, in an API's shape, or in OpenAI's without an API."""
    value, status = (openai_shape(fault), fault.status) if api is None else (api.fault(fault), api.status(fault))
    return Response(dumps(value), status, {"Content-Type": "application/json", **fault.headers})


def fault_handler(api: Api | None = None) -> Callable[[Exception], Response]:
    """Return the handler that answers errors in an API's shape, or in OpenAI's without an API."""

    def answer_error(error: Exception) -> Response:
        return reply_fault(explain(error), api)

    return answer_error


def outer_fault_handler(apis: Sequence[Api]) -> Callable[[Exception], Response]:
    """Return the handler of errors outside of any API: in the shape of the one whose header the request has."""

    def answer_error(error: Exception) -> Response:
        return reply_fault(explain(error), find_speaker(apis))

    return answer_error
