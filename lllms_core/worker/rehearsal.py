"""Rehearses a load in a worker process, to find the reason why it would fail, and its warnings."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lllms_core.engines import Engine
from lllms_core.errors import ModelLoadFailed
from lllms_core.types import Finding, ModelSpec
from lllms_core.worker.process import ProcessWorker
from lllms_core.worker.wire import FromWorker, Load, LoadFailed, Rehearsed

LONGEST = 120.0
"""The limit in seconds; most rehearsals take one or two."""


async def rehearse(engine: Engine, spec: ModelSpec) -> list[Finding]:
    """Return what an engine's rehearsal finds about a model; nothing if the engine has no rehearsal."""
    if type(engine).rehearse is Engine.rehearse:
        return []
    listener = _Listener()
    with kept_warnings() as warnings:
        try:
            worker = await ProcessWorker.start(Load(engine, spec, rehearsal=True), listener)
            try:
                reason = await asyncio.wait_for(asyncio.shield(listener.over), LONGEST)
            except TimeoutError:
                worker.kill()
                await listener.over
                reason = f"its load could not be rehearsed within {LONGEST:g} s"
        except ModelLoadFailed as error:
            reason = error.message
    prefix = f"{spec.name}: "
    found = [Finding(text.removeprefix(prefix), fatal=False) for text in warnings]
    return found if reason is None else [Finding(reason)]


@contextmanager
def kept_warnings() -> Iterator[Sequence[str]]:
    """Keep the log of lllms to itself; yields its warnings."""
    warnings, logger = _Warnings(), logging.getLogger("lllms")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(warnings)
    try:
        yield warnings.texts
    finally:
        logger.removeHandler(warnings)
        logger.propagate = propagates


class _Listener:
    """Waits for a worker's end."""

    def __init__(self) -> None:
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        """Why the load would fail; None if it would not."""
        self._last: FromWorker | None = None

    def message(self, message: FromWorker) -> None:
        """Record the worker's result."""
        self._last = message

    def ended(self, reason: str) -> None:
        """Note the worker's end: the rehearsal is over, or it crashed."""
        match self._last:
            case Rehearsed():
                self.over.set_result(None)
            case LoadFailed(told):
                self.over.set_result(told)
            case _:
                self.over.set_result(reason)


class _Warnings(logging.Handler):
    """Keeps the warnings that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        if record.levelno == logging.WARNING:
            self.texts.append(record.getMessage())
