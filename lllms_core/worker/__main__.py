"""The worker process. Standard input and output are the wire; whatever prints goes to standard error, the log."""

import ctypes
import faulthandler
import os
import signal
import sys
from multiprocessing import spawn
from threading import Thread

from lllms_core.worker.loop import Inbox, WorkerLoop
from lllms_core.worker.wire import FrameReader, FromWorker, Load, encode

READ_SIZE = 1 << 16
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Talk to the parent until it closes the wire, or is gone."""
    incoming, outgoing = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    faulthandler.enable()  # a native crash leaves its Python stack in the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    frames = FrameReader()
    messages = iter(lambda: os.read(incoming, READ_SIZE), b"")
    arrived = (message for data in messages for message in frames.feed(data))
    preparation = next(arrived)
    assert isinstance(preparation, dict)  # noqa: S101  # the parent's first message
    die_with(preparation.pop("parent"))
    spawn.prepare(preparation)
    load = next(arrived)
    assert isinstance(load, Load)  # noqa: S101  # and its second

    inbox = Inbox()

    def receive() -> None:
        for message in arrived:
            inbox.put(message)  # type: ignore[arg-type]  # the parent sends only ToWorker
        os._exit(0)  # the parent has closed the wire or is gone: nobody wants what is being computed

    def send(message: FromWorker) -> None:
        frame = memoryview(encode(message))
        while frame:
            frame = frame[os.write(outgoing, frame) :]

    Thread(target=receive, name="wire", daemon=True).start()
    WorkerLoop(inbox, send).run(load)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # native libraries are freed by the process's end; their exit handlers have been seen to hang


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, also while native code holds the interpreter."""
    if sys.platform != "linux":
        return  # the closed wire ends the worker there, as soon as Python runs
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it died before the line above


if __name__ == "__main__":
    main()
