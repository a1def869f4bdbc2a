"""A small client of an OpenAI server: for the command line, with the standard library's HTTP."""

import json
from collections.abc import Generator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from lllms_core.errors import LllmsError


class ServerError(LllmsError):
    """The server cannot be reached, or answers with an error."""


class Client:
    """Talks to the server at `url`, with or without `/v1` at its end. Blocking; one request at a time."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 600.0) -> None:
        """Prepare; nothing is sent yet. Raises `ServerError` for an invalid address."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            self._host, self._port = parts.hostname, parts.port
        except ValueError as error:
            raise ServerError(f"{url} is not a server address: {error}") from error
        if parts.scheme not in {"http", "https"} or not self._host:
            raise ServerError(f"{url} is not a server address like http://127.0.0.1:3000")
        self._secure = parts.scheme == "https"
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._url = url
        self._timeout = timeout
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

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
            raise ServerError(f"{self._url}{path} does not answer JSON: {error}") from error
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
            raise ServerError(f"{self._url} ended its answer early: {error}") from error
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, body: Mapping[str, object] | None = None,
    ) -> tuple[HTTPConnection, HTTPResponse]:
        assert self._host is not None  # noqa: S101  # checked in __init__
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", **self._headers}
        try:
            connection.request(method, self._path + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            if response.status == 200:
                return connection, response
            text = response.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            connection.close()
            raise ServerError(f"no server answers at {self._url}: {error}") from error
        connection.close()
        raise ServerError(f"{self._url} answers {response.status}: {_readable(text)}")


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
