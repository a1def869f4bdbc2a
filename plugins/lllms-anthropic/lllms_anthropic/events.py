"""The events of a streamed message."""

from collections.abc import Callable, Collection
from json.encoder import encode_basestring_ascii as quote

from lllms_anthropic.faults import fault_value
from lllms_anthropic.message_values import call_block, head, stop_reason, text_block, thinking_block, usage_value
from lllms_core.apis import Encoder, Fault
from lllms_core.apis.writing import event
from lllms_core.types import Delta, Finish, Usage

PING = event({"type": "ping"}, "ping")
_FIELDS = {"text": "text", "thinking": "thinking", "input_json": "partial_json"}
"""The kinds of deltas, and the field that each has."""


class MessageEvents(Encoder):
    """Writes one message: a block is open from its first piece to the first piece of another, and is never reopened.

    `head` returns the id of the message and the name of its model, once the answer has begun. The prompt's tokens are
    known by then, so the first event has their true number. All but the text of a piece is encoded once for each block.
    """

    content_type = "text/event-stream"

    def __init__(self, head: Callable[[], tuple[str, str]], stops: Collection[str]) -> None:
        self._head = head
        self._stops = stops
        self._begun = False
        self._index = -1
        """The index of the open block, or of the last one."""
        self._open: object = None
        """Identifies the open block: "text", "thinking", the index of a call; None if no block is open."""
        self._before = ""

    def delta(self, delta: Delta) -> bytes:
        """Return the events for a piece: thoughts, text, calls, in this order."""
        if self._open == "text" and not (delta.reasoning or delta.calls):
            return self._write(delta.text) if delta.text else b""  # most pieces: this runs for every token
        said = b"" if self._begun else self._start(delta.admitted)
        if delta.reasoning:
            said += self._piece("thinking", thinking_block(""), "thinking", delta.reasoning)
        if delta.text:
            said += self._piece("text", text_block(""), "text", delta.text)
        for piece in delta.calls:
            if piece.index != self._open:
                said += self._turn(piece.index, call_block(piece.id, piece.name, {}), "input_json")
            if piece.arguments:
                said += self._write(piece.arguments)
        return said

    def end(self, finish: Finish) -> bytes:
        """Return the end of the open block, the reason and the token counts, and the end of the message."""
        said = b"" if self._begun else self._start(finish.usage)
        reason, stop = stop_reason(finish, self._stops)
        told = {
            "type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": stop},
            "usage": usage_value(finish.usage),
        }
        return said + self._close() + event(told, "message_delta") + event({"type": "message_stop"}, "message_stop")

    def fault(self, fault: Fault) -> bytes:
        """Return the event that ends a message that failed."""
        return event(fault_value(fault), "error")

    def ping(self, waiting: str) -> bytes:  # noqa: ARG002  # a ping says nothing here
        """Return a `ping`, which may come at any time, also before the first event."""
        return PING

    def _start(self, admitted: Usage | None) -> bytes:
        self._begun = True
        counts = Usage(0, 0) if admitted is None else Usage(admitted.prompt_tokens, 0, admitted.cached_tokens)
        message = {
            **head(*self._head()), "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": usage_value(counts),
        }
        return event({"type": "message_start", "message": message}, "message_start")

    def _piece(self, block: str, value: object, kind: str, text: str) -> bytes:
        turn = b"" if self._open == block else self._turn(block, value, kind)
        return turn + self._write(text)

    def _turn(self, block: object, value: object, kind: str) -> bytes:
        """Return the end of the open block, and the beginning of another one."""
        end = self._close()
        self._index += 1
        self._open = block
        self._before = (
            f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{self._index},'
            f'"delta":{{"type":"{kind}_delta","{_FIELDS[kind]}":'
        )
        begun = {"type": "content_block_start", "index": self._index, "content_block": value}
        return end + event(begun, "content_block_start")

    def _write(self, text: str) -> bytes:
        return f"{self._before}{quote(text)}}}}}\n\n".encode()

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        said = b""
        if self._open == "thinking":
            # Clients keep thoughts for the next request only if a signature came.
            signed = {"type": "signature_delta", "signature": ""}
            delta = {"type": "content_block_delta", "index": self._index, "delta": signed}
            said = event(delta, "content_block_delta")
        self._open = None
        return said + event({"type": "content_block_stop", "index": self._index}, "content_block_stop")
