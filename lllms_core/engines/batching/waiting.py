"""The runs without a sequence, first come, first served."""

from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, wait

from lllms_core.engines.batching.run import Phase, Run
from lllms_core.engines.session_link import Session
from lllms_core.errors import EngineFailed, RequestError

LONGEST_WAIT = 0.01
"""Seconds that a step waits for matchers when there is nothing else to do, before it looks for new requests."""


class WaitingQueue:
    """A queue of runs. Runs that wait for a matcher or a session lookup let others pass."""

    def __init__(self) -> None:
        self.blocked = False
        """Whether the first ready run has no room, and no other run has left since."""
        self._runs: deque[Run] = deque()

    @property
    def asleep(self) -> bool:
        """Whether no step can advance any of them, because all wait for their session lookups."""
        return all(run.phase is Phase.LOOKUP for run in self._runs)

    def add(self, runs: Iterable[Run]) -> None:
        """Append runs."""
        self._runs.extend(runs)

    def remove(self, run: Run) -> None:
        """Remove a run that is admitted."""
        self._runs.remove(run)

    def ready(self) -> list[Run]:
        """Return the runs whose matchers are made, in their order; session lookups may still follow."""
        return [run for run in self._runs if not run.lacks_matcher()]

    def refused(self) -> list[tuple[Run, RequestError | EngineFailed]]:
        """Return the runs with an impossible constraint, with the reason; they stay in the queue."""
        failed = []
        for run in self._runs:
            error = run.refusal
            if isinstance(error, RequestError | EngineFailed):
                failed.append((run, error))
        return failed

    def found(self, request_id: str, session: Session | None) -> None:
        """Deliver the result of a session lookup."""
        for run in self._runs:
            if run.request.id == request_id:
                run.session = session
                if run.phase is Phase.LOOKUP:
                    run.phase = Phase.ROOM

    def drop(self, request_id: str) -> list[Run]:
        """Remove a request's runs, and cancel the matchers that are being made for it."""
        dropped = [run for run in self._runs if run.request.id == request_id]
        for run in dropped:
            self._runs.remove(run)
            self.blocked = False
            for one in (run, *run.choices.held):
                one.drop()
        return dropped

    def pause(self, running: Iterable[Run]) -> None:
        """Wait a moment for the matchers that are being made, if there are any, for `running` ones as well."""
        made = [one for run in (*self._runs, *running) if (one := run.making) is not None]
        if made:
            wait(made, LONGEST_WAIT, FIRST_COMPLETED)

    def clear(self) -> None:
        """Remove all runs."""
        self._runs.clear()
