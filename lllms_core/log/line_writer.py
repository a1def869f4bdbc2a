"""Writes lines in a thread of its own, so that a reader who does not read never stops the program."""

import os
import select
import sys
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import TextIO
from weakref import WeakSet

MOST_CHARACTERS = 1 << 20
"""Of the lines that wait; further ones are dropped and counted."""
BATCH = 1 << 16
"""The characters that are written at once, or one line."""

Counted = Callable[[int], str]
"""Returns the line that stands in place of this many dropped ones."""


class LineWriter:
    """Writes lines to a stream in their order; `put` never waits for it.

    A stream without a descriptor, like one in memory, is written to at once. The thread does not keep the program
    alive: close the writer at the end.
    """

    def __init__(self, stream: TextIO, counted: Counted) -> None:
        self.stream = stream
        self._counted = counted
        self._begin()
        _writers.add(self)
        self._start()

    def _begin(self) -> None:
        self._changed = Condition()
        self._lines: deque[tuple[str, int]] = deque()
        """Each with the number of lines that it stands for."""
        self._size = 0
        """Characters in `_lines`."""
        self._writing = False
        self._dropped = 0
        """Lines dropped since the last that was put."""
        self._failing = False
        """Whether the last write has failed."""
        self._has_thread = self._ending = False

    def put(self, line: str) -> None:
        """Write a line, which ends with a newline, soon."""
        with self._changed:
            if not self._has_thread and not self._start():
                self.stream.write(line)
                self.stream.flush()
            elif self._size + len(line) > MOST_CHARACTERS:
                self._dropped += 1
                self._changed.notify_all()
            else:
                self._tell_dropped()
                self._add(line, 1)
                self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all lines are written, at most this long; return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._writing), seconds)

    def close(self, seconds: float) -> None:
        """End the thread once all lines are written, for which this waits at most this long; `put` starts another."""
        self.flush(seconds)
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    @property
    def _waiting(self) -> bool:
        """Whether there is something to write; a count waits for a write that succeeds, or for the next line."""
        return bool(self._lines or (self._dropped and not self._failing))

    def _start(self) -> bool:
        """Start the thread, if there can be one that helps."""
        if sys.platform == "win32" or not _has_descriptor(self.stream):
            return False
        try:
            Thread(target=self._run, name="lllms log", daemon=True).start()
        except RuntimeError:  # there are too many, or the program ends
            return False
        self._has_thread, self._ending = True, False
        return True

    def _add(self, line: str, count: int) -> None:
        self._lines.append((line, count))
        self._size += len(line)

    def _tell_dropped(self) -> None:
        """Put the count of the lines that were dropped here."""
        if self._dropped:
            self._add(self._counted(self._dropped), self._dropped)
            self._dropped = 0

    def _run(self) -> None:
        while lines := self._take():
            written = self._write("".join(line for line, _ in lines))
            with self._changed:
                self._failing = not written
                self._dropped += 0 if written else sum(count for _, count in lines)

    def _take(self) -> list[tuple[str, int]]:
        """Wait for lines, and remove the first from those that wait; return none when the thread shall end."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()  # for `flush`
            self._changed.wait_for(lambda: self._waiting or self._ending)
            if not self._waiting:
                self._has_thread = False
                return []
            self._writing = True
            if not self._lines:
                self._tell_dropped()
            taken, size = [self._lines.popleft()], 0
            while self._lines and (size := size + len(taken[-1][0])) < BATCH:
                taken.append(self._lines.popleft())
            self._size -= sum(len(line) for line, _ in taken)
            return taken

    def _write(self, text: str) -> bool:
        """Write to the descriptor: a thread that waits in the stream holds its lock, which the end of Python needs."""
        data = memoryview(text.encode(self.stream.encoding or "utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(self.stream.fileno(), data) :]
            except BlockingIOError:  # another program has made the descriptor non-blocking
                select.select([], [self.stream.fileno()], [])
            except (OSError, ValueError):  # the reader is gone, the disk is full, or the stream was closed
                return False
        return True


def _has_descriptor(stream: TextIO) -> bool:
    try:
        return stream.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False


_writers: WeakSet[LineWriter] = WeakSet()


def _forked() -> None:
    """A forked process has no threads, and its parent writes the lines that wait."""
    for writer in _writers:
        writer._begin()  # noqa: SLF001  # it is ours


if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_forked)
