"""Reads the configuration again while the server runs, and takes what has changed: all of it, or nothing."""

import asyncio
import logging
from collections.abc import Callable

from attrs import evolve, frozen

from lllms_core.config import Config
from lllms_core.errors import ConfigError, LllmsError, ShuttingDown
from lllms_core.status import Changes
from lllms_core.tracebacks import described

LOG = logging.getLogger("lllms.reload")

Read = Callable[[], Config]
"""Reads the configuration again, from where it was read at the start. Raises `LllmsError`."""


@frozen
class Step:
    """A part of a reload that cannot fail any more."""

    take: Callable[[], object] = lambda: None
    """Puts the new configuration into effect; called in the event loop, together with all others."""
    settings: tuple[str, ...] = ()
    """The settings whose files have changed, although the configuration names the same files."""


Prepare = Callable[[Config], Step]
"""Checks the part of a new configuration that it is responsible for, in a thread. Raises `LllmsError`."""


class Reloads:
    """Reloads one at a time. A configuration with a fault changes nothing."""

    def __init__(self, read: Read | None, prepare: Callable[[Config], tuple[Changes, Callable[[], object]]]) -> None:
        """`prepare` checks a configuration, in a thread; it returns the changes, and what makes them."""
        self.problem: str | None = None
        """Why the configuration could not be taken the last time; None if it was."""
        self._read = read
        self._prepare = prepare
        self._others: list[Prepare] = []
        self._lock = asyncio.Lock()
        self._begun = asyncio.Event()
        self._closing = False

    @property
    def possible(self) -> bool:
        """Whether it is known where the configuration comes from."""
        return self._read is not None

    def join(self, prepare: Prepare) -> None:
        """Let another part of the server take each new configuration."""
        self._others.append(prepare)

    def begin(self) -> None:
        """The server has begun to start; reloads wait for this."""
        self._begun.set()

    def close(self) -> None:
        """The server ends: reloads are refused."""
        self._closing = True
        self._begun.set()

    async def reload(self) -> Changes:
        """Read the configuration again, and take what has changed. Raises `LllmsError` if that is impossible.

        After an error the server keeps the configuration that it has.
        """
        async with self._lock:
            await self._begun.wait()
            try:
                changed, steps = await asyncio.to_thread(self._look)
                self._check_open()
            except ShuttingDown:
                raise
            except LllmsError as error:
                self._refuse(error.message)
                raise
            except Exception as error:
                self._refuse(f"it could not be examined: {described(error)}")
                raise ConfigError(f"the configuration could not be examined: {described(error)}") from error
            for step in steps:
                try:
                    step()
                except Exception:  # what was checked cannot fail; if it does, the others are still taken
                    LOG.exception("a part of the new configuration could not be put into effect")
            self.problem = None
            LOG.info("the configuration is loaded; %s", "; ".join(changed.lines) or "nothing has changed")
            return changed

    def _look(self) -> tuple[Changes, list[Callable[[], object]]]:
        self._check_open()
        if self._read is None:
            raise ConfigError(
                "this server has its configuration from a program, not from a file or variables: there is nothing to"
                " load again",
            )
        config = self._read()
        changed, take = self._prepare(config)
        steps = [prepare(config) for prepare in self._others]
        files = dict.fromkeys(name for step in steps for name in step.settings if name not in changed.settings)
        return evolve(changed, settings=(*changed.settings, *files)), [take, *(step.take for step in steps)]

    def _check_open(self) -> None:
        if self._closing:
            raise ShuttingDown("the server is shutting down")

    def _refuse(self, reason: str) -> None:
        self.problem = f"the configuration was not loaded, and the former one stays in force: {reason}"
        LOG.error("%s", self.problem)
