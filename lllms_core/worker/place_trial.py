"""Tries a place: starts a worker's process there, lets it import an engine, and measures how soon it answers."""

import asyncio
import contextlib
import logging
from collections import deque
from socket import socket
from time import monotonic

from attrs import frozen

from lllms_core.engines import Engine, Model, NoOptions, Progress
from lllms_core.errors import ModelLoadFailed, PlacementFailed
from lllms_core.placements import Launch, Place, Placement
from lllms_core.types import ModelSpec
from lllms_core.worker.ends import NativeLog, ended
from lllms_core.worker.launch import sendable
from lllms_core.worker.wire import FrameReader, Hello, Load, LoadFailed, Rehearsed, Taken, Warm, Warmed, encode

READ_SIZE = 1 << 16
END_SECONDS = 5.0
"""How long a process may take to end after it was killed."""


@frozen
class Trial:
    """How a worker's process did at a place; times in seconds."""

    start: float
    """Until it had connected to this server, with the same versions."""
    engine: float
    """Until it had imported the engine's libraries."""
    answer: float
    """Between a message to it and its answer."""


class RoundTrip(Engine):
    """An engine without models: a rehearsal with it only goes to a worker and back."""

    name = "round-trip"
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> Model:  # noqa: ARG002  # it refuses
        """Refuse: there is nothing to load."""
        raise ModelLoadFailed(f"{spec.name}: this engine is only rehearsed")


async def try_place(placement: Placement, place: Place, engine: Engine) -> Trial:
    """Start a process at a place, and end it; cancel this to end it sooner. Raises `ModelLoadFailed`."""
    with sendable(engine):
        frame = encode(Warm(engine))
    native = NativeLog(place.name)
    began = monotonic()
    launched = await placement.launch(place.id, Launch(
        f"lllms-check {engine.name}", dict(engine.environment), 1, native.feed,
    ))
    try:
        connected = monotonic()
        [wire] = launched.sockets
        wire.setblocking(False)  # noqa: FBT003  # the standard library's signature
        loop, answers = asyncio.get_running_loop(), _Answers(wire)
        await loop.sock_sendall(wire, encode(Hello(None, None, logging.WARNING)) + encode({}) + frame)
        await answers.expect(Warmed)
        imported = monotonic()
        nothing = Load(RoundTrip(), ModelSpec("check", NoOptions()), rehearsal=True)
        await loop.sock_sendall(wire, encode(nothing))
        await answers.expect(Taken)
        answered = monotonic()
        await answers.expect(Rehearsed)
        return Trial(connected - began, imported - connected, answered - imported)
    except OSError as error:  # the process, or the way to it, is gone
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                told = await launched.ended()
                native.end()
                raise PlacementFailed(told.lost or ended(told.status, native.cause)) from error
        raise PlacementFailed("the connection to its worker has ended") from error
    finally:
        launched.kill()
        for one in launched.sockets:
            one.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await launched.ended()


class _Answers:
    """The messages of the process, in their order."""

    def __init__(self, wire: socket) -> None:
        self._wire = wire
        self._frames = FrameReader()
        self._arrived: deque[object] = deque()

    async def expect(self, kind: type) -> None:
        """Wait for the next message, which is to be of this kind."""
        while not self._arrived:
            data = await asyncio.get_running_loop().sock_recv(self._wire, READ_SIZE)
            if not data:
                raise ConnectionResetError
            self._arrived.extend(self._frames.feed(data))
        match self._arrived.popleft():
            case LoadFailed(reason) | Warmed(reason) if reason:
                raise PlacementFailed(reason)
            case message if not isinstance(message, kind):
                raise PlacementFailed(f"the worker sent {type(message).__name__} in place of {kind.__name__}")
