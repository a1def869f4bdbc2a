"""A whole message, in the shape of Anthropic's API; pure."""

import json
from collections.abc import Collection, Iterator

from lllms_core.answers import Answer
from lllms_core.chat.past_arguments import as_object, is_object
from lllms_core.types import Finish, Message, ToolCall, Usage


def message_value(message_id: str, model: str, answer: Answer, stops: Collection[str]) -> dict[str, object]:
    """Return an answer as a `message`; `stops` are the stop sequences of its request.

    A call that was cut is left out: it cannot be run, and its arguments might be dangerous without their end.
    """
    finish = answer.finish
    reason, stop = stop_reason(finish, stops)
    content = list(_blocks(answer.message, cut=finish.reason in {"length", "timeout"}))
    return {**head(message_id, model), "content": content, "stop_reason": reason, "stop_sequence": stop,
            "usage": usage_value(finish.usage)}


def head(message_id: str, model: str) -> dict[str, object]:
    """Return the fields that do not depend on the answer."""
    return {"id": message_id, "type": "message", "role": "assistant", "model": model}


def stop_reason(finish: Finish, stops: Collection[str]) -> tuple[str, str | None]:
    """Return Anthropic's word for the end of an answer, and the stop sequence of the client that ended it."""
    match finish.reason:
        case "tool_calls":
            return "tool_use", None
        case "length" | "timeout":
            return "max_tokens", None
    return ("stop_sequence", finish.stop) if finish.stop in stops else ("end_turn", None)


def usage_value(usage: Usage) -> dict[str, object]:
    """Return the token counts: the prompt's tokens are either read from the cache, or input."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def text_block(text: str) -> dict[str, object]:
    """Return a block of text."""
    return {"type": "text", "text": text}


def thinking_block(thoughts: str) -> dict[str, object]:
    """Return a block of thoughts. Nobody signs them here, and clients insist on the field."""
    return {"type": "thinking", "thinking": thoughts, "signature": ""}


def call_block(call_id: str, name: str, given: object) -> dict[str, object]:
    """Return a block with a call."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def _blocks(message: Message, *, cut: bool) -> Iterator[dict[str, object]]:
    if message.reasoning:
        yield thinking_block(message.reasoning)
    if message.content:
        yield text_block(message.content)
    for call in message.tool_calls:
        if not cut or is_object(call.arguments):
            yield call_block(call.id, call.name, _input(call))


def _input(call: ToolCall) -> object:
    return json.loads(call.arguments, strict=False) if is_object(call.arguments) else as_object(call.arguments)
