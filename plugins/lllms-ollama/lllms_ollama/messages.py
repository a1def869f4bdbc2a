"""The messages of a chat in Ollama's shape; pure."""

import binascii
import json
from base64 import b64decode
from collections.abc import Sequence
from typing import cast, get_args

from lllms_core.apis.fields import read_fields, read_list, read_string
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut, missing, wrong_choice, wrong_type
from lllms_core.types import Media, Message, Role, ToolCall

ROLES = get_args(Role)

_SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
_HEAD = 16
"""Characters in base64 that tell the kind of an image."""


def read_messages(value: Sequence[object]) -> tuple[Message, ...]:
    """Read `messages`. Calls without an id get one; a result without one belongs to a call of its tool, or the next.

    Fields that say nothing to a model are dropped. Raises `InvalidRequest`.
    """
    messages: list[Message] = []
    calls = 0
    open_calls: list[ToolCall] = []
    for index, one in enumerate(value):
        path = f"messages[{index}]"
        message = _read_message(one, path, calls, open_calls)
        if message.role != "tool":
            open_calls = list(message.tool_calls)
        calls += len(message.tool_calls)
        messages.append(message)
    return tuple(messages)


def read_images(value: object, path: str) -> tuple[Media, ...]:
    """Read images in base64, or as data URLs. Raises `InvalidRequest`."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong_type(path, "an array of strings", value)
    return tuple(_read_image(one, f"{path}[{index}]") for index, one in enumerate(value))


def parts_of(content: str, images: Sequence[Media]) -> tuple[str | Media, ...]:
    """Return the parts of a message with images, the text first; none without images."""
    return (*((content,) if content else ()), *images) if images else ()


def _read_message(value: object, path: str, calls: int, open_calls: list[ToolCall]) -> Message:
    fields = read_fields(value, path)
    role = _text(fields, "role", path)
    if not role:
        raise missing(f"{path}.role")
    if role not in ROLES:
        raise wrong_choice(f"{path}.role", role, *ROLES)
    content = _text(fields, "content", path)
    if role == "tool":
        return Message("tool", content, _text(fields, "tool_name", path) or _text(fields, "name", path) or None,
                       tool_call_id=_answered(fields, path, open_calls))
    images = read_images(fields.get("images"), f"{path}.images")
    parts = parts_of(content, images)
    if role != "assistant":
        return Message(cast("Role", role), content, parts=parts)
    made = _read_calls(fields.get("tool_calls"), f"{path}.tool_calls", calls)
    return Message("assistant", content, None, made, reasoning=_text(fields, "thinking", path) or None, parts=parts)


def _read_calls(value: object, path: str, before: int) -> tuple[ToolCall, ...]:
    calls = [] if value is None else read_list(value, path)
    return tuple(_read_call(one, f"{path}[{index}]", before + index) for index, one in enumerate(calls))


def _read_call(value: object, path: str, number: int) -> ToolCall:
    fields = read_fields(value, path)
    if "function" not in fields:
        raise missing(f"{path}.function")
    function = read_fields(fields["function"], f"{path}.function")
    name = _text(function, "name", f"{path}.function")
    if not name:
        raise missing(f"{path}.function.name")
    arguments = function.get("arguments") or {}
    if not isinstance(arguments, dict):
        raise wrong_type(f"{path}.function.arguments", "an object", arguments)
    return ToolCall(_text(fields, "id", path) or f"call_{number}", name, json.dumps(arguments, ensure_ascii=False))


def _answered(fields: dict[str, object], path: str, open_calls: list[ToolCall]) -> str:
    """Return the id of the call that a result answers, which is then no longer open."""
    given = _text(fields, "tool_call_id", path)
    name = _text(fields, "tool_name", path) or _text(fields, "name", path)
    matching = [call for call in open_calls if call.id == given] if given else (
        [call for call in open_calls if call.name == name] or open_calls
    )
    if not matching:
        told = given or name or "the tool"
        text = f"there is no open call that the result of '{cut(told)}' could answer: results follow the message with"
        raise InvalidRequest(f"{text} 'tool_calls'", path, "invalid_value")
    call = matching[0]
    open_calls.remove(call)
    return call.id


def _read_image(value: object, path: str) -> Media:
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    if value.startswith("data:"):
        return Media("image", value, param=path)
    try:
        head = b64decode(value[:_HEAD], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"Invalid '{path}': expected an image in base64.", path, "invalid_value") from error
    kind = next((kind for start, kind in _SIGNATURES.items() if head.startswith(start)), "application/octet-stream")
    return Media("image", f"data:{kind};base64,{value}", param=path)


def _text(fields: dict[str, object], name: str, path: str) -> str:
    return read_string(fields, name, path) if name in fields else ""
