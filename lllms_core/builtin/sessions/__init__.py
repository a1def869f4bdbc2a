"""The built-in session stores: `memory` and `disk`."""

from collections.abc import Iterable

from lllms_core.builtin.sessions.disk_store import DiskStore
from lllms_core.builtin.sessions.memory_store import MemoryStore
from lllms_core.hookspecs import hookimpl
from lllms_core.sessions import SessionStore

__all__ = ["DiskStore", "MemoryStore", "lllms_session_stores"]


@hookimpl
def lllms_session_stores() -> Iterable[SessionStore]:
    """Provide both stores."""
    return [MemoryStore(), DiskStore()]
