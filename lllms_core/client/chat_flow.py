"""The life of one answer, whatever carries its bytes: what to ask next, and what has been told; pure."""

import json
from collections.abc import Iterator, Mapping

from lllms_core.client.asks import API, Ask, same
from lllms_core.client.chat_values import (
    CallEvent,
    ChatEvent,
    ChatResult,
    DoneEvent,
    TextEvent,
    ThoughtsEvent,
    UsageEvent,
    read_chat_event,
)
from lllms_core.client.event_lines import EventLines
from lllms_core.client.server_error import ServerError, told_error

TRIES = 4
PAUSE = 0.25
"""Seconds before the second try, doubled for each further one: together less than the server waits for a reader."""


class ChatFlow:
    """Asks for an answer, reads its events, and says how to go on if the connection breaks."""

    def __init__(self, body: Mapping[str, object]) -> None:
        self.ended = False
        self._body = body
        self._last = ""
        """The id of the last event."""
        self._lines = EventLines()
        self._tries = 0
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[CallEvent] = []
        self._usage: UsageEvent | None = None
        self._done: DoneEvent | None = None

    @property
    def ask(self) -> Ask[object]:
        """What to ask now: for an answer, or for the rest of it."""
        self._lines = EventLines()  # what was cut off comes again
        if not self._last:
            return Ask("POST", f"{API}/chat", same, self._body)
        return Ask("GET", self._path, same, headers={"Last-Event-ID": self._last})

    @property
    def stop(self) -> Ask[object] | None:
        """What to ask for to stop the answer; None if there is nothing to stop."""
        return None if self.ended or not self._last else Ask("DELETE", self._path, same)

    @property
    def result(self) -> ChatResult:
        """The answer as far as it was read."""
        done = self._done
        told = (None, None, None) if done is None else (done.reason, done.stop, done.conversation)
        return ChatResult("".join(self._texts), "".join(self._thoughts), tuple(self._calls), self._usage, *told)

    def read(self, data: bytes) -> Iterator[ChatEvent]:
        """Yield the events that are complete now. Raises `ServerError` if the answer has failed."""
        for one in self._lines.read(data):
            self._last, self._tries = one.id or self._last, 0
            value = json.loads(one.data)
            if one.name == "error":
                self.ended = True
                raise told_error(value)
            event = read_chat_event(one.name, value)
            if event is not None:
                self._note(event)
                yield event

    def pause_after(self, error: ServerError) -> float:
        """Return the seconds after which to `ask` again; raises the error if that is of no use."""
        self._tries += 1
        if self.ended or error.status or not self._last or self._tries > TRIES:
            raise error
        return PAUSE * float(2 ** (self._tries - 1))

    def check_ended(self) -> None:
        """Raise `ServerError` if the answer has not ended, but its connection has."""
        if not self.ended:
            raise ServerError("the server ended its answer early")

    @property
    def _path(self) -> str:
        return f"{API}/chat/{self._last.rpartition('-')[0]}"

    def _note(self, event: ChatEvent) -> None:
        match event:
            case TextEvent():
                self._texts.append(event.text)
            case ThoughtsEvent():
                self._thoughts.append(event.text)
            case CallEvent():
                self._calls.append(event)
            case UsageEvent():
                self._usage = event
            case DoneEvent():
                self._done, self.ended = event, True
