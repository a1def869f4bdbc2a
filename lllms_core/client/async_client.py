"""The client for programs with an event loop."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
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


class AsyncClient:
    """Talks to the server at `url`, with or without `/v1` at its end, or at `unix:PATH`.

    Several tasks may share it. Every method raises `ServerError`. Close it (`async with`) to close its connections.
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
            self._http = httpx.AsyncClient(transport=place.async_transport(), **place.options(api_key, timeout))
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
    ) -> "AsyncChatStream":
        """Ask a model, with a `message` or several `messages`; nothing is sent before the answer is read.

            await client.chat("tiny-chat", "Hi!").text()

        With a `conversation` the server keeps it, and only new messages are sent; "new" makes one. `tools` are
        `{name, description, parameters}`; their results are sent as `{"role": "tool", "call": id, "content": text}`.
        `thoughts=False` leaves the model's thoughts out. `parameters` are those of OpenAI's API: `temperature`,
        `max_tokens`, `stop`, `reasoning_effort`, `format` (a JSON schema) and so on.
        """
        more = {"system": system, "conversation": conversation, "tools": tools, "thoughts": thoughts, **parameters}
        return AsyncChatStream(self, ChatFlow(asks.chat_body(model, message, messages, more)))

    # -- models -------------------------------------------------------------------------------------------------------

    async def models(self) -> list[ServedModel]:
        """Return the models that can be requested."""
        return await self.send(asks.MODELS)

    async def load(
        self, model: str, *, ttl: float | str | None = None, on_progress: Callable[[LoadStep], object] | None = None,
    ) -> LoadedModel:
        """Load a model, and return when it is loaded; it may stay idle for `ttl` (seconds, or like "5m").

            await client.load("phi3", on_progress=lambda step: print(step.text))
        """
        async with self._stream(asks.load_ask(model, ttl)) as parts:
            lines = EventLines()
            async for part in parts:
                for event in lines.read(part):
                    step = asks.read_load(event.data)
                    if isinstance(step, LoadedModel):
                        return step
                    if on_progress is not None:
                        on_progress(step)
        raise ServerError(f"the server ended its answer before {model} was loaded")

    async def unload(self, model: str) -> Unloaded:
        """Unload a model; its busy instances end once they are idle."""
        return await self.send(asks.unload_ask(model))

    async def downloads(self) -> list[ServedDownload]:
        """Return the running downloads, then those that failed last time."""
        return await self.send(asks.DOWNLOADS)

    async def cancel_download(self, download_id: str) -> None:
        """Cancel a download; the bytes received are kept."""
        await self.send(asks.cancel_download_ask(download_id))

    # -- what the server keeps ----------------------------------------------------------------------------------------

    async def sessions(self, model: str | None = None) -> list[StoredSession]:
        """Return the sessions, or those of a model, the most recently used first."""
        return await self.send(asks.sessions_ask(model))

    async def session(self, session_id: str, *, text: bool = False) -> StoredSession:
        """Return one session; its text may be read by programs on the server's machine, and loads its model."""
        return await self.send(asks.session_ask(session_id, text=text))

    async def forget_session(self, session_id: str) -> list[str]:
        """Forget a session; return the ids of all that went with it."""
        return await self.send(asks.forget_ask(session_id, None))

    async def forget_sessions(self, model: str | None = None) -> list[str]:
        """Forget all sessions, or those of a model; return their ids."""
        return await self.send(asks.forget_ask(None, model))

    async def conversations(self) -> list[ChatHistory]:
        """Return the kept conversations without their messages; only on the server's own machine."""
        return await self.send(asks.CONVERSATIONS)

    async def conversation(self, conversation: str) -> ChatHistory:
        """Return a kept conversation."""
        return await self.send(asks.conversation_ask(conversation))

    async def delete_conversation(self, conversation: str) -> None:
        """Delete a kept conversation."""
        await self.send(asks.delete_conversation_ask(conversation))

    async def status(self) -> Mapping[str, Any]:
        """Return the state of the server, as `lllms ps --json` prints it."""
        return await self.send(asks.STATUS)

    # -- any route ----------------------------------------------------------------------------------------------------

    async def get(self, path: str) -> object:
        """Fetch the JSON at a path."""
        return await self.send(Ask("GET", path, asks.same))

    async def delete(self, path: str) -> object:
        """Delete the resource at a path, and return the JSON of the answer."""
        return await self.send(Ask("DELETE", path, asks.same))

    async def post(self, path: str, body: Mapping[str, object]) -> object:
        """Send JSON, and return that of the answer."""
        return await self.send(Ask("POST", path, asks.same, body))

    async def stream(self, path: str, body: Mapping[str, object]) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the JSON of a streamed answer's events; closing the iterator cancels it."""
        async with self._stream(Ask("POST", path, asks.same, {**body, "stream": True})) as parts:
            lines = EventLines()
            async for part in parts:
                for event in lines.read(part):
                    if event.data == "[DONE]":
                        return
                    value = json.loads(event.data)
                    if value.get("error"):
                        raise told_error(value)
                    yield value

    async def send(self, ask: Ask[T]) -> T:
        """Send a request of `lllms_core.client.asks`, and return what its answer says."""
        async with self._stream(ask) as parts:
            return ask.take(b"".join([part async for part in parts]))

    @asynccontextmanager
    async def _stream(self, ask: Ask[Any]) -> AsyncGenerator[AsyncIterator[bytes], None]:
        import httpx

        headers = {"Accept": "application/json, text/event-stream", **ask.headers}
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._http.stream(ask.method, ask.path, content=ask.content, headers=headers) as response:
                if response.status_code != 200:
                    raise refused(response.status_code, (await response.aread()).decode(errors="replace"), self.url)
                yield response.aiter_raw()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error, nothing=isinstance(error, httpx.ConnectError)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncChatStream:
    """One answer: iterate it for its events as they come, or wait for its whole `text()`.

    If the connection breaks, it is resumed where it broke. Close it (`async with`) to stop the answer before its end.
    """

    def __init__(self, client: AsyncClient, flow: ChatFlow) -> None:
        self._client = client
        self._flow = flow
        self._events = self._read()

    def __aiter__(self) -> AsyncIterator[ChatEvent]:
        return self

    async def __anext__(self) -> ChatEvent:
        return await anext(self._events)

    @property
    def result(self) -> ChatResult:
        """The answer as far as it was read."""
        return self._flow.result

    async def text(self) -> str:
        """Return the text of the whole answer, which this waits for. Raises `ServerError` if it fails."""
        return (await self.whole()).text

    async def whole(self) -> ChatResult:
        """Wait for the end, and return the whole answer. Raises `ServerError` if it fails."""
        async for _ in self:
            pass
        return self.result

    async def close(self) -> None:
        """Stop the answer, unless it has ended; a conversation keeps what was said. Safe to call again."""
        await self._events.aclose()
        stop = self._flow.stop
        self._flow.ended = True
        if stop is not None:
            with suppress(ServerError):  # out of reach, or gone: the server stops an answer without readers by itself
                await self._client.send(stop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _read(self) -> AsyncGenerator[ChatEvent, None]:
        flow = self._flow
        while not flow.ended:
            try:
                async with self._client._stream(flow.ask) as parts:  # noqa: SLF001  # one module
                    async for part in parts:
                        for event in flow.read(part):
                            yield event
                flow.check_ended()
            except ServerError as error:
                await asyncio.sleep(flow.pause_after(error))
