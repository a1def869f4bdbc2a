"""Sessions in the server's own memory: the fastest store, lost with the server."""

from collections.abc import Sequence
from threading import Lock
from time import time

from attrs import evolve

from lllms_core.sessions import SessionEntry, SessionStore


class MemoryStore(SessionStore):
    """Keeps sessions in a dictionary."""

    name = "memory"
    in_memory = True

    def __init__(self) -> None:
        self._lock = Lock()
        self._sessions: dict[str, tuple[SessionEntry, bytes]] = {}

    def put(self, entry: SessionEntry, data: bytes) -> None:
        """Keep the bytes, without a copy."""
        with self._lock:
            self._sessions[entry.id] = entry, data

    def get(self, session_id: str) -> bytes | None:
        """Return the bytes, without a copy."""
        with self._lock:
            if session_id not in self._sessions:
                return None
            entry, data = self._sessions[session_id]
            self._sessions[session_id] = evolve(entry, used=time()), data
            return data

    def delete(self, session_id: str) -> bool:
        """Forget a session."""
        with self._lock:
            return self._sessions.pop(session_id, None) is not None

    def list(self) -> Sequence[SessionEntry]:
        """Return all sessions."""
        with self._lock:
            return [entry for entry, _ in self._sessions.values()]

    def close(self) -> None:
        """Forget everything."""
        self._sessions.clear()
