"""The client for programs without an event loop."""

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from lllms_core.client import asks
from lllms_core.client.asks import Ask
from lllms_core.client.chat_flow import ChatFlow
from lllms_core.client.chat_values import (
    ChatEvent,
    ChatHistory,
    ChatResult,
    LoadedModel,
    LoadStep,
    ServedDownload,
    ServedModel,
    StoredSession,
    Unloaded,
)
from lllms_core.client.event_lines import EventLines
from lllms_core.client.server_error import ServerError, refused, told_error, unreachable
from lllms_core.client.server_place import find_place

T = TypeVar("T")


class Client:
    """Talks to the server at `url`, with or without `/v1` at its end, or at `unix:PATH`.

    Several threads may share it. Every method raises `ServerError`. Close it (`with`) to close its connections.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:3000", api_key: str | None = None, timeout: float = 600.0,
        certificate: Path | None = None,
    ) -> None:
        """Prepare; nothing is sent yet. `timeout` are seconds of silence.

        Of an HTTPS server with this `certificate` no other proof is needed. Raises `ServerError` for an invalid address
        or certificate.
        """
        import httpx

        self.url = url
        place = find_place(url, certificate)
        try:
            self._http = httpx.Client(transport=place.transport(), **place.options(api_key, timeout))
        except httpx.InvalidURL as error:
            raise ServerError(f"{url} is not a server address: {error}") from error

    # -- answers ------------------------------------------------------------------------------------------------------

    def chat(
        self,
        model: str,
        message: str | Mapping[str, object] | None = None,
        *,
        messages: Sequence[Mapping[str, object]] | None = None,
        system: str | None = None,
        conversation: str | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
        thoughts: bool | None = None,
        **parameters: object,
    ) -> "ChatStream":
        """Ask a model, with a `message` or several `messages`; nothing is sent before the answer is read.

            client.chat("tiny-chat", "Hi!").text

        With a `conversation` the server keeps it, and only new messages are sent; "new" makes one. `tools` are
        `{name, description, parameters}`; their results are sent as `{"role": "tool", "call": id, "content": text}`.
        `thoughts=False` leaves the model's thoughts out. `parameters` are those of OpenAI's API: `temperature`,
        `max_tokens`, `stop`, `reasoning_effort`, `format` (a JSON schema) and so on.
        """
        more = {"system": system, "conversation": conversation, "tools": tools, "thoughts": thoughts, **parameters}
        return ChatStream(self, ChatFlow(asks.chat_body(model, message, messages, more)))

    # -- models -------------------------------------------------------------------------------------------------------

    def models(self) -> list[ServedModel]:
        """Return the models that can be requested."""
        return self.send(asks.MODELS)

    def load(
        self, model: str, *, ttl: float | str | None = None, on_progress: Callable[[LoadStep], object] | None = None,
    ) -> LoadedModel:
        """Load a model, and return when it is loaded; it may stay idle for `ttl` (seconds, or like "5m").

            client.load("phi3", on_progress=lambda step: print(step.text))
        """
        with self._stream(asks.load_ask(model, ttl)) as parts:
            lines = EventLines()
            for part in parts:
                for event in lines.read(part):
                    step = asks.read_load(event.data)
                    if isinstance(step, LoadedModel):
                        return step
                    if on_progress is not None:
                        on_progress(step)
        raise ServerError(f"the server ended its answer before {model} was loaded")

    def unload(self, model: str) -> Unloaded:
        """Unload a model; its busy instances end once they are idle."""
        return self.send(asks.unload_ask(model))

    def downloads(self) -> list[ServedDownload]:
        """Return the running downloads, then those that failed last time."""
        return self.send(asks.DOWNLOADS)

    def cancel_download(self, download_id: str) -> None:
        """Cancel a download; the bytes received are kept."""
        self.send(asks.cancel_download_ask(download_id))

    # -- what the server keeps ----------------------------------------------------------------------------------------

    def sessions(self, model: str | None = None) -> list[StoredSession]:
        """Return the sessions, or those of a model, the most recently used first."""
        return self.send(asks.sessions_ask(model))

    def session(self, session_id: str, *, text: bool = False) -> StoredSession:
        """Return one session; its text may be read by programs on the server's machine, and loads its model."""
        return self.send(asks.session_ask(session_id, text=text))

    def forget_session(self, session_id: str) -> list[str]:
        """Forget a session; return the ids of all that went with it."""
        return self.send(asks.forget_ask(session_id, None))

    def forget_sessions(self, model: str | None = None) -> list[str]:
        """Forget all sessions, or those of a model; return their ids."""
        return self.send(asks.forget_ask(None, model))

    def conversations(self) -> list[ChatHistory]:
        """Return the kept conversations without their messages; only on the server's own machine."""
        return self.send(asks.CONVERSATIONS)

    def conversation(self, conversation: str) -> ChatHistory:
        """Return a kept conversation."""
        return self.send(asks.conversation_ask(conversation))

    def delete_conversation(self, conversation: str) -> None:
        """Delete a kept conversation."""
        self.send(asks.delete_conversation_ask(conversation))

    def status(self) -> Mapping[str, Any]:
        """Return the state of the server, as `lllms ps --json` prints it."""
        return self.send(asks.STATUS)

    # -- any route ----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> object:
        """Fetch the JSON at a path."""
        return self.send(Ask("GET", path, asks.same))

    def delete(self, path: str) -> object:
        """Delete the resource at a path, and return the JSON of the answer."""
        return self.send(Ask("DELETE", path, asks.same))

    def post(self, path: str, body: Mapping[str, object]) -> object:
        """Send JSON, and return that of the answer."""
        return self.send(Ask("POST", path, asks.same, body))

    def stream(self, path: str, body: Mapping[str, object]) -> Generator[Mapping[str, Any], None, None]:
        """Yield the JSON of a streamed answer's events; closing the iterator cancels it."""
        with self._stream(Ask("POST", path, asks.same, {**body, "stream": True})) as parts:
            lines = EventLines()
            for part in parts:
                for event in lines.read(part):
                    if event.data == "[DONE]":
                        return
                    value = json.loads(event.data)
                    if value.get("error"):
                        raise told_error(value)
                    yield value

    def send(self, ask: Ask[T]) -> T:
        """Send a request of `lllms_core.client.asks`, and return what its answer says."""
        with self._stream(ask) as parts:
            return ask.take(b"".join(parts))

    @contextmanager
    def _stream(self, ask: Ask[Any]) -> Generator[Iterator[bytes], None, None]:
        import httpx

        headers = {"Accept": "application/json, text/event-stream", **ask.headers}
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            with self._http.stream(ask.method, ask.path, content=ask.content, headers=headers) as response:
                if response.status_code != 200:
                    raise refused(response.status_code, response.read().decode(errors="replace"), self.url)
                yield response.iter_raw()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error, nothing=isinstance(error, httpx.ConnectError)) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()


class ChatStream:
    """One answer: iterate it for its events as they come, or take its whole `text`.

    If the connection breaks, it is resumed where it broke. Close it (`with`) to stop the answer before its end.
    """

    def __init__(self, client: Client, flow: ChatFlow) -> None:
        self._client = client
        self._flow = flow
        self._events = self._read()

    def __iter__(self) -> Iterator[ChatEvent]:
        return self

    def __next__(self) -> ChatEvent:
        return next(self._events)

    @property
    def result(self) -> ChatResult:
        """The answer as far as it was read."""
        return self._flow.result

    @property
    def text(self) -> str:
        """The text of the whole answer, which this waits for. Raises `ServerError` if it fails."""
        return self.whole().text

    def whole(self) -> ChatResult:
        """Wait for the end, and return the whole answer. Raises `ServerError` if it fails."""
        for _ in self:
            pass
        return self.result

    def close(self) -> None:
        """Stop the answer, unless it has ended; a conversation keeps what was said. Safe to call again."""
        self._events.close()
        stop = self._flow.stop
        self._flow.ended = True
        if stop is not None:
            with suppress(ServerError):  # out of reach, or gone: the server stops an answer without readers by itself
                self._client.send(stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self) -> Generator[ChatEvent, None, None]:
        flow = self._flow
        while not flow.ended:
            try:
                with self._client._stream(flow.ask) as parts:  # noqa: SLF001  # one module
                    for part in parts:
                        yield from flow.read(part)
                flow.check_ended()
            except ServerError as error:
                time.sleep(flow.pause_after(error))
