"""A whole message, assembled from the pieces of an answer; pure."""

from collections.abc import Iterable

from attrs import evolve

from lllms_core.types import Delta, Message, ToolCall


def gather_message(deltas: Iterable[Delta]) -> Message:
    """Return the assistant's message that the deltas of one answer form together."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for delta in deltas:
        texts.append(delta.text)
        thoughts.append(delta.reasoning)
        for piece in delta.calls:
            if piece.index == len(calls):
                calls.append(ToolCall(piece.id, piece.name, piece.arguments))
            else:
                calls[piece.index] = evolve(
                    calls[piece.index], arguments=calls[piece.index].arguments + piece.arguments,
                )
    return Message("assistant", "".join(texts), tool_calls=tuple(calls), reasoning="".join(thoughts) or None)
