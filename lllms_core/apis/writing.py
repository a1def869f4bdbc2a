"""How values are written into answers: as JSON, and as server-sent events; pure."""

import json


def dumps(value: object) -> bytes:
    """Encode compactly; ASCII, so that no reader of lines stumbles over U+2028 and its like."""
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: object, name: str = "") -> bytes:
    """Encode one server-sent event, with its `name` if it has one."""
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + dumps(value) + b"\n\n"


def comment(text: str) -> bytes:
    """Encode a line that readers of event streams skip; it shows that the connection lives."""
    return f": {' '.join(text.split())}\n\n".encode()
