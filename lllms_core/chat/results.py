"""The results of tool calls in a conversation, each matched to its call; pure."""

from collections import Counter
from collections.abc import Sequence

from attrs import evolve

from lllms_core.chat.past_arguments import is_object
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut
from lllms_core.types import Message


def settle_results(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the conversation with each message's results in the order of its calls, and with the tools' names.

    Templates tell results apart by their order. Raises `InvalidRequest` for a result without a call, a call without a
    result, and two calls with one id. A call that was cut, and so could not be run, needs no result.
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
    """Return the results that follow `message`, which is at `start - 1`, in the order of its calls."""
    path = f"messages[{start - 1}].tool_calls"
    ids = [call.id for call in message.tool_calls]
    known = Counter(ids)
    if twice := sorted(one for one, count in known.items() if count > 1):
        text = f"Invalid '{path}': several calls have the id '{cut(twice[0])}'; each needs its own."
        raise InvalidRequest(text, path, "invalid_value")
    found: dict[str, Message] = {}
    for at in range(start, len(messages)):
        result = messages[at]
        if result.role != "tool":
            break
        answered = result.tool_call_id or ""
        shown = cut(answered)
        if answered not in known:
            text = f"Invalid parameter: 'tool_call_id' of '{shown}' not found in 'tool_calls' of previous"
            raise InvalidRequest(f"{text} message.", f"messages[{at}].tool_call_id", "invalid_value")
        if answered in found:
            text = f"Invalid parameter: there are two results for 'tool_call_id' '{shown}'."
            raise InvalidRequest(text, f"messages[{at}].tool_call_id", "invalid_value")
        found[answered] = result
    if missing := [call.id for call in message.tool_calls if call.id not in found and is_object(call.arguments)]:
        text = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
            f" 'tool_call_id'. The following tool_call_ids did not have response messages: {cut(', '.join(missing))}"
        )
        raise InvalidRequest(text, path, "invalid_value")
    return [evolve(found[call.id], name=call.name) for call in message.tool_calls if call.id in found]
