"""A model that loads and writes when a test tells it to; and requests to an app without a network."""

import json
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from attrs import define, field
from quart import Quart

from lllms_core.config import parse_config
from lllms_core.engines import Engine, Progress
from lllms_core.engines.serial import Pause, Piece, SerialModel
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.queries import Embeddings
from lllms_core.types import Request


@define
class Gate:
    """Lets a model load, and its answers continue, when a test says so."""

    load: threading.Event = field(factory=threading.Event)
    loaded: float = 0.0
    """How much of the load is done until then."""
    pieces: "queue.SimpleQueue[str | Exception | None]" = field(factory=queue.SimpleQueue)
    """A piece of the running answer, an error of the engine, or None for the end of the answer."""
    answering: int = 0
    """The answers that the model is writing."""


class GateModel(SerialModel):
    embed_at_once = 1

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def chat(self, request: Request) -> Iterator[Piece]:
        self._gate.answering += 1
        try:
            yield from self._pieces()
        finally:
            self._gate.answering -= 1

    def _pieces(self) -> Iterator[Piece]:
        while True:
            try:
                piece = self._gate.pieces.get_nowait()
            except queue.Empty:
                yield Pause(0.001)
                continue
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Take a moment for each text."""
        self.interrupt.wait(0.01)
        return Embeddings([[1.0]] * len(texts), len(texts))


class GateEngine(Engine):
    name = "gate"
    isolation = "thread"
    needs_file = False

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def load(self, spec: object, progress: Progress) -> GateModel:
        while not self._gate.load.wait(0.01):
            progress(self._gate.loaded)
        return GateModel(self._gate)


class GatePlugin:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    @hookimpl
    def lllms_engines(self) -> list[Engine]:
        return [GateEngine(self._gate)]


@asynccontextmanager
async def gated(
    gate: Gate, extra: Mapping[str, object] = MappingProxyType({}), sessions: Mapping[str, object] | None = None,
    models: Mapping[str, object] = MappingProxyType({"gate": {"engine": "gate"}}), disable: Sequence[str] = (),
    **server: object,
) -> AsyncIterator[Host]:
    """Run a host whose only model obeys a gate; `extra` are more plugins, `models` other models."""
    plugins = Plugins.discover(
        environ={"LLLMS_PLUGINS": ""}, disable=disable, extra={"gate": GatePlugin(gate), **extra},
    )
    host = Host(parse_config({"server": server, "models": models, "sessions": sessions or {}}), plugins)
    await host.start()
    try:
        yield host
    finally:
        gate.load.set()
        await host.close(0)


@asynccontextmanager
async def posting(app: Quart, path: str, body: object) -> AsyncIterator[Any]:
    """Post JSON, and yield the connection while the answer runs."""
    client = app.test_client()
    async with client.request(path, method="POST", headers={"Content-Type": "application/json"}) as connection:
        await connection.send(json.dumps(body).encode())
        await connection.send_complete()
        yield connection
