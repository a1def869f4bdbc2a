"""The worker process. Standard input and output are the wire; anything printed goes to standard error, the log."""

import faulthandler
import gc
import io
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import process, spawn
from pathlib import Path
from threading import Lock, Thread
from typing import cast

from lllms_core.engines import Engine
from lllms_core.machine import die_with, yield_quickly
from lllms_core.tracebacks import short_traceback
from lllms_core.worker.channel import Channel, Heavy
from lllms_core.worker.ends import LINE_END, MARK
from lllms_core.worker.loop import Inbox, WorkerLoop, load_failed
from lllms_core.worker.niceness import background
from lllms_core.worker.wire import (
    Alive,
    FoundSession,
    FrameReader,
    FromWorker,
    Hello,
    Load,
    Probe,
    PutSession,
    Surveyed,
    Taken,
    Warm,
    Warmed,
    encode,
)

READ_SIZE = 1 << 16
FULL_COLLECTIONS = 1000
"""Python's garbage collector scans all objects a hundred times less often than by default: a scan stops every
thread, for half a second while a request has a million objects. A worker's garbage is nearly always young."""
OOM_SCORE, OOM_SCORE_MOST = 500, 1000
"""How much more readily than the server a worker is killed when memory runs out, and the kernel's maximum."""
FLUSH_SECONDS = 2.0
"""The time that a closed model's sessions have to reach the parent."""


def main(channel: int | None = None) -> None:
    """Serve the parent until it closes the wire or is gone.

    `channel` is the descriptor of the socket for sessions; None: the parent names it.
    """
    incoming, wire = os.dup(0), ParentLink(os.dup(1))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The log shows an engine's output at once, even if it crashes next.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    rather_me()
    yield_quickly()
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTIONS)
    faulthandler.enable()  # a native crash leaves its Python stack in the log
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, leave_to_parent)
    arrived = receive(incoming)
    hello = cast(Hello, next(arrived))
    if hello.parent is not None:
        die_with(hello.parent)
    log_to_parent(hello.level)
    channel = hello.channel if channel is None else channel
    if channel is not None:
        os.set_inheritable(channel, False)  # noqa: FBT003  # programs that the engine starts must not hold it open
    inbox = Inbox()
    try:
        prepare(next(arrived))
        load = warm(arrived, wire, quiet=hello.quiet)
    except BaseException as error:  # noqa: BLE001  # the engine's modules, and the main script, may raise anything
        wire.send(load_failed(error))
    else:
        if channel is not None and load.sessions is None:
            os.close(channel)
        elif channel is not None and load.sessions is not None:
            wire.most_waiting = load.sessions.waiting
            wire.channel = open_channel(channel, inbox)
        Thread(target=fill, args=[inbox, arrived, wire.send], name="wire", daemon=True).start()
        WorkerLoop(inbox, wire.send).run(load)
        if wire.channel is not None:
            wire.channel.flush(FLUSH_SECONDS)
    os._exit(0)  # the end of the process frees native libraries; their exit handlers have been seen to hang


class ParentLink:
    """Sends messages to the parent, from any thread: from the loop, and from the thread that answers probes."""

    def __init__(self, outgoing: int) -> None:
        self._outgoing = outgoing
        self._lock = Lock()
        self.channel: Channel | None = None
        """The channel for sessions."""
        self.most_waiting = 0
        """Bytes of sessions that may wait in the channel."""

    def send(self, message: FromWorker) -> None:
        """Write a message; ends the process if the parent is gone."""
        if isinstance(message, PutSession):
            waiting = 0 if self.channel is None else self.channel.waiting
            if self.channel is not None and (not waiting or waiting + len(message.state) <= self.most_waiting):
                self.channel.send(message)
            return
        if isinstance(message, Surveyed) and self.channel is not None:
            self.channel.send(message)
            return
        frame = memoryview(encode(message))
        with self._lock:
            while frame:
                try:
                    frame = frame[os.write(self._outgoing, frame) :]
                except OSError:
                    os._exit(0)


def fill(inbox: Inbox, arrived: Iterator[object], send: Callable[[FromWorker], None]) -> None:
    """Put what arrives into the inbox, and answer probes beside the loop."""
    for message in arrived:
        if not isinstance(message, Probe):
            inbox.put(message)  # type: ignore[arg-type]  # the parent sends only ToWorker
        elif inbox.moved():
            send(Alive())
        del message  # else a large request would stay until the next one comes


def open_channel(number: int, inbox: Inbox) -> Channel:
    """Exchange sessions with the parent over the socket of this number."""

    def put_heavy(message: Heavy) -> None:
        assert isinstance(message, FoundSession)  # noqa: S101  # the parent sends no other
        inbox.put(message)

    return Channel(socket.socket(fileno=number), put_heavy, lambda: None)


def receive(incoming: int) -> Iterator[object]:
    """Yield the parent's messages, and end the process when the wire closes."""
    frames = FrameReader()
    while data := read(incoming):
        yield from frames.feed(data)
    os._exit(0)  # the parent has closed the wire or is gone: the running requests are obsolete


def read(incoming: int) -> bytes:
    """Return what arrives next; nothing at the end of the wire, however it ends: a connection may fail, too."""
    try:
        return os.read(incoming, READ_SIZE)
    except OSError:
        return b""


def prepare(preparation: object) -> None:
    """Import the main script again if the engine is defined in it."""
    assert isinstance(preparation, dict)  # noqa: S101  # the parent's second message
    # As multiprocessing does: otherwise a script that starts workers at import would start them endlessly.
    this = process.current_process()
    this._inheriting = True  # type: ignore[attr-defined]  # noqa: SLF001  # the mark that multiprocessing looks for
    spawn.prepare(preparation)
    del this._inheriting  # type: ignore[attr-defined]  # noqa: SLF001  # as above


def warm(arrived: Iterator[object], wire: ParentLink, *, quiet: bool) -> Load:
    """Return the parent's third message, which says what to load; a spare first imports what a load will need."""
    loads: list[Load] = []

    def take() -> None:  # reading the message imports the engine's module
        match next(arrived):
            case Load() as load:
                loads.append(load)
            case Warm(engine):
                wire.send(Warmed(warming_failure(engine)))

    if quiet:
        background(take)
    else:
        take()
    if not loads:
        loads.append(cast(Load, next(arrived)))
        wire.send(Taken())
    return loads[0]


def warming_failure(engine: Engine) -> str:
    """Import what the engine's loads need; return why that fails, "" if it does not."""
    try:
        engine.warm()
    except BaseException as error:  # noqa: BLE001  # a library may raise anything
        return load_failed(error).reason
    return ""


def rather_me() -> None:
    """When memory runs out, let the kernel kill this process rather than the server, which serves all clients."""
    mine = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):  # other systems have no such file
        mine.write_text(str(min(int(mine.read_text(encoding="ascii")) + OOM_SCORE, OOM_SCORE_MOST)), encoding="ascii")


def log_to_parent(level: int) -> None:
    """Write the log of lllms and its engines to standard error, marked: unlike libraries, it quotes no request."""
    logging.getLogger("lllms").setLevel(level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Marked("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("lllms").addHandler(handler)


class Marked(logging.Formatter):
    """Marks each record, and writes it on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return MARK + super().format(record).replace("\n", LINE_END)

    def formatException(self, ei: object) -> str:  # noqa: N802  # the name is logging's
        """Return the exception as all logs of lllms show it."""
        error = ei[1] if isinstance(ei, tuple) else None
        return short_traceback(error) if isinstance(error, BaseException) else ""


def leave_to_parent(*_: object) -> None:
    """Do nothing: Ctrl-C, or a service manager's SIGTERM, is meant for the server, which then closes its workers.

    It is a handler because programs started by an engine would inherit SIG_IGN.
    """
