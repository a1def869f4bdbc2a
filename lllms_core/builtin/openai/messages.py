"""The messages of a chat, from JSON."""

from collections.abc import Mapping
from typing import cast, get_args

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import empty, missing, unknown, unsupported, wrong_type
from lllms_core.types import Message, Role

ROLES = get_args(Role)
LATER_ROLES = ("tool", "function")
LATER_PARTS = ("image_url", "input_audio", "file", "refusal")

LATER_FIELDS: Mapping[str, object] = {
    "refusal": None, "audio": None, "function_call": None, "tool_calls": [], "annotations": [], "tool_call_id": None,
}
"""Fields of messages that are not used yet, with the value that says nothing (as does null): clients send answers back
as they got them."""


def read_messages(value: object) -> tuple[Message, ...]:
    """Read `messages`; the parts of a content are joined by line breaks. Raises `RequestError` that names the field."""
    if not isinstance(value, list):
        raise wrong_type("messages", "an array of objects", value)
    if not value:
        raise empty("messages")
    return tuple(_read_message(one, f"messages[{index}]") for index, one in enumerate(value))


def _read_message(value: object, path: str) -> Message:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    fields = {name: field for name, field in cast("dict[str, object]", value).items() if field is not None}
    role = _read_role(fields.pop("role", None), f"{path}.role")
    for key, field in fields.items():
        if key in LATER_FIELDS and field != LATER_FIELDS[key]:
            raise unsupported(f"{path}.{key}")
        if key not in {"content", "name", *LATER_FIELDS}:
            raise unknown(f"{path}.{key}")
    if "content" not in fields:
        raise missing(f"{path}.content")
    name = fields.get("name")
    if name is not None and not isinstance(name, str):
        raise wrong_type(f"{path}.name", "a string", name)
    return Message(role, _read_content(fields["content"], f"{path}.content"), name)


def _read_role(value: object, path: str) -> Role:
    if value is None:
        raise missing(path)
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    if value in LATER_ROLES:
        raise unsupported(path, *ROLES)
    if value not in ROLES:
        text = f"Invalid value: '{value}'. Supported values are: {', '.join(repr(role) for role in ROLES)}."
        raise InvalidRequest(text, path, "invalid_value")
    return cast("Role", value)


def _read_content(value: object, path: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_type(path, "a string or an array of objects", value)
    if not value:
        raise empty(path)
    return "\n".join(_read_part(one, f"{path}[{index}]") for index, one in enumerate(value))


def _read_part(value: object, path: str) -> str:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    part = {name: field for name, field in cast("dict[str, object]", value).items() if field is not None}
    kind = part.get("type")
    if kind is None:
        raise missing(f"{path}.type")
    if kind in LATER_PARTS:
        raise unsupported(f"{path}.type", "text")
    if kind != "text":
        raise InvalidRequest(f"Invalid value: '{kind}'. Supported values are: 'text'.", f"{path}.type", "invalid_value")
    for name in part.keys() - {"type", "text"}:
        raise unsupported(f"{path}.{name}") if name == "prompt_cache_breakpoint" else unknown(f"{path}.{name}")
    text = part.get("text")
    if text is None:
        raise missing(f"{path}.text")
    if not isinstance(text, str):
        raise wrong_type(f"{path}.text", "a string", text)
    return text
