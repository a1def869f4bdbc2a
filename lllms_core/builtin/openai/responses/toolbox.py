"""The tools of a request: functions, also those in namespaces; pure.

A model sees flat names: a function in a namespace keeps its own, unless another function has it, too. Tools that only
OpenAI's servers run are left out, and named in the answer's header.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from attrs import field, frozen

from lllms_core.apis.fields import read_fields, read_list, read_string
from lllms_core.builtin.openai.responses.input_items import Names
from lllms_core.parameters.tools import read_function
from lllms_core.parameters.wording import cut, empty, unsupported, wrong_choice, wrong_type
from lllms_core.types import Tool

OF_SERVERS = frozenset({
    "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "file_search",
    "code_interpreter", "image_generation", "local_shell", "shell", "mcp", "computer", "computer_use_preview",
    "tool_search", "programmatic_tool_calling",
})
KINDS = ("function", "namespace")
_READ = frozenset({"name", "description", "parameters", "strict"})


@frozen
class Toolbox:
    """The tools that the model may call."""

    functions: tuple[Mapping[str, object], ...] = ()
    """As `tools` of a chat."""
    names: Names = field(factory=dict)
    echo: tuple[Mapping[str, object], ...] = ()
    """As the answer repeats them."""
    unused: tuple[str, ...] = ()
    """The names of tools, and of their members, that are left out."""

    @property
    def origins(self) -> Mapping[str, tuple[str | None, str]]:
        """The namespace and the name there, by the name that the model sees."""
        return {flat: origin for origin, flat in self.names.items()}


def read_tools(value: object) -> Toolbox:
    """Read `tools`. Raises `RequestError`."""
    unused: list[str] = []
    found: list[tuple[str | None, Tool]] = []
    echo: list[Mapping[str, object]] = []
    for index, one in enumerate(read_list(value, "tools")):
        path = f"tools[{index}]"
        fields = read_fields(one, path)
        kind = _kind(fields, path, *KINDS)
        if kind in OF_SERVERS:
            unused.append(f"tools.{kind}")
            continue
        if kind == "function":
            tool = _read_function(fields, path, unused)
            found.append((None, tool))
            echo.append(_echo(tool))
            continue
        namespace = read_string(fields, "name", path)
        inner = [
            _read_function(one, place, unused)
            for one, place in _members(fields, path) if _kind(one, place, "function") == "function"
        ]
        found += [(namespace, tool) for tool in inner]
        echo.append({
            "type": "namespace", "name": namespace, "description": fields.get("description", ""),
            "tools": [_echo(tool) for tool in inner],
        })
    names = _flatten([(namespace, tool.name) for namespace, tool in found])
    functions = [_function(names[namespace, tool.name], tool) for namespace, tool in found]
    return Toolbox(tuple(functions), names, tuple(echo), tuple(unused))


def read_choice(value: object, toolbox: Toolbox) -> object:
    """Return `tool_choice` as a chat has it. Raises `RequestError`."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise wrong_type("tool_choice", "a string or an object", value)
    fields = {name: one for name, one in value.items() if one is not None}
    kind = _kind(fields, "tool_choice", "function", "allowed_tools")
    if kind == "function":
        return _chosen(fields, "tool_choice", toolbox)
    if kind != "allowed_tools":
        raise unsupported("tool_choice.type", '"function"', '"allowed_tools"', '"auto"')
    allowed = []
    tools = read_list(fields.get("tools", []), "tool_choice.tools")
    if not tools:
        raise empty("tool_choice.tools")
    for index, one in enumerate(tools):
        path = f"tool_choice.tools[{index}]"
        inner = read_fields(one, path)
        if _kind(inner, path, "function") == "function":
            allowed.append(_chosen(inner, path, toolbox))
    mode = fields.get("mode", "auto")
    if not allowed and mode == "auto":
        return "none"
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}


def _chosen(fields: Mapping[str, object], path: str, toolbox: Toolbox) -> Mapping[str, object]:
    name = read_string(fields, "name", path)
    namespace = read_string(fields, "namespace", path) if "namespace" in fields else None
    return {"type": "function", "function": {"name": toolbox.names.get((namespace, name), name)}}


def _kind(fields: Mapping[str, object], path: str, *read: str) -> str:
    """Return the kind of a tool: one that is read, or one of OpenAI's servers."""
    kind = read_string(fields, "type", path)
    if kind in {"custom", "apply_patch"}:
        raise unsupported(f"{path}.type", '"function"')
    if kind not in read and kind not in OF_SERVERS:
        raise wrong_choice(f"{path}.type", cut(kind), *read)
    return kind


def _members(fields: Mapping[str, object], path: str) -> Iterator[tuple[Mapping[str, object], str]]:
    for index, one in enumerate(read_list(fields.get("tools", []), f"{path}.tools")):
        yield read_fields(one, f"{path}.tools[{index}]"), f"{path}.tools[{index}]"


def _read_function(fields: Mapping[str, object], path: str, unused: list[str]) -> Tool:
    others = fields.keys() - _READ - {"type"}
    unused += [f"tools.{cut(name)}" for name in sorted(others) if fields[name] is not False]
    return read_function({name: fields[name] for name in fields.keys() & _READ}, path)


def _flatten(origins: Sequence[tuple[str | None, str]]) -> Names:
    counts = Counter(name for _, name in origins)
    return {
        (namespace, name): name if namespace is None or counts[name] == 1 else f"{namespace}__{name}"
        for namespace, name in origins
    }


def _function(name: str, tool: Tool) -> Mapping[str, object]:
    described = {"name": name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": "function", "function": described}


def _echo(tool: Tool) -> Mapping[str, object]:
    return {
        "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters,
        "strict": tool.strict,
    }
