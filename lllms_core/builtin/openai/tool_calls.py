"""The parts of an answer beside its text: thoughts and calls, as OpenAI's API shows them."""

from collections.abc import Iterator

from lllms_core.types import CallPiece, Delta, Message


def message_value(message: Message, *, functions: bool) -> dict[str, object]:
    """Return the message of a whole answer; with `functions`, its call is shown in the deprecated form."""
    said: dict[str, object] = {"role": "assistant", "content": message.content, "refusal": None}
    if not message.content and (message.tool_calls or message.reasoning):
        said["content"] = None
    if message.reasoning:
        said["reasoning_content"] = message.reasoning
    if message.tool_calls and functions:
        call = message.tool_calls[0]
        said["function_call"] = {"name": call.name, "arguments": call.arguments}
    elif message.tool_calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return said


def delta_values(delta: Delta, *, functions: bool) -> Iterator[dict[str, object]]:
    """Yield the `delta` of each chunk that a piece of an answer needs beside the one for its text.

    The name of a call comes before the first of its arguments.
    """
    if delta.reasoning:
        yield {"reasoning_content": delta.reasoning}
    for piece in delta.calls:
        if piece.name and functions:
            yield {"function_call": {"name": piece.name, "arguments": ""}}
        elif piece.name:
            yield {"tool_calls": [
                {"index": piece.index, "id": piece.id, "type": "function",
                 "function": {"name": piece.name, "arguments": ""}},
            ]}
        if piece.arguments:
            yield _arguments(piece, functions=functions)


def _arguments(piece: CallPiece, *, functions: bool) -> dict[str, object]:
    said = {"arguments": piece.arguments}
    return {"function_call": said} if functions else {"tool_calls": [{"index": piece.index, "function": said}]}
