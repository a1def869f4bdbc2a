"""Server-sent events, from bytes that may be cut anywhere; pure."""

from attrs import frozen

from lllms_core.client.server_error import ServerError

LONGEST = 64 * 2**20
"""Bytes of one event at most."""


@frozen
class ServerEvent:
    """One event."""

    id: str
    name: str
    data: str


class EventLines:
    """Reads events; comments are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._searched = 0
        """Bytes of the rest that are known to have no end of an event."""

    def read(self, data: bytes) -> list[ServerEvent]:
        """Return the events that are complete now. Raises `ServerError` if one is too long."""
        text = self._rest + data
        events = []
        start, search = 0, max(0, self._searched - 1)
        while (end := text.find(b"\n\n", search)) >= 0:
            event = _read(text[start:end].decode(errors="replace"))
            if event.data:
                events.append(event)
            start = search = end + 2
        self._rest = text[start:]
        self._searched = len(self._rest)
        if len(self._rest) > LONGEST:
            raise ServerError(f"the server sends an event of more than {LONGEST} bytes", "unreadable")
        return events


def _read(block: str) -> ServerEvent:
    name, event_id = "", ""
    data = []
    for line in block.split("\n"):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "data":
                data.append(value)
            case "event":
                name = value
            case "id":
                event_id = value
    return ServerEvent(event_id, name, "\n".join(data))
