"""The results of tool calls in a conversation: each belongs to a call; pure."""

from collections import Counter
from collections.abc import Sequence

from attrs import evolve

from lllms_core.errors import InvalidRequest
from lllms_core.types import Message


def settle_results(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same conversation, with the results of each message's calls in the order of the calls, and named for them.

    Templates tell results apart by their order. Raises `InvalidRequest` for a result without its call, a call without
    its result, and two calls of one id.
    """
    settled: list[Message] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        if message.role == "tool":
            text = "Invalid parameter: messages with role 'tool' must be a response to a preceding message with"
            raise InvalidRequest(f"{text} 'tool_calls'.", f"messages[{at}].role", "invalid_value")
        settled.append(message)
        at += 1
        if message.tool_calls:
            results = _results(message, messages, at)
            settled += results
            at += len(results)
    return tuple(settled)


def _results(message: Message, messages: Sequence[Message], start: int) -> list[Message]:
    """The results that follow `message`, which stands before `start`, in the order of its calls."""
    path = f"messages[{start - 1}].tool_calls"
    ids = [call.id for call in message.tool_calls]
    counts = Counter(ids)
    if twice := sorted(one for one, count in counts.items() if count > 1):
        text = f"Invalid '{path}': several calls have the id '{twice[0]}'; each needs its own."
        raise InvalidRequest(text, path, "invalid_value")
    found: dict[str, Message] = {}
    for at in range(start, len(messages)):
        result = messages[at]
        if result.role != "tool":
            break
        if result.tool_call_id is None or result.tool_call_id not in counts:
            text = f"Invalid parameter: 'tool_call_id' of '{result.tool_call_id}' not found in 'tool_calls' of previous"
            raise InvalidRequest(f"{text} message.", f"messages[{at}].tool_call_id", "invalid_value")
        if result.tool_call_id in found:
            text = f"Invalid parameter: there are two results for 'tool_call_id' '{result.tool_call_id}'."
            raise InvalidRequest(text, f"messages[{at}].tool_call_id", "invalid_value")
        found[result.tool_call_id] = result
    if missing := [one for one in ids if one not in found]:
        text = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
            f" 'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(missing)}"
        )
        raise InvalidRequest(text, path, "invalid_value")
    return [evolve(found[call.id], name=call.name) for call in message.tool_calls]
