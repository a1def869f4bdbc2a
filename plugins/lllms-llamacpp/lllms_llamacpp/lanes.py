"""Threads that compile grammars beside the steps: small ones never wait for large ones."""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from lllms_llamacpp.trial import Trial

logger = logging.getLogger("lllms.llamacpp")

QUICK_SECONDS, QUICK_PATIENCE = 0.3, 5.0
"""The limits of a grammar's first try, as processor time and by the clock; nearly all take some 10 ms."""
SECONDS, PATIENCE = 3.0, 20.0
"""The limits of its second try."""
STACK = 16 << 20
"""Bytes of stack of the thread, more than its trial has: a grammar that passed there surely fits."""

Job = Callable[[], None]


class Lane:
    """A thread that runs jobs in order, and the process that tries grammars for it."""

    def __init__(self, name: str, trial: Trial) -> None:
        """Start the thread."""
        self.trial = trial
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        before = threading.stack_size(STACK)
        try:
            self._thread.start()
        finally:
            threading.stack_size(before)

    def put(self, job: Job) -> None:
        """Run this job after those before it; from any thread."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the process, and the thread after its current job; the other jobs fail at their trial."""
        self.trial.close()
        self._jobs.put(None)

    def join(self) -> None:
        """Wait until both have ended."""
        self._thread.join()
        self.trial.reap()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                logger.exception("a grammar could not be compiled")
