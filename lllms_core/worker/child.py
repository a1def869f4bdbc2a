"""The worker process. Standard input and output are the wire; whatever prints goes to standard error, the log."""

import ctypes
import faulthandler
import gc
import io
import os
import signal
import socket
import sys
from collections.abc import Iterator
from multiprocessing import process, spawn
from threading import Thread
from typing import cast

from lllms_core.worker.channel import Channel, Heavy
from lllms_core.worker.loop import Inbox, WorkerLoop, load_failed
from lllms_core.worker.wire import FoundSession, FrameReader, FromWorker, Load, PutSession, Surveyed, encode

READ_SIZE = 1 << 16
PR_SET_PDEATHSIG = 1
SWITCH_SECONDS = 0.001
"""A thread that prepares a large request lets the steps go on after so long, each time that they ask; Python's own
default is 5 ms, and a step asks several times."""
FULL_COLLECTIONS = 1000
"""A search for garbage among all objects stops every thread, for half a second while a request has a million of them;
it comes a hundred times as seldom as by default. What a worker throws away is hardly ever more than its youngest."""
WAITING_SIZE = 1 << 29
"""Bytes of sessions that wait at most to be sent; what comes beyond is lost."""
FLUSH_SECONDS = 2.0
"""Sessions of a model that is closed get so long to reach the parent."""


def main() -> None:
    """Talk to the parent until it closes the wire, or is gone."""
    incoming, outgoing = os.dup(0), os.dup(1)
    channel: Channel | None = None
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The log shows what an engine prints when it prints it, also if it crashes next.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTIONS)
    faulthandler.enable()  # a native crash leaves its Python stack in the log
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, leave_to_parent)

    def send(message: FromWorker) -> None:
        if isinstance(message, PutSession):
            if channel is not None and channel.waiting + len(message.state) <= WAITING_SIZE:
                channel.send(message)
            return
        if isinstance(message, Surveyed) and channel is not None:
            channel.send(message)
            return
        frame = memoryview(encode(message))
        while frame:
            try:
                frame = frame[os.write(outgoing, frame) :]
            except OSError:
                os._exit(0)  # the parent is gone

    arrived = receive(incoming)
    parent, number = cast("tuple[int, int | None]", next(arrived))
    die_with(parent)
    inbox = Inbox()
    if number is not None:

        def put_heavy(message: Heavy) -> None:
            assert isinstance(message, FoundSession)  # noqa: S101  # the parent sends no other
            inbox.put(message)

        os.set_inheritable(number, False)  # noqa: FBT003  # programs that the engine starts must not hold it open
        channel = Channel(socket.socket(fileno=number), put_heavy, lambda: None)

    def fill_inbox() -> None:
        for message in arrived:
            inbox.put(message)  # type: ignore[arg-type]  # the parent sends only ToWorker

    try:
        prepare(next(arrived))
        load = next(arrived)
        assert isinstance(load, Load)  # noqa: S101  # the parent's third message
    except BaseException as error:  # noqa: BLE001  # modules of the engine, and the main script, raise whatever they like
        send(load_failed(error))
    else:
        Thread(target=fill_inbox, name="wire", daemon=True).start()
        WorkerLoop(inbox, send).run(load)
        if channel is not None:
            channel.flush(FLUSH_SECONDS)
    os._exit(0)  # native libraries are freed by the process's end; their exit handlers have been seen to hang


def receive(incoming: int) -> Iterator[object]:
    """Yield what the parent sends, and end the process when nothing more will come."""
    frames = FrameReader()
    while data := os.read(incoming, READ_SIZE):
        yield from frames.feed(data)
    os._exit(0)  # the parent has closed the wire or is gone: nobody wants what is being computed


def prepare(preparation: object) -> None:
    """Import the main script again if the engine is defined in it."""
    assert isinstance(preparation, dict)  # noqa: S101  # the parent's second message
    # As multiprocessing does: a script that starts workers whenever it is imported would start them without end.
    this = process.current_process()
    this._inheriting = True  # type: ignore[attr-defined]  # noqa: SLF001  # the mark that multiprocessing looks for
    spawn.prepare(preparation)
    del this._inheriting  # type: ignore[attr-defined]  # noqa: SLF001  # as above


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, also while native code holds the interpreter."""
    if sys.platform != "linux":
        return  # the closed wire ends the worker there, as soon as Python runs
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it died before the line above


def leave_to_parent(*_: object) -> None:
    """Do nothing: Ctrl-C, or the SIGTERM of a service manager, is for the server, which then closes its workers.

    A handler rather than SIG_IGN, which the programs that an engine starts would inherit.
    """
