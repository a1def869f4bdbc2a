"""The body of `POST /api/v1/chat`; pure."""

import re
from collections.abc import Mapping, Sequence
from typing import cast

from attrs import frozen

from lllms_core.apis.bodies import read_object, take_text
from lllms_core.builtin.chat.said_messages import Said, read_said, tool_parameters
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.bounds import LEVELS
from lllms_core.parameters.kinds import Flag
from lllms_core.parameters.wording import empty, missing, unsupported, wrong_type

NOT_HERE = frozenset({"n", "logprobs", "top_logprobs", "stream_options", "functions", "function_call", "stream"})
"""Parameters of a chat in OpenAI's API that this protocol does not have."""
NEW = "new"
"""The `conversation` for which the server makes an id."""
CONVERSATION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@frozen
class ChatBody:
    """A client's request."""

    model: str
    said: Sequence[Said]
    """Its messages, checked; without the system's."""
    system: str | None
    conversation: str | None
    """The id of the conversation that they continue; `NEW` for a new one."""
    parameters: Mapping[str, object]
    """All other members, unchecked."""
    stream: bool
    thoughts: bool
    """Whether the answer's thoughts are told."""


def read_chat_body(body: bytes, levels: int = LEVELS) -> ChatBody:
    """Read the body, nested `levels` deep at most. Raises `RequestError`."""
    values = read_object(body, levels)
    model = take_text(values, "model")
    said = _read_messages(values)
    system = take_text(values, "system") if "system" in values else None
    conversation = _read_conversation(values)
    stream = Flag().check("stream", values.pop("stream", True))
    thoughts = Flag().check("thoughts", values.pop("thoughts", True))
    for name in sorted(NOT_HERE & values.keys()):
        raise unsupported(name, by="this protocol; /v1/chat/completions has it")
    return ChatBody(model, said, system, conversation, tool_parameters(values), stream, thoughts)


def _read_messages(values: dict[str, object]) -> Sequence[Said]:
    if "message" in values and "messages" in values:
        raise InvalidRequest("send either 'message' or 'messages'", "message", "invalid_value")
    if "message" in values:
        message = values.pop("message")
        said = {"role": "user", "content": message} if isinstance(message, str) else message
        read_said([said], "message")
        return [cast("Said", said)]
    if "messages" not in values:
        raise missing("message")
    messages = values.pop("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise empty("messages")
    read_said(messages)
    return cast("list[Said]", messages)


def _read_conversation(values: dict[str, object]) -> str | None:
    if "conversation" not in values:
        return None
    name = take_text(values, "conversation")
    if not CONVERSATION_ID.fullmatch(name):
        raise InvalidRequest(
            "'conversation' must consist of 1 to 64 letters, digits, '_' and '-'; send 'new' to get an id",
            "conversation", "invalid_value",
        )
    return name
