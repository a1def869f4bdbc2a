"""A proxy that cuts connections in the middle of an answer, as networks do."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from attrs import define, field


@define
class Cutter:
    """Passes bytes on to a server, and resets each connection after some bytes of its answer."""

    url: str
    most: list[int]
    """The bytes of the answers that pass on the next connections; then connections are left alone."""
    connections: int = 0
    cut: int = 0
    """The connections that were reset."""
    lock: threading.Lock = field(factory=threading.Lock)

    def serve(self, listener: socket.socket) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with self.lock:
                    self.connections += 1
                    most = self.most.pop(0) if self.most else None
                threading.Thread(target=self._pass, args=(client, most), daemon=True).start()

    def _pass(self, client: socket.socket, most: int | None) -> None:
        parts = urlsplit(self.url)
        server = socket.create_connection((parts.hostname or "", parts.port or 0))
        threading.Thread(target=_pump, args=(client, server), daemon=True).start()
        left = most
        with suppress(OSError):
            while data := server.recv(4096):
                if left is not None and len(data) >= left:
                    client.sendall(data[:left])
                    self.cut += 1
                    linger = struct.pack("ii", 1, 0)  # a close that resets, as when a network is gone
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
                client.sendall(data)
                left = None if left is None else left - len(data)
        for one in (client, server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
            one.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(4096):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def cutting(url: str, most: list[int]) -> Iterator[tuple[str, Cutter]]:
    """Run a proxy before the server at `url`; yields its own URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        cutter = Cutter(url, most)
        thread = threading.Thread(target=cutter.serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", cutter
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
