"""The body of a request: JSON, read strictly; a large one is read in a thread, not in the event loop."""

import asyncio
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from quart import request
from werkzeug.exceptions import UnsupportedMediaType

from lllms_core.apis.contract import Server
from lllms_core.errors import InvalidRequest, LllmsError
from lllms_core.parameters.bounds import LEVELS, check_counts, find_too_deep, is_too_deep, nested_too_deeply
from lllms_core.parameters.wording import cut, kind_of, missing, unknown, wrong_type

T = TypeVar("T")

LARGE = 100_000
"""Bytes: reading fewer takes too little time for others to notice, and less than a thread switch."""

_READER = ThreadPoolExecutor(1, "lllms-reader")
"""One thread: several would only compete for the interpreter with each other and the event loop."""


async def read_body(*, any_type: bool = False) -> bytes:
    """Return the body. Raises `UnsupportedMediaType` if it is compressed, or does not say that it is JSON.

    With `any_type`, programs may leave out the type; web pages may not.
    """
    # Web pages of strangers can send any other type without asking the server first.
    if not request.is_json and not (any_type and _from_program()):
        got = f"not {cut(request.mimetype)}" if request.mimetype else "and there is none"
        raise UnsupportedMediaType(f"the Content-Type must be application/json, {got}")
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in {"", "identity"}:
        # Our own server has already decoded the body; an application that mounts lllms may not.
        raise UnsupportedMediaType(f"the Content-Encoding '{cut(coding)}' is not accepted here; send the body as it is")
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # The client left just when the body was complete. In an application that lllms is mounted into, Quart reads
        # bodies by `wait_for`, which in Python 3.11 swallows that.
        raise asyncio.CancelledError
    return body


def _from_program() -> bool:
    """Whether no browser sent this request: browsers name the page's origin in each POST."""
    return "Origin" not in request.headers and request.headers.get("Sec-Fetch-Site", "none") == "none"


async def work(size: int, task: Callable[[], T]) -> T:
    """Return `task()`; for a large `size` (bytes of JSON) it runs in a thread, one task at a time.

    If the caller is cancelled meanwhile, `CancelledError` is raised, and a task that has not begun is dropped. The
    thread has the caller's context variables, so a key's limits hold for large requests, too.
    """
    if size <= LARGE:
        return task()
    return await asyncio.get_running_loop().run_in_executor(_READER, copy_context().run, _run, task)


def _run(task: Callable[[], T]) -> T:
    try:
        return task()
    except LllmsError as error:
        # The traceback holds the values that were read: freeing them takes time, too.
        error.__cause__ = error.__context__ = None
        raise error.with_traceback(None)  # noqa: B904  # as above


async def read_request(
    server: Server, build: Callable[[dict[str, object]], T], *, any_type: bool = False,
) -> T:
    """Return what `build` makes of the members of the JSON body; null members are left out.

    `build` removes the members that it knows, as by `take_text`; any other is refused. For a large body it runs in a
    thread. Raises `InvalidRequest`, and `UnsupportedMediaType` as `read_body` does.
    """
    body = await read_body(any_type=any_type)

    def read() -> T:
        values = read_object(body, server.json_levels)
        built = build(values)
        refuse_others(values)
        return built

    return await work(len(body), read)


async def read_optional(server: Server, build: Callable[[dict[str, object]], T], default: T) -> T:
    """Return what `build` makes of the body, as `read_request` does, or the default if there is none."""
    # Web pages of strangers can send an empty body without asking first, but not without an Origin.
    if not {"Content-Type", "Origin"} & set(request.headers.keys()) and not await request.get_data():
        return default
    return await read_request(server, build)


def read_object(body: bytes, levels: int = LEVELS) -> dict[str, object]:
    """Return the members of the body, without those that are null. Raises `InvalidRequest`."""
    large = len(body) > LARGE
    try:
        # Decoded here, for json.loads would let half a character through.
        text = body.decode()
        if large:
            check_counts(text)
        values = (_PATIENT if large else _QUICK).decode(text)
        if is_too_deep(values, levels):
            raise RecursionError  # noqa: TRY301  # as the decoder does at some depth
        if _SURROGATE.search(body):
            # Escapes can spell half a character, too.
            json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as error:
        raise nested_too_deeply(find_too_deep(text, levels) or "the body", levels) from error
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", None, "invalid_json") from error
    if not isinstance(values, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {kind_of(values)}", None, "invalid_json")
    return {name: value for name, value in values.items() if value is not None}


def take(values: dict[str, object], name: str) -> object:
    """Take a required member. Raises `InvalidRequest`."""
    if name not in values:
        raise missing(name)
    return values.pop(name)


def take_text(values: dict[str, object], name: str) -> str:
    """Take a required text. Raises `InvalidRequest`."""
    value = take(values, name)
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def refuse_others(values: dict[str, object]) -> None:
    """Refuse the members that were not taken. Raises `InvalidRequest`."""
    for name in values:
        raise unknown(name)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number in JSON")


def _integer(text: str) -> int:
    return int(text)


def _number(text: str) -> float:
    return float(text)


_QUICK = json.JSONDecoder(parse_constant=_refuse_constant)
_PATIENT = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number)
"""Reads the same values. The decoder holds the interpreter, but its calls of Python functions let other threads run."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
