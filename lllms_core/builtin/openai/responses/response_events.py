"""The server-sent events of one response, each with its sequence number."""

from collections.abc import Iterable, Iterator, Mapping

from lllms_core.apis import Encoder, Fault
from lllms_core.apis.writing import comment, dumps, event
from lllms_core.builtin.openai.responses.output_items import Event
from lllms_core.builtin.openai.responses.progress import ResponseProgress
from lllms_core.types import Delta, Finish


class ResponseEvents(Encoder):
    """Encodes what `progress` tells."""

    content_type = "text/event-stream"

    def __init__(self, progress: ResponseProgress) -> None:
        self.progress = progress
        self.number = 0
        """The sequence number of the next event."""

    def queued(self) -> list[bytes]:
        """Return the events of a response that waits."""
        return self._encode(self.progress.queue())

    def added(self, delta: Delta) -> list[bytes]:
        """Return the events of a piece of the answer."""
        return self._encode(self._begun(), self.progress.add(delta))

    def ended(self, finish: Finish) -> list[bytes]:
        """Return the last events."""
        return self._encode(self._begun(), self.progress.end(finish))

    def failed(self, fault: Fault) -> list[bytes]:
        """Return the last events of a response that failed."""
        return self._encode(self._begun(), self.progress.fail(fault))

    def delta(self, delta: Delta) -> bytes:
        """Return the events of a piece of the answer."""
        return b"".join(self.added(delta))

    def end(self, finish: Finish) -> bytes:
        """Return the last events."""
        return b"".join(self.ended(finish))

    def fault(self, fault: Fault) -> bytes:
        """Return the last events of a response that failed."""
        return b"".join(self.failed(fault))

    def ping(self, waiting: str) -> bytes:
        """Return the first events if there were none, so that the client has something to hold on to; or a comment."""
        return comment(waiting) if self.number else b"".join(self.queued())

    def _begun(self) -> Iterator[Event]:
        if self.progress.status == "queued":
            yield from self.progress.begin(told=self.number > 0)

    def _encode(self, *events: Iterable[Event]) -> list[bytes]:
        written = []
        for group in events:
            for name, fields in group:
                kind = f"response.{name}"
                common = {"type": kind, "sequence_number": self.number}
                whole = "response" in fields
                written.append(self._whole(common, fields) if whole else event({**common, **fields}, kind))
                self.number += 1
        return written

    def _whole(self, common: Mapping[str, object], fields: Mapping[str, object]) -> bytes:
        """Return an event with the whole response, whose head is encoded already."""
        state = dumps(fields["response"])[1:]
        head = self.progress.head.encoded[:-1]
        return b'event: %s\ndata: %s,"response":%s,%s}\n\n' % (
            str(common["type"]).encode(), dumps(common)[:-1], head, state,
        )
