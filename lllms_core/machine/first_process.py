"""What the first process of a container has to do: it is the parent of every orphan."""

import os

from attrs import define


def is_first() -> bool:
    """Whether this is process 1."""
    return os.getpid() == 1


@define
class Orphans:
    """Lets orphans go that have ended, which would otherwise stay in the table of processes as zombies.

    It must not take the end of a child from those who wait for it. They do that within moments, so a child that has
    ended but is still there at the next look has nobody else.
    """

    _ended: int | None = None

    def look(self) -> int | None:
        """Look for a child that has ended; return its number if it was let go. Call it every few seconds."""
        before, self._ended = self._ended, self._first_ended()
        if self._ended is None or self._ended != before:
            return None
        try:
            found, _ = os.waitpid(self._ended, os.WNOHANG)
        except ChildProcessError:
            return None  # somebody has waited for it in this very moment
        self._ended = self._first_ended()
        return found or None

    def _first_ended(self) -> int | None:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None  # no children
        return None if found is None else found.si_pid
