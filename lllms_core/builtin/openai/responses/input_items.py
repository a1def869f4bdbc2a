"""The items of a conversation, read as messages; pure.

Consecutive items of the assistant (thoughts, text, calls) are one message, as its chat template knows them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import cast

from attrs import evolve, frozen

from lllms_core.apis.fields import read_fields, read_string
from lllms_core.builtin.openai.responses.content_parts import read_content, read_output, read_thoughts
from lllms_core.parameters.wording import cut, missing, unsupported, wrong_choice, wrong_type
from lllms_core.types import Message, Role, ToolCall

Item = Mapping[str, object]
Names = Mapping[tuple[str | None, str], str]
"""A function's namespace, if any, and its name there; with the name that the model sees."""

ROLES = ("user", "system", "developer", "assistant")
KINDS = ("message", "reasoning", "function_call", "function_call_output", "item_reference")
"""The kinds of items that are read."""
OF_SERVERS = frozenset({
    "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "computer_call",
    "computer_call_output", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output",
    "mcp_list_tools", "mcp_call", "mcp_approval_request", "mcp_approval_response", "tool_search_call",
    "tool_search_output",
})
"""What other servers' own tools have left in a conversation: it is left out, and named."""

_ID = re.compile(r"[a-z]+_([0-9a-f]{48})_i?[0-9]{1,6}")


@frozen
class Placed:
    """An item with its place in the request."""

    item: Item
    path: str


def read_input(value: object) -> list[Placed]:
    """Return the items of `input`: a text is a user's message. Raises `InvalidRequest`."""
    if isinstance(value, str):
        return [Placed({"type": "message", "role": "user", "content": value}, "input")]
    if not isinstance(value, list):
        raise wrong_type("input", "a string or an array of objects", value)
    return [_place(one, f"input[{index}]") for index, one in enumerate(value)]


def left_out(items: Sequence[Placed]) -> list[str]:
    """Return the names of the kinds of items that are left out."""
    return [f"input.{one.item['type']}" for one in items if one.item["type"] in OF_SERVERS]


def read_conversation(items: Sequence[Placed], names: Names) -> list[Message]:
    """Return the messages; the items contain no references any more. Raises `RequestError` that names the place."""
    messages: list[Message] = []
    for one in items:
        item, path = one.item, one.path
        match item["type"]:
            case "message" if item.get("role") != "assistant":
                messages.append(_read_message(item, path))
            case "message":
                text, _ = read_content(item, "content", path, "assistant")
                _add(messages, Message("assistant", text))
            case "reasoning":
                thoughts = read_thoughts(item, path)
                if thoughts:
                    _add(messages, Message("assistant", "", reasoning=thoughts))
            case "function_call":
                _add(messages, Message("assistant", "", tool_calls=(_read_call(item, path, names),)))
            case "function_call_output":
                text, media = read_output(item, path)
                messages.append(Message("tool", text, tool_call_id=read_string(item, "call_id", path), parts=media))
    return messages


def reference_of(item: Item) -> str | None:
    """Return the id of the response that a reference leads to; None if we did not give that id."""
    found = _ID.fullmatch(str(item["id"]))
    return None if found is None else f"resp_{found[1]}"


def output_id(prefix: str, response_id: str, number: int) -> str:
    """Return the id of an item of a response's output."""
    return f"{prefix}_{response_id.removeprefix('resp_')}_{number}"


def kept_items(items: Sequence[Placed], response_id: str) -> list[Item]:
    """Return the items of a request as they are kept and listed: each with an id, messages with parts."""
    return [_kept(one.item, f"{response_id.removeprefix('resp_')}_i{number}") for number, one in enumerate(items)]


def weight(value: object) -> int:
    """Return about how many bytes a JSON value takes."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(weight, value.values()))
    return sum(map(weight, value)) if isinstance(value, list | tuple) else 8


PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}


def _kept(item: Item, number: str) -> Item:
    kind = cast("str", item["type"])
    given = item.get("id")
    kept = {**item, "id": given if isinstance(given, str) else f"{PREFIXES.get(kind, 'item')}_{number}"}
    if kind == "reasoning":
        return {"summary": [], **kept}
    if kind == "message" and isinstance(item.get("content"), str):
        text = {"type": "input_text", "text": item["content"]}
        said = {"type": "output_text", "text": item["content"], "annotations": [], "logprobs": []}
        kept["content"] = [said if item.get("role") == "assistant" else text]
    return {"status": "completed", **kept}


def _place(value: object, path: str) -> Placed:
    item = read_fields(value, path)
    kind = item.get("type")
    if kind is None:
        if "role" not in item and "id" not in item:
            raise missing(f"{path}.type")
        kind = "message" if "role" in item else "item_reference"
    if not isinstance(kind, str):
        raise wrong_type(f"{path}.type", "a string", kind)
    if kind in {"custom_tool_call", "custom_tool_call_output"}:
        raise unsupported(f"{path}.type", '"function_call"', '"function_call_output"')
    if kind not in KINDS and kind not in OF_SERVERS:
        raise wrong_choice(f"{path}.type", kind, *KINDS)
    if kind == "item_reference":
        read_string(item, "id", path)
    return Placed({**item, "type": kind}, path)


def _read_message(item: Item, path: str) -> Message:
    role = read_string(item, "role", path)
    if role not in ROLES:
        raise wrong_choice(f"{path}.role", cut(role), *ROLES)
    text, media = read_content(item, "content", path, role)
    return Message(cast("Role", role), text, parts=media)


def _read_call(item: Item, path: str, names: Names) -> ToolCall:
    name = read_string(item, "name", path)
    namespace = read_string(item, "namespace", path) if "namespace" in item else None
    shown = names.get((namespace, name), name)
    return ToolCall(read_string(item, "call_id", path), shown, read_string(item, "arguments", path))


def _add(messages: list[Message], said: Message) -> None:
    """Add to the assistant's message at the end, or begin one."""
    if not messages or messages[-1].role != "assistant":
        messages.append(said)
        return
    last = messages[-1]
    messages[-1] = evolve(
        last,
        content="\n".join(filter(None, (last.content, said.content))),
        reasoning="\n".join(filter(None, (last.reasoning, said.reasoning))) or None,
        tool_calls=(*last.tool_calls, *said.tool_calls),
    )


