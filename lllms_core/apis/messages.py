"""The messages of a chat, from JSON."""

from collections.abc import Collection, Mapping, Sequence
from typing import cast, get_args

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import empty, missing, unknown, unsupported, wrong_choice, wrong_type
from lllms_core.types import Media, Message, Role, ToolCall

ROLES = (*get_args(Role), "function")

LATER_FIELDS: Mapping[str, object] = {"audio": None, "annotations": []}
"""Fields of messages that are not used yet, with the value that means nothing (as does null): clients send answers back
unchanged."""

FIELDS: Mapping[str, Collection[str]] = {
    "assistant": {"content", "name", "refusal", "tool_calls", "function_call", "reasoning_content"},
    "tool": {"content", "name", "tool_call_id"},
}
"""The fields of a message beside its role, if it may have more than `content` and `name`."""

PARTS: Mapping[str, Sequence[str]] = {"user": ("image_url", "input_audio", "file"), "assistant": ("refusal",)}
"""The kinds of content parts beside text."""


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
    fields = _read_object(value, path)
    role = _read_role(fields.pop("role", None), f"{path}.role")
    for key, field in fields.items():
        if key in LATER_FIELDS:
            if field != LATER_FIELDS[key]:
                raise unsupported(f"{path}.{key}")
        elif key not in FIELDS.get(role, {"content", "name"}) and field != []:
            raise unknown(f"{path}.{key}")
    name = _read_string(fields, "name", path) if "name" in fields else None
    calls = _read_calls(fields, path) if role == "assistant" else ()
    if fields.keys().isdisjoint({"content", "refusal"}) and not calls and role != "function":
        raise missing(f"{path}.content")
    parts = _read_content(fields["content"], f"{path}.content", role) if "content" in fields else ()
    if "refusal" in fields:
        # Templates know no refusals: to the model, a refusal is its answer.
        parts = (*(part for part in parts if part), _read_string(fields, "refusal", path))
    content = "\n".join([part for part in parts if isinstance(part, str)])
    media = parts if any(isinstance(part, Media) for part in parts) else ()
    if role == "tool":
        return Message("tool", content, name, tool_call_id=_read_string(fields, "tool_call_id", path))
    if role == "function":
        return Message("tool", content, _read_string(fields, "name", path), tool_call_id=_called(before, path))
    thought = _read_string(fields, "reasoning_content", path) if "reasoning_content" in fields else None
    return Message(cast("Role", role), content, name, calls, reasoning=thought, parts=media)


def _read_object(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    return {name: field for name, field in cast("dict[str, object]", value).items() if field is not None}


def _read_string(fields: Mapping[str, object], name: str, path: str) -> str:
    value = fields.get(name)
    if value is None:
        raise missing(f"{path}.{name}")
    if not isinstance(value, str):
        raise wrong_type(f"{path}.{name}", "a string", value)
    return value


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
    fields = _read_object(value, path)
    for name in fields.keys() - {"id", "type", "function"}:
        raise unknown(f"{path}.{name}")
    kind = _read_string(fields, "type", path)
    if kind == "custom":
        raise unsupported(f"{path}.type", '"function"')
    if kind != "function":
        raise wrong_choice(f"{path}.type", kind, "function")
    return _read_function(fields.get("function", {}), f"{path}.function", _read_string(fields, "id", path))


def _read_function(value: object, path: str, call_id: str) -> ToolCall:
    fields = _read_object(value, path)
    for name in fields.keys() - {"name", "arguments"}:
        raise unknown(f"{path}.{name}")
    return ToolCall(call_id, _read_string(fields, "name", path), _read_string(fields, "arguments", path))


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
    if not value:
        raise empty(path)
    return tuple(_read_part(one, f"{path}[{index}]", role) for index, one in enumerate(value))


def _read_part(value: object, path: str, role: str) -> str | Media:
    part = _read_object(value, path)
    kind = part.get("type")
    if kind is None:
        raise missing(f"{path}.type")
    if not isinstance(kind, str):
        raise wrong_type(f"{path}.type", "a string", kind)
    allowed = ("text", *PARTS.get(role, ()))
    if kind not in allowed:
        raise wrong_choice(f"{path}.type", kind, *allowed)
    if "prompt_cache_breakpoint" in part:
        raise unsupported(f"{path}.prompt_cache_breakpoint")
    for name in part.keys() - {"type", kind}:
        raise unknown(f"{path}.{name}")
    if kind in {"text", "refusal"}:
        return _read_string(part, kind, path)
    if kind not in part:
        raise missing(f"{path}.{kind}")
    return _read_media(kind, _read_object(part[kind], f"{path}.{kind}"), f"{path}.{kind}", f"{path}.type")


def _read_media(kind: str, fields: Mapping[str, object], path: str, param: str) -> Media:
    if kind == "image_url":
        return Media("image", _read_string(fields, "url", path), param=param)
    if kind == "input_audio":
        return Media("audio", _read_string(fields, "data", path), _read_string(fields, "format", path), param)
    name = "file_data" if "file_data" in fields else "file_id"
    return Media("file", _read_string(fields, name, path), param=param)
