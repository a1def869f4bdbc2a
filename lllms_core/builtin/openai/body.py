"""The body of a request: JSON, read strictly."""

import asyncio
import json

from quart import request
from werkzeug.exceptions import UnsupportedMediaType

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import missing, wrong_type


async def read_body() -> bytes:
    """Return the body. Raises `UnsupportedMediaType` if it does not say that it is JSON."""
    # Web pages of strangers can send any other type without asking the server first.
    if not request.is_json:
        got = f"not {request.mimetype}" if request.mimetype else "and there is none"
        raise UnsupportedMediaType(f"the Content-Type must be application/json, {got}")
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # The client left just when the body was complete. In an application that lllms is mounted into, Quart reads
        # bodies by `wait_for`, which in Python 3.11 swallows that.
        raise asyncio.CancelledError
    return body


def read_object(body: bytes) -> dict[str, object]:
    """Return the members of the body that say something: those that are null are left out. Raises `InvalidRequest`."""
    try:
        # Decoded here, for json.loads would let half a character through.
        values = json.loads(body.decode(), parse_constant=_refuse_constant)
        if b"\\u" in body:
            # Escapes can spell one, too.
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidRequest(f"the body is not valid JSON: {reason}", None, "invalid_json") from error
    if not isinstance(values, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {json.dumps(values)[:50]}", None, "invalid_json")
    return {name: value for name, value in values.items() if value is not None}


def take(values: dict[str, object], name: str) -> object:
    """Take a member that has to be there. Raises `InvalidRequest`."""
    if name not in values:
        raise missing(name)
    return values.pop(name)


def take_text(values: dict[str, object], name: str) -> str:
    """Take a text that has to be there. Raises `InvalidRequest`."""
    value = take(values, name)
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number in JSON")
