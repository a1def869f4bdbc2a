"""A second connection between parent and worker process, for large messages, which must not delay the tokens."""

import pickle
import queue
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader

from attrs import evolve

from lllms_core.engines.session_link import State
from lllms_core.worker.wire import FoundSession, PutSession, Surveyed

Heavy = FoundSession | PutSession | Surveyed
"""The messages sent here: their `state` may have many megabytes, or they must not overtake one that has."""

_LENGTHS = struct.Struct("!IQ")
_PIECE = 1 << 20


class Channel:
    """One end of it. Its own threads send and receive messages, in order."""

    def __init__(self, end: socket.socket, received: Callable[[Heavy], None], ended: Callable[[], None]) -> None:
        """Start: `received` and `ended` (nothing more will come) are called in the receiving thread."""
        self._socket = end
        self._received = received
        self._ended = ended
        self._messages: queue.SimpleQueue[Heavy | threading.Event | None] = queue.SimpleQueue()
        self.waiting = 0
        """Bytes still to be sent."""
        self._lock = threading.Lock()
        for work in (self._send_all, self._receive_all):
            threading.Thread(target=work, name="lllms sessions", daemon=True).start()

    def send(self, message: Heavy) -> None:
        """Queue a message; it is dropped if the other end is gone."""
        with self._lock:
            self.waiting += len(_state(message))
        self._messages.put(message)

    def flush(self, seconds: float) -> None:
        """Return when everything is sent, or after this many seconds."""
        sent = threading.Event()
        self._messages.put(sent)
        sent.wait(seconds)

    def close(self) -> None:
        """Stop sending and receiving."""
        with suppress(OSError):  # the other end closed first
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send_all(self) -> None:
        gone = False
        while True:
            message = self._messages.get()
            if message is None:
                return
            if isinstance(message, threading.Event):
                message.set()
                continue
            if not gone:
                try:
                    self._send(message)
                except OSError:
                    gone = True
            with self._lock:
                self.waiting -= len(_state(message))
            del message  # else this thread would hold it until the next one comes

    def _send(self, message: Heavy) -> None:
        state = memoryview(_state(message))
        head = pickle.dumps(_with_state(message, b""), pickle.HIGHEST_PROTOCOL)
        self._socket.sendall(_LENGTHS.pack(len(head), len(state)) + head)
        for start in range(0, len(state), _PIECE):
            self._socket.sendall(state[start : start + _PIECE])

    def _receive_all(self) -> None:
        with suppress(OSError), self._socket.makefile("rb") as stream:  # closed at this end
            while (message := _receive(stream)) is not None:
                self._received(message)
                del message  # as above
        self._messages.put(None)
        self._socket.close()
        self._ended()


def _receive(stream: BufferedReader) -> Heavy | None:
    """Return the next message; None at the end of the stream, even in the middle of a message."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_length, state_length = _LENGTHS.unpack(lengths)
    head, state = stream.read(head_length), stream.read(state_length)
    if len(state) < state_length:
        return None
    message: Heavy = pickle.loads(head)  # noqa: S301  # from our own parent or child
    return _with_state(message, state)


def _state(message: Heavy) -> State:
    return b"" if isinstance(message, Surveyed) else message.state


def _with_state(message: Heavy, state: bytes) -> Heavy:
    return message if isinstance(message, Surveyed) else evolve(message, state=state)
