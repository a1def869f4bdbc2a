"""The messages of a chat, from JSON.

A conversation is history: its fields record what was said. A field that says nothing to a model (ids, caching, the
parsed forms of an SDK) asks for nothing either: it is dropped, and its name is logged once, at debug level.
"""

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import cast, get_args

from lllms_core.apis.fields import join_parts, read_fields, read_kind, read_string
from lllms_core.apis.thoughts import LISTS, TEXTS, find_thoughts, split_parts
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut, empty, missing, unknown, unsupported, wrong_choice, wrong_type
from lllms_core.types import Media, Message, Role, ToolCall

LOG = logging.getLogger("lllms.api")

ROLES = (*get_args(Role), "function")

UNHEARD = frozenset({"audio", "images"})
"""Meaningful fields that no model gets: they are refused unless empty."""

_SAID = ("refusal", "tool_calls", "function_call", "reasoning_content")
_ALWAYS = frozenset({"content", "name"})
FIELDS: Mapping[str, frozenset[str]] = {
    "assistant": _ALWAYS | {*_SAID, *TEXTS, *LISTS}, "tool": _ALWAYS | {"tool_call_id"},
}
"""The fields of a message beside its role, if it may have more than `content` and `name`."""

PARTS: Mapping[str, Sequence[str]] = {"user": ("image_url", "input_audio", "file"), "assistant": ("refusal",)}
"""The kinds of content parts beside text."""

_CALL, _FUNCTION = frozenset({"id", "type", "function"}), frozenset({"name", "arguments"})
_NAMES_LOGGED = 256


def read_messages(value: object) -> tuple[Message, ...]:
    """Read `messages`; the parts of a content are joined by line breaks. Raises `RequestError` that names the field.

    The deprecated `function_call` and the role `function` become a call and its result, as they are with `tool_calls`.
    """
    if not isinstance(value, list):
        raise wrong_type("messages", "an array of objects", value)
    if not value:
        raise empty("messages")
    messages: list[Message] = []
    for index, one in enumerate(value):
        messages.append(_read_message(one, f"messages[{index}]", messages[-1:]))
    return tuple(messages)


def _read_message(value: object, path: str, before: Sequence[Message]) -> Message:
    fields = read_fields(value, path)
    role = _read_role(fields.pop("role", None), f"{path}.role")
    _drop_others(role, fields, path)
    name = read_string(fields, "name", path) if "name" in fields else None
    if role == "assistant":
        empty_content = "content" in cast("dict[str, object]", value)
        return _read_answer(fields, path, name, empty_content=empty_content)
    if "content" not in fields and role != "function":
        raise missing(f"{path}.content")
    parts = _read_content(fields.get("content", []), f"{path}.content", role)
    content, media = join_parts(parts)
    if role == "tool":
        return Message("tool", content, name, tool_call_id=read_string(fields, "tool_call_id", path))
    if role == "function":
        return Message("tool", content, read_string(fields, "name", path), tool_call_id=_called(before, path))
    return Message(cast("Role", role), content, name, parts=media)


def _read_answer(fields: Mapping[str, object], path: str, name: str | None, *, empty_content: bool) -> Message:
    """Read an assistant's message. It may say nothing if it has a `content`, even null (`empty_content`)."""
    calls = _read_calls(fields, path)
    content, thoughts = split_parts(fields.get("content", []))
    if "reasoning_content" in fields:
        thoughts = read_string(fields, "reasoning_content", path)
    elif thoughts is None:
        thoughts = find_thoughts(fields)
    if not calls and thoughts is None and "refusal" not in fields and not empty_content:
        raise missing(f"{path}.content")
    parts = _read_content(content, f"{path}.content", "assistant")
    if "refusal" in fields:
        # Templates know no refusals: to the model, a refusal is its answer.
        parts = (*(part for part in parts if part), read_string(fields, "refusal", path))
    text, media = join_parts(parts)
    return Message("assistant", text, name, calls, reasoning=thoughts, parts=media)


def _drop_others(role: str, fields: Mapping[str, object], path: str) -> None:
    """Drop the fields that a message of this role does not have; refuse meaningful ones."""
    known = FIELDS.get(role, _ALWAYS)
    if fields.keys() <= known:
        return
    for key in fields.keys() - known:
        if key in UNHEARD:
            if fields[key] not in ([], {}, ""):
                raise unsupported(f"{path}.{cut(key)}")
        elif key in _SAID:
            if fields[key] not in ([], {}, ""):
                raise unknown(f"{path}.{cut(key)}")
        else:
            _note(f"messages[].{cut(key)}")


def _drop(fields: Mapping[str, object], known: AbstractSet[str], place: str) -> None:
    if not fields.keys() <= known:
        for key in fields.keys() - known:
            _note(f"{place}.{cut(key)}")


@lru_cache(_NAMES_LOGGED)
def _note(field: str) -> None:
    """Log the name of a dropped field, once."""
    LOG.debug("the field %s of a conversation says nothing to a model and is dropped", field)


def _read_calls(fields: Mapping[str, object], path: str) -> tuple[ToolCall, ...]:
    value = fields.get("tool_calls", [])
    if not isinstance(value, list):
        raise wrong_type(f"{path}.tool_calls", "an array of objects", value)
    calls = [_read_call(one, f"{path}.tool_calls[{index}]") for index, one in enumerate(value)]
    if "function_call" in fields:
        # The deprecated form knows one call and no ids; its result is the message that follows.
        calls.append(_read_function(fields["function_call"], f"{path}.function_call", f"{path}.function_call"))
    return tuple(calls)


def _read_call(value: object, path: str) -> ToolCall:
    fields = read_fields(value, path)
    kind = read_string(fields, "type", path) if "type" in fields or "function" not in fields else "function"
    if kind == "custom":
        raise unsupported(f"{path}.type", '"function"')
    if kind != "function":
        raise wrong_choice(f"{path}.type", kind, "function")
    _drop(fields, _CALL, "messages[].tool_calls[]")
    return _read_function(fields.get("function", {}), f"{path}.function", read_string(fields, "id", path))


def _read_function(value: object, path: str, call_id: str) -> ToolCall:
    fields = read_fields(value, path)
    _drop(fields, _FUNCTION, "messages[].tool_calls[].function")
    return ToolCall(call_id, read_string(fields, "name", path), read_string(fields, "arguments", path))


def _called(before: Sequence[Message], path: str) -> str:
    if not before or not before[-1].tool_calls:
        text = "Invalid parameter: messages with role 'function' must follow a message with 'function_call'."
        raise InvalidRequest(text, f"{path}.role", "invalid_value")
    return before[-1].tool_calls[-1].id


def _read_role(value: object, path: str) -> str:
    if value is None:
        raise missing(path)
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    if value not in ROLES:
        raise wrong_choice(path, value, *ROLES)
    return value


def _read_content(value: object, path: str, role: str) -> tuple[str | Media, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise wrong_type(path, "a string or an array of objects", value)
    return tuple(_read_part(one, f"{path}[{index}]", role) for index, one in enumerate(value))


def _read_part(value: object, path: str, role: str) -> str | Media:
    part = read_fields(value, path)
    kind = read_kind(part, path, ("text", *PARTS.get(role, ())))
    _drop(part, {"type", kind}, "messages[].content[]")
    if kind in {"text", "refusal"}:
        return read_string(part, kind, path)
    if kind not in part:
        raise missing(f"{path}.{kind}")
    return _read_media(kind, read_fields(part[kind], f"{path}.{kind}"), f"{path}.{kind}", f"{path}.type")


def _read_media(kind: str, fields: Mapping[str, object], path: str, param: str) -> Media:
    if kind == "image_url":
        return Media("image", read_string(fields, "url", path), param=param)
    if kind == "input_audio":
        return Media("audio", read_string(fields, "data", path), read_string(fields, "format", path), param)
    name = "file_data" if "file_data" in fields else "file_id"
    return Media("file", read_string(fields, name, path), param=param)
