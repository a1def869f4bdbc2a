"""Whole answers of HTTP APIs."""

from collections.abc import Callable

from quart import Response

from lllms_core.apis.bodies import work
from lllms_core.apis.contract import Api
from lllms_core.apis.explanations import explain, openai_shape
from lllms_core.apis.fault import Fault
from lllms_core.apis.writing import dumps


def reply(value: object) -> Response:
    """Answer with a value as JSON."""
    return Response(dumps(value), content_type="application/json")


async def reply_large(size: int, value: Callable[[], object]) -> Response:
    """Answer with a value of about `size` bytes as JSON; a large one is made and written in a thread."""
    return Response(await work(size, lambda: dumps(value())), content_type="application/json")


def reply_fault(fault: Fault, shape: Callable[[Fault], object] = openai_shape) -> Response:
    """Answer with a fault, in this shape."""
    return Response(dumps(shape(fault)), fault.status, {"Content-Type": "application/json", **fault.headers})


def fault_handler(api: Api | None = None) -> Callable[[Exception], Response]:
    """Return the handler that answers errors in the shape of an API; in OpenAI's for routes of none."""
    shape = openai_shape if api is None else api.fault

    def answer_error(error: Exception) -> Response:
        return reply_fault(explain(error), shape)

    return answer_error
