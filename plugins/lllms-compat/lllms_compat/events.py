"""The events of a streamed completion."""

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quote

from lllms_compat.answer_values import Frame, answer_value, probabilities, selected
from lllms_compat.faults import fault_value
from lllms_core.apis import Encoder, Fault
from lllms_core.apis.writing import comment, dumps, event
from lllms_core.types import Delta, Finish, TextRequest


class CompletionEvents(Encoder):
    """Writes one answer: an event for each piece, and one that ends it, with all that a whole answer tells."""

    content_type = "text/event-stream"

    def __init__(self, request: TextRequest, frame: Frame, fields: Sequence[str] | None = None) -> None:
        self._request = request
        self._frame = frame
        self._fields = fields
        self._tokens = 0
        self._prompt_tokens = 0
        self._breaks = False

    def delta(self, delta: Delta) -> bytes:
        """Return the event for a piece of text; none for an empty one."""
        self._tokens += delta.tokens
        if delta.admitted is not None:
            self._prompt_tokens = delta.admitted.prompt_tokens
        if not delta.text and not delta.scores:
            return b""
        self._breaks = self._breaks or "\n" in delta.text
        more = ""
        if delta.scores:
            more = f',"completion_probabilities":{dumps(probabilities(delta.scores)).decode()}'
        return (
            f'data: {{"index":0,"content":{quote(delta.text)},"tokens":[],"stop":false,'
            f'"tokens_predicted":{self._tokens},"tokens_evaluated":{self._prompt_tokens}{more}}}\n\n'
        ).encode()

    def end(self, finish: Finish) -> bytes:
        """Return the last event."""
        value = answer_value(self._request, self._frame, finish, "", breaks=self._breaks)
        return event(selected(value, self._fields))

    def fault(self, fault: Fault) -> bytes:
        """Return the event that ends an answer that failed."""
        return event(fault_value(fault))

    def ping(self, waiting: str) -> bytes:
        """Return a comment."""
        return comment(waiting)
