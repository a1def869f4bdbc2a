"""The messages of a chat, from JSON."""

from collections.abc import Collection, Mapping, Sequence
from typing import cast, get_args

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import empty, missing, unknown, unsupported, wrong_choice, wrong_type
from lllms_core.types import Message, Role, ToolCall

ROLES = (*get_args(Role), "function")
LATER_PARTS = ("image_url", "input_audio", "file", "refusal")

LATER_FIELDS: Mapping[str, object] = {"refusal": None, "audio": None, "annotations": []}
"""Fields of messages that are not used yet, with the value that says nothing (as does null): clients send answers back
as they got them."""

FIELDS: Mapping[str, Collection[str]] = {
    "assistant": {"content", "name", "tool_calls", "function_call", "reasoning_content"},
    "tool": {"content", "name", "tool_call_id"},
}
"""What a message may say beside its role, where it is more than `content` and `name`."""


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
    if "content" not in fields and not calls and role != "function":
        raise missing(f"{path}.content")
    content = _read_content(fields["content"], f"{path}.content") if "content" in fields else ""
    if role == "tool":
        return Message("tool", content, name, tool_call_id=_read_string(fields, "tool_call_id", path))
    if role == "function":
        return Message("tool", content, _read_string(fields, "name", path), tool_call_id=_called(before, path))
    thought = _read_string(fields, "reasoning_content", path) if "reasoning_content" in fields else None
    return Message(cast("Role", role), content, name, calls, reasoning=thought)


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


def _read_content(value: object, path: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_type(path, "a string or an array of objects", value)
    if not value:
        raise empty(path)
    return "\n".join(_read_part(one, f"{path}[{index}]") for index, one in enumerate(value))


def _read_part(value: object, path: str) -> str:
    part = _read_object(value, path)
    kind = part.get("type")
    if kind is None:
        raise missing(f"{path}.type")
    if kind in LATER_PARTS:
        raise unsupported(f"{path}.type", "text")
    if kind != "text":
        raise wrong_choice(f"{path}.type", kind, "text")
    for name in part.keys() - {"type", "text"}:
        raise unsupported(f"{path}.{name}") if name == "prompt_cache_breakpoint" else unknown(f"{path}.{name}")
    return _read_string(part, "text", path)
