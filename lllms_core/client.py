"""A small client of an OpenAI server: for the command line, with the standard library's HTTP."""

import json
import socket
import ssl
from collections.abc import Generator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from lllms_core.errors import LllmsError

UNIX = "unix:"


HINTS = {401: " (on the command line: by --api-key, or in the variable LLLMS_API_KEY)"}


class ServerError(LllmsError):
    """The server cannot be reached, or answers with an error."""


class Client:
    """Talks to the server at `url`, with or without `/v1` at its end, or at a Unix socket (`unix:PATH`).

    Blocking; one request at a time.
    """

    def __init__(
        self, url: str, api_key: str | None = None, timeout: float = 600.0, certificate: Path | None = None,
    ) -> None:
        """Prepare; nothing is sent yet. Of an HTTPS server with this `certificate` no other proof is needed.

        Raises `ServerError` for an invalid address or certificate.
        """
        self.url = url
        self._timeout = timeout
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._socket = url.removeprefix(UNIX) if url.startswith(UNIX) else None
        if self._socket is not None:
            url = "http://localhost"
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            self._host, self._port = parts.hostname, parts.port
        except ValueError as error:
            raise ServerError(f"{url} is not a server address: {error}") from error
        if parts.scheme not in {"http", "https"} or not self._host:
            raise ServerError(f"{url} is not a server address like http://127.0.0.1:3000")
        self._secure = parts.scheme == "https"
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._tls = _trust(certificate) if self._secure else None

    def get(self, path: str) -> object:
        """Fetch a JSON document. Raises `ServerError`."""
        return self._fetch("GET", path)

    def delete(self, path: str) -> object:
        """Delete the resource at a path, and return the JSON document of the answer. Raises `ServerError`."""
        return self._fetch("DELETE", path)

    def post(self, path: str, body: Mapping[str, object]) -> object:
        """Send a JSON document, and return that of the answer. Raises `ServerError`."""
        return self._fetch("POST", path, body)

    def _fetch(self, method: str, path: str, body: Mapping[str, object] | None = None) -> object:
        connection, response = self._send(method, path, body)
        try:
            document: object = json.load(response)
        except (ValueError, OSError, HTTPException) as error:
            raise ServerError(f"{self.url}{path} does not answer JSON: {error}") from error
        finally:
            connection.close()
        return document

    def stream(self, path: str, body: Mapping[str, object]) -> Generator[Mapping[str, object], None, None]:
        """Yield the events of a streamed answer; closing the iterator cancels it. Raises `ServerError`."""
        connection, response = self._send("POST", path, {**body, "stream": True})
        try:
            for line in response:
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    event = json.loads(line[5:])
                    if event.get("error"):
                        raise ServerError(_message(event))
                    yield event
        except (ValueError, OSError, HTTPException) as error:
            raise ServerError(f"{self.url} ended its answer early: {error}") from error
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, body: Mapping[str, object] | None = None,
    ) -> tuple[HTTPConnection, HTTPResponse]:
        connection = self._connection()
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", **self._headers}
        try:
            connection.request(method, self._path + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            if response.status == 200:
                return connection, response
            text = response.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            connection.close()
            raise ServerError(f"no server answers at {self.url}: {error}") from error
        connection.close()
        raise ServerError(f"{self.url} answers {response.status}: {_readable(text)}{HINTS.get(response.status, '')}")

    def _connection(self) -> HTTPConnection:
        assert self._host is not None  # noqa: S101  # checked in __init__
        if self._socket is not None:
            return SocketConnection(self._socket, timeout=self._timeout)
        if self._tls is not None:
            return HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)
        return HTTPConnection(self._host, self._port, timeout=self._timeout)


class SocketConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._seconds = timeout

    def connect(self) -> None:
        """Connect; raises `OSError`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)


def _trust(certificate: Path | None) -> ssl.SSLContext:
    """Return the settings of HTTPS: the usual ones, or trust in this certificate only, under whichever name."""
    if certificate is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=str(certificate))
    except OSError as error:
        raise ServerError(f"{certificate} holds no certificate that can be read") from error
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its authority is not in the file
    return context


def event_text(event: Mapping[str, object]) -> str:
    """Return the text that an event of a streamed answer, chat or not, adds; empty if it adds none."""
    choices = event.get("choices")
    if not isinstance(choices, list) or not choices:
        return ""
    delta = choices[0].get("delta") or {}
    return str(choices[0].get("text") or delta.get("content") or "")


def _readable(text: str) -> str:
    try:
        return _message(json.loads(text))
    except ValueError:
        return text[:500]


def _message(document: object) -> str:
    error = document.get("error") if isinstance(document, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else None
    return str(message or error or document)
