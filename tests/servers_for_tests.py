"""A web server on loopback that serves files properly, or as badly as a test wants."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from waits_for_tests import GUARD


class Site:
    """Files by path, and the faults of the next answers: each request uses up one of `faults`.

    A fault takes the handler and the regular answer, and gives another answer or ends the connection.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.etags: dict[str, str] = {}
        self.modified: str | None = None
        self.ranges = True
        self.headers: dict[str, str] = {}
        self.faults: list[Callable[[Handler, Answer], None]] = []
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range of every request."""
        self.seen: list[dict[str, str]] = []
        """The headers of every request."""
        self.reached = threading.Event()
        """Set by `hang`."""
        self.release = threading.Event()
        """Releases answers that hang."""
        self.lock = threading.Lock()
        self.url = ""

    def etag(self, path: str) -> str | None:
        return self.etags.get(path, f'"{hash(self.files[path])}"')


class Answer:
    """The status, headers and body to send."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site = self.site
        path = self.path.partition("?")[0]
        with site.lock:
            site.requests.append((self.path, self.headers.get("Range")))
            site.seen.append(dict(self.headers.items()))
            fault = site.faults.pop(0) if site.faults else None
        answer = self.answer(path)
        if fault is not None:
            fault(self, answer)
        self.give(answer)

    def answer(self, path: str) -> Answer:
        site = self.site
        if path not in site.files:
            return Answer(404, {"Content-Length": "0"}, b"")
        body, etag = site.files[path], site.etag(path)
        headers = dict(site.headers)
        if etag:
            headers["ETag"] = etag
        if site.modified:
            headers["Last-Modified"] = site.modified
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        current = self.headers.get("If-Range") in (None, etag, site.modified)
        if not (site.ranges and asked and current):
            return Answer(200, {"Content-Length": str(len(body)), **headers}, body)
        start = int(asked[1])
        if start >= len(body):
            return Answer(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}, b"")
        part = body[start : int(asked[2]) + 1 if asked[2] else None]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
        return Answer(206, {"Content-Length": str(len(part)), **headers}, part)

    def give(self, answer: Answer, *, stop_at: int | None = None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(answer.body if stop_at is None else answer.body[:stop_at])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Ended(Exception):
    """Ends a connection."""


def drop(after: int) -> Callable[[Handler, Answer], None]:
    """Close the connection after this many bytes of the body."""

    def fault(handler: Handler, answer: Answer) -> None:
        handler.give(answer, stop_at=after)
        raise Ended

    return fault


def hang(after: int) -> Callable[[Handler, Answer], None]:
    """Send this many bytes of the body, and then nothing until `release` is set."""

    def fault(handler: Handler, answer: Answer) -> None:
        handler.give(answer, stop_at=after)
        handler.wfile.flush()
        handler.site.reached.set()
        assert handler.site.release.wait(GUARD)
        raise Ended

    return fault


def instead(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Callable[[Handler, Answer], None]:
    """Give another answer instead."""

    def fault(_: Handler, answer: Answer) -> None:
        answer.status, answer.body = status, body
        answer.headers = {"Content-Length": str(len(body)), **(headers or {})}

    return fault


def with_headers(**headers: str) -> Callable[[Handler, Answer], None]:
    """Answer with other headers, such as `Content_Length="5"`; an empty one is left out."""

    def fault(_: Handler, answer: Answer) -> None:
        answer.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer.headers = {name: value for name, value in answer.headers.items() if value}

    return fault


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Faults end their connections."""


@contextlib.contextmanager
def served(files: dict[str, bytes], handler: type[Handler] = Handler, host: str = "127.0.0.1") -> Iterator[Site]:
    """Serve files on a free port of this machine."""
    site = Site(files)
    server = Server((host, 0), type("SiteHandler", (handler,), {"site": site}))
    site.url = f"http://{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.release.set()
        server.shutdown()
        server.server_close()
        thread.join(GUARD)
