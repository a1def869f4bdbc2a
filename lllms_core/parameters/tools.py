"""The parameters for tools: which an answer may call, their checks and their meaning."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast

from attrs import frozen

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.kinds import Schema
from lllms_core.parameters.wording import cut, missing, unknown, unsupported, wrong_choice, wrong_type, wrong_value
from lllms_core.types import Tool, ToolChoice

MOST_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MODES = ("none", "auto", "required")
_CACHING = "cache_control"
"""A field of tools that asks for what happens anyway: prompts are cached."""
_FUNCTION: Mapping[str, object] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
}
_NAMED: Mapping[str, object] = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}


@frozen
class Tools:
    """Functions that may be called: an array of OpenAI's tools, or of the older `functions`."""

    wrapped: bool = True
    """Whether each function is inside a tool."""

    def check(self, name: str, value: object) -> object:
        """Return the array, fully checked."""
        self.read(name, value)
        return value

    def read(self, name: str, value: object) -> tuple[Tool, ...]:
        """Return the tools. Raises `RequestError`."""
        if not isinstance(value, list | tuple):
            raise wrong_type(name, "an array of objects", value)
        if len(value) > MOST_TOOLS:
            limit, got = f"an array with maximum length {MOST_TOOLS}", f"an array with length {len(value)}"
            raise wrong_value(name, "array too long", limit, got, "array_above_max_length")
        tools = tuple(self._read_one(one, f"{name}[{index}]") for index, one in enumerate(value))
        names = [tool.name for tool in tools]
        if twice := sorted({one for one in names if names.count(one) > 1}):
            raise InvalidRequest(f"Invalid '{name}': several are named '{twice[0]}'.", name, "invalid_value")
        return tools

    @property
    def schema(self) -> Schema:
        """An array of functions."""
        tool = {
            "type": "object", "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": _FUNCTION},
        }
        return {"type": "array", "maxItems": MOST_TOOLS, "items": tool if self.wrapped else _FUNCTION}

    def _read_one(self, value: object, path: str) -> Tool:
        if not self.wrapped:
            return read_function(value, path)
        fields = _fields(value, path)
        kind = fields.get("type")
        if kind is None:
            raise missing(f"{path}.type")
        if kind == "custom":
            raise unsupported(f"{path}.type", '"function"')
        if kind != "function":
            raise wrong_choice(f"{path}.type", kind, "function")
        for name in fields.keys() - {"type", "function", _CACHING}:
            raise unknown(f"{path}.{name}")
        if "function" not in fields:
            raise missing(f"{path}.function")
        return read_function(fields["function"], f"{path}.function")


@frozen
class AllowedTools:
    """Which tools may be called, and whether one must be."""

    mode: Literal["none", "auto", "required"]
    names: tuple[str, ...] | None = None
    """The only tools that may be called; None: all."""


@frozen
class ToolChoices:
    """`tool_choice`, or the older `function_call`."""

    wrapped: bool = True

    def check(self, name: str, value: object) -> object:
        """Return the value, which has one of the valid forms."""
        self.read(name, value)
        return value

    def read(self, name: str, value: object) -> AllowedTools:
        """Return the choice. Raises `RequestError`."""
        modes = _MODES if self.wrapped else _MODES[:2]
        if isinstance(value, str):
            if value not in modes:
                raise wrong_choice(name, value, *modes)
            return AllowedTools(cast("Literal['none', 'auto', 'required']", value))
        if not isinstance(value, Mapping):
            raise wrong_type(name, "a string or an object", value)
        if not self.wrapped:
            return AllowedTools("required", (_read_name(value, name),))
        fields = _fields(value, name)
        kind = fields.pop("type", None)
        if kind is None:
            raise missing(f"{name}.type")
        if kind == "custom":
            raise unsupported(f"{name}.type", '"function"', '"allowed_tools"')
        if not isinstance(kind, str):
            raise wrong_type(f"{name}.type", "a string", kind)
        if kind not in {"function", "allowed_tools"}:
            raise wrong_choice(f"{name}.type", kind, "function", "allowed_tools")
        for other in fields.keys() - {kind}:
            raise unknown(f"{name}.{other}")
        if kind not in fields:
            raise missing(f"{name}.{kind}")
        path = f"{name}.{kind}"
        return _read_allowed(fields[kind], path) if kind == "allowed_tools" else (
            AllowedTools("required", (_read_name(fields[kind], path),))
        )

    @property
    def schema(self) -> Schema:
        """A mode, or an object."""
        mode = {"type": "string", "enum": list(_MODES if self.wrapped else _MODES[:2])}
        if not self.wrapped:
            return {"anyOf": [mode, _NAMED]}
        function = {
            "type": "object", "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": _NAMED},
        }
        inner = {
            "type": "object", "required": ["mode", "tools"],
            "properties": {
                "mode": {"type": "string", "enum": ["auto", "required"]},
                "tools": {"type": "array", "minItems": 1, "items": function},
            },
        }
        allowed = {
            "type": "object", "required": ["type", "allowed_tools"],
            "properties": {"type": {"const": "allowed_tools"}, "allowed_tools": inner},
        }
        return {"anyOf": [mode, function, allowed]}


TOOLS, FUNCTIONS = Tools(), Tools(wrapped=False)
TOOL_CHOICE, FUNCTION_CALL = ToolChoices(), ToolChoices(wrapped=False)


def settle_tools(checked: dict[str, object]) -> None:
    """Replace all parameters about tools by the tools that may be called, and whether one must be.

    Raises `InvalidRequest` if they contradict each other.
    """
    old, new = {"functions", "function_call"} & checked.keys(), {"tools", "tool_choice"} & checked.keys()
    if old and new:
        raise InvalidRequest(f"'{min(old)}' is the older form of '{max(new)}'; give one of them", min(old))
    names = ("functions", "function_call") if old else ("tools", "tool_choice")
    tools = (FUNCTIONS if old else TOOLS).read(names[0], checked.pop(names[0], ()))
    choice = (FUNCTION_CALL if old else TOOL_CHOICE).read(names[1], checked.pop(names[1], "auto"))
    if not tools and (choice.mode == "required" or choice.names is not None):
        raise InvalidRequest(f"'{names[1]}' is only allowed when '{names[0]}' are specified.", names[1])
    for name in choice.names or ():
        if name not in {tool.name for tool in tools}:
            text = f"Invalid '{names[1]}': '{cut(name)}' is not among the '{names[0]}'."
            raise InvalidRequest(text, names[1], "invalid_value")
    checked["tools"] = () if choice.mode == "none" else tuple(
        tool for tool in tools if choice.names is None or tool.name in choice.names
    )
    mode: ToolChoice = "required" if choice.mode == "required" else "auto"
    checked["tool_choice"] = mode
    if old:
        checked["parallel_tool_calls"] = False


def _fields(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise wrong_type(path, "an object", value)
    return {str(name): field for name, field in value.items() if field is not None}


def read_function(value: object, path: str) -> Tool:
    """Return the function that an object at `path` describes. Raises `RequestError`."""
    fields = _fields(value, path)
    for name in fields.keys() - {"name", "description", "parameters", "strict", _CACHING}:
        raise unknown(f"{path}.{name}")
    name = _read_name({"name": fields.get("name")}, path)
    if not _NAME.fullmatch(name):
        expected = "a string of 1 to 64 letters, digits, '_' and '-'"
        raise wrong_value(f"{path}.name", "string does not match pattern", expected, f"'{name[:80]}'", "invalid_value")
    description, strict = fields.get("description"), fields.get("strict", False)
    if description is not None and not isinstance(description, str):
        raise wrong_type(f"{path}.description", "a string", description)
    if not isinstance(strict, bool):
        raise wrong_type(f"{path}.strict", "a boolean", strict)
    parameters = fields.get("parameters", {"type": "object", "properties": {}})
    if not isinstance(parameters, Mapping):
        raise wrong_type(f"{path}.parameters", "an object", parameters)
    if parameters.get("type", "object") != "object":
        text = f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'."
        raise InvalidRequest(text, f"{path}.parameters", "invalid_function_parameters")
    return Tool(name, description, dict(parameters), strict)


def _read_name(value: object, path: str) -> str:
    fields = _fields(value, path)
    for other in fields.keys() - {"name"}:
        raise unknown(f"{path}.{other}")
    if "name" not in fields:
        raise missing(f"{path}.name")
    if not isinstance(fields["name"], str):
        raise wrong_type(f"{path}.name", "a string", fields["name"])
    return fields["name"]


def _read_allowed(value: object, path: str) -> AllowedTools:
    fields = _fields(value, path)
    for name in fields.keys() - {"mode", "tools"}:
        raise unknown(f"{path}.{name}")
    for name in ("mode", "tools"):
        if name not in fields:
            raise missing(f"{path}.{name}")
    mode, tools = fields["mode"], fields["tools"]
    if not isinstance(mode, str):
        raise wrong_type(f"{path}.mode", "a string", mode)
    if mode not in {"auto", "required"}:
        raise wrong_choice(f"{path}.mode", mode, "auto", "required")
    if not isinstance(tools, list | tuple):
        raise wrong_type(f"{path}.tools", "an array of objects", tools)
    if not tools:
        raise InvalidRequest(f"Invalid '{path}.tools': empty array.", f"{path}.tools", "empty_array")
    return AllowedTools(cast("ToolChoice", mode), tuple(_allowed_names(tools, f"{path}.tools")))


def _allowed_names(tools: Sequence[object], path: str) -> Iterator[str]:
    for index, one in enumerate(tools):
        fields = _fields(one, f"{path}[{index}]")
        if fields.get("type") != "function":
            raise wrong_choice(f"{path}[{index}].type", fields.get("type"), "function")
        yield _read_name(fields.get("function", {}), f"{path}[{index}].function")
