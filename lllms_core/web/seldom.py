"""Log lines that clients could cause in any number, limited to one a minute."""

import logging
import time

from attrs import define

MINUTE = 60.0


@define
class Seldom:
    """Writes warnings of one kind; those that follow another too soon are only counted, and the next line says so."""

    log: logging.Logger
    every: float = MINUTE
    _next: float = 0.0
    _skipped: int = 0

    def warning(self, text: str, *values: object) -> None:
        """Write a warning, unless one was written within the last minute."""
        now = time.monotonic()
        if now < self._next:
            self._skipped += 1
            return
        self.log.warning(text, *values)
        if self._skipped:
            self.log.warning("%d more lines like this one were left out", self._skipped)
        self._next, self._skipped = now + self.every, 0
