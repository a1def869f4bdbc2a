"""A session store of your own: conversations in a SQLite file.

Name this module in the entry points of a distribution, and set `[sessions] store = "sqlite"`:

    [project.entry-points.lllms]
    sqlite = "session_store"
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from attrs import asdict, frozen

from lllms_core.hookspecs import hookimpl
from lllms_core.sessions import SessionEntry, SessionStore


@frozen
class Options:
    """`[sessions.options]`."""

    file: Path


class SqliteStore(SessionStore):
    """Keeps sessions in one table."""

    name = "sqlite"
    Options = Options

    def open(self, options: object) -> None:
        """Make the table."""
        file = cast(Options, options).file
        # Two threads call; SQLite serialises them.
        self._base = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        columns = "id TEXT PRIMARY KEY, about TEXT, used REAL, data BLOB"
        self._base.execute(f"CREATE TABLE IF NOT EXISTS sessions ({columns})")

    def put(self, entry: SessionEntry, data: bytes) -> None:
        """Insert a row."""
        row = (entry.id, json.dumps(asdict(entry)), entry.used, data)
        self._base.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)", row)

    def get(self, session_id: str) -> bytes | None:
        """Select a row."""
        self._base.execute("UPDATE sessions SET used = ? WHERE id = ?", (time.time(), session_id))
        row = self._base.execute("SELECT data FROM sessions WHERE id = ?", (session_id,)).fetchone()
        return None if row is None else row[0]

    def delete(self, session_id: str) -> bool:
        """Delete a row."""
        return self._base.execute("DELETE FROM sessions WHERE id = ?", (session_id,)).rowcount > 0

    def list(self) -> Sequence[SessionEntry]:
        """Select the sessions' metadata."""
        rows = self._base.execute("SELECT about, used FROM sessions").fetchall()
        abouts = [{**json.loads(about), "used": used} for about, used in rows]
        return [SessionEntry(**{**about, "chain": tuple(about["chain"])}) for about in abouts]

    def close(self) -> None:
        """Close the file."""
        self._base.close()


@hookimpl
def lllms_session_stores() -> Iterable[SessionStore]:
    """Provide the store."""
    return [SqliteStore()]
