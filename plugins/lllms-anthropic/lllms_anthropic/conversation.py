"""The system prompt and the messages of a request, from JSON.

Blocks become the messages that chat templates know: the results of tools are messages of their own, before the rest of
the user's; consecutive messages of one role are one, as in Anthropic's API. Fields that say nothing to a model (ids,
caching, signatures) are dropped.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, cast

from attrs import define, field

from lllms_core.apis.fields import join_parts, read_fields, read_list, read_string
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut, empty, missing, unsupported, wrong_choice, wrong_type
from lllms_core.types import Media, Message, ToolCall

Role = Literal["user", "assistant", "system"]
Fields = Mapping[str, object]
Part = str | Media

ROLES = ("user", "assistant", "system")
KINDS: Mapping[str, Sequence[str]] = {
    "user": ("text", "image", "tool_result"), "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",), "tool_result": ("text", "image"),
}
"""The kinds of blocks in the content of each role, and of a tool's result."""
DOCUMENTS = frozenset({"document", "search_result", "container_upload"})
"""Kinds of blocks that users may send, and that no model here gets."""
BOOKKEEPING = "x-anthropic-billing-header:"
"""Begins a block of the system prompt that Claude Code writes for its maker's servers, not for the model. It depends on
the conversation, so with it no two conversations would have a common beginning to reuse."""


@define
class Turn:
    """The blocks of consecutive messages of one role, each with its path."""

    role: Role
    blocks: list[tuple[str, Fields]] = field(factory=list)

    def of(self, *kinds: str) -> Iterator[tuple[str, Fields]]:
        """Yield the blocks of these kinds."""
        return ((path, block) for path, block in self.blocks if block["type"] in kinds)


def read_conversation(system: object, messages: object) -> tuple[Message, ...]:
    """Read `system` (None: there is none) and `messages`. Raises `RequestError` that names the field."""
    read = _read_system(system)
    calls: Sequence[str] = ()
    for turn in _read_turns(messages):
        if turn.role == "user":
            _check_results(turn, calls)
            _add_user(read, turn)
            calls = ()
        elif turn.role == "system":
            read.append(Message("system", _joined(_texts(turn.of("text")))))
        else:
            _check_results(None, calls)
            answer = _read_answer(turn)
            read.append(answer)
            calls = [call.id for call in answer.tool_calls]
    _check_results(None, calls)
    return tuple(read)


def _read_system(value: object) -> list[Message]:
    if value is None or value in ("", []):
        return []
    blocks = _read_blocks(value, "system", "system")
    texts = [text for text in _texts(blocks) if not text.startswith(BOOKKEEPING)]
    return [Message("system", _joined(texts))] if texts else []


def _read_turns(value: object) -> list[Turn]:
    turns: list[Turn] = []
    for index, one in enumerate(read_list(value, "messages")):
        path = f"messages[{index}]"
        fields = read_fields(one, path)
        role = _read_role(fields, path)
        if "content" not in fields:
            raise missing(f"{path}.content")
        blocks = _read_blocks(fields["content"], f"{path}.content", role)
        if turns and turns[-1].role == role and role != "system":
            turns[-1].blocks += blocks
        else:
            turns.append(Turn(role, blocks))
    if not turns:
        raise empty("messages")
    return turns


def _read_role(fields: Fields, path: str) -> Role:
    role = read_string(fields, "role", path)
    if role not in ROLES:
        raise wrong_choice(f"{path}.role", role, *ROLES)
    return cast(Role, role)


def _read_blocks(value: object, path: str, place: str) -> list[tuple[str, Fields]]:
    """Read a content into blocks of the kinds that this place allows."""
    if isinstance(value, str):
        return [(path, {"type": "text", "text": value})]
    if not isinstance(value, list):
        raise wrong_type(path, "a string or an array of objects", value)
    blocks: list[tuple[str, Fields]] = []
    for index, one in enumerate(value):
        here = f"{path}[{index}]"
        fields = read_fields(one, here)
        kind = read_string(fields, "type", here)
        if kind in DOCUMENTS:
            raise unsupported(f"{here}.type", '"text"')
        if kind not in KINDS[place]:
            raise wrong_choice(f"{here}.type", kind, *KINDS[place])
        blocks.append((here, fields))
    return blocks


def _read_answer(turn: Turn) -> Message:
    thoughts = _joined([read_string(block, "thinking", path) for path, block in turn.of("thinking")])
    calls = tuple(_read_call(path, block) for path, block in turn.of("tool_use"))
    ids = [call.id for call in calls]
    if twice := next((one for one in ids if ids.count(one) > 1), None):
        raise InvalidRequest(f"several 'tool_use' blocks have the id '{cut(twice)}'; each needs its own", "messages")
    return Message("assistant", _joined(_texts(turn.of("text"))), tool_calls=calls, reasoning=thoughts or None)


def _read_call(path: str, block: Fields) -> ToolCall:
    given = block.get("input", {})
    if not isinstance(given, dict):
        raise wrong_type(f"{path}.input", "an object", given)
    arguments = json.dumps(given, ensure_ascii=False)
    return ToolCall(read_string(block, "id", path), read_string(block, "name", path), arguments)


def _check_results(turn: Turn | None, calls: Sequence[str]) -> None:
    """Raise `InvalidRequest` unless this turn (None: no user's) has one result for each of the calls before it."""
    open_calls = list(calls)
    for path, block in () if turn is None else turn.of("tool_result"):
        answered = read_string(block, "tool_use_id", path)
        if answered not in open_calls:
            why = "has a result already" if answered in calls else "is no 'tool_use' of the message before"
            text = f"Invalid '{path}.tool_use_id': '{cut(answered)}' {why}."
            raise InvalidRequest(text, f"{path}.tool_use_id", "invalid_value")
        open_calls.remove(answered)
    if open_calls:
        ids = cut(", ".join(open_calls))
        text = f"each 'tool_use' needs a 'tool_result' in the next message; there is none for {ids}"
        raise InvalidRequest(text, "messages", "invalid_value")


def _add_user(read: list[Message], turn: Turn) -> None:
    results = [_read_result(path, block) for path, block in turn.of("tool_result")]
    if results:
        # Templates know results right after their calls only.
        at = len(read)
        while at and read[at - 1].role == "system":
            at -= 1
        read[at:at] = results
    rest = list(turn.of("text", "image"))
    if rest or not results:
        read.append(_with_parts(rest, lambda text, media: Message("user", text, parts=media)))


def _read_result(path: str, block: Fields) -> Message:
    blocks = _read_blocks(block.get("content", []), f"{path}.content", "tool_result")
    failed = block.get("is_error", False)
    if not isinstance(failed, bool):
        raise wrong_type(f"{path}.is_error", "a boolean", failed)
    called = read_string(block, "tool_use_id", path)
    result = _with_parts(blocks, lambda text, media: Message("tool", text, tool_call_id=called, parts=media))
    # Chat templates have no mark for failures: a result that says nothing says at least this.
    return Message("tool", "error", tool_call_id=called) if failed and not (result.content or result.parts) else result


def _with_parts(
    blocks: Sequence[tuple[str, Fields]], make: Callable[[str, tuple[Part, ...]], Message],
) -> Message:
    return make(*join_parts([_read_part(path, block) for path, block in blocks]))


def _read_part(path: str, block: Fields) -> Part:
    if block["type"] == "text":
        return read_string(block, "text", path)
    if "source" not in block:
        raise missing(f"{path}.source")
    source = read_fields(block["source"], f"{path}.source")
    kind = read_string(source, "type", f"{path}.source")
    if kind == "url":
        address = read_string(source, "url", f"{path}.source")
    elif kind == "base64":
        data = read_string(source, "data", f"{path}.source")
        address = f"data:{read_string(source, 'media_type', f'{path}.source')};base64,{data}"
    else:
        raise wrong_choice(f"{path}.source.type", kind, "base64", "url")
    return Media("image", address, param=f"{path}.type")


def _texts(blocks: Sequence[tuple[str, Fields]] | Iterator[tuple[str, Fields]]) -> list[str]:
    return [read_string(block, "text", path) for path, block in blocks]


def _joined(texts: Sequence[str]) -> str:
    return join_parts(texts)[0]
