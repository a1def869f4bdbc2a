"""A conversation in which the server itself runs the tools that the model calls; only in Python, never over HTTP."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from attrs import evolve, field, frozen

from lllms_core.answers import Answer, Stream, choices, total
from lllms_core.chat.history import tool_values
from lllms_core.errors import InvalidRequest
from lllms_core.types import Delta, Message, Tool, ToolCall, Usage

Handler = Callable[..., object]
"""Gets a call's arguments by name, and returns its result: text, or any JSON value; awaited if it is awaitable. If it
is not a coroutine function, it runs in a thread. Its errors are passed to the model."""

Submit = Callable[[Sequence[Message], Mapping[str, object]], Stream]
"""Requests the answer to these messages, with these parameters."""


@frozen
class ServerTool(Tool):
    """A tool that the host runs when a model calls it; without a handler, its calls are left to the caller."""

    handler: Handler | None = field(default=None, kw_only=True)
    timeout: float = field(default=60.0, kw_only=True)
    """Seconds that the model waits for a result; then it gets an error instead."""


class Conversation:
    """An answer with everything that led to it: the model calls tools, the host runs them, the model continues.

    Iterate it for the deltas of all answers as they come, and a `Message` for each result; or `gather` the last answer.
    It ends with an answer without calls, or with calls of tools without a handler: those are the caller's. After
    `max_rounds` answers with calls, the model has to answer without tools. Close it (`async with`) to stop early, or
    when you are done.
    """

    def __init__(
        self, submit: Submit, messages: Sequence[Message], tools: Sequence[Tool], parameters: Mapping[str, object],
        max_rounds: int,
    ) -> None:
        if max_rounds < 1:
            raise InvalidRequest(f"'max_rounds' is {max_rounds}; at least one is needed", "max_rounds")
        if "tools" in parameters or "functions" in parameters:
            raise InvalidRequest("the tools of a conversation are given as 'tools', not among its parameters", "tools")
        if parameters.get("n") not in {None, 1}:
            raise InvalidRequest("a conversation continues from one answer; leave 'n' out", "n")
        self.messages = list(messages)
        """The conversation so far: answers and results are added once they are complete."""
        self.answer: Answer | None = None
        """The last complete answer."""
        self.usage = Usage(0, 0)
        """The token counts of all answers together."""
        self._submit = submit
        self._tools = {tool.name: tool for tool in tools}
        self._parameters = dict(parameters)
        self._rounds = max_rounds
        self._stream: Stream | None = None

    async def __aiter__(self) -> AsyncIterator[Delta | Message]:
        """Yield deltas and results. Raises the error of a failed request."""
        while True:
            self._stream = stream = self._submit(self.messages, self._asked())
            deltas = []
            async for delta in stream:
                deltas.append(delta)
                yield delta
            if stream.finish is None:
                return  # closed
            message = self._take(Answer(stream.id, choices(stream.request, deltas, stream.finish), stream.finish))
            self._rounds -= 1
            handled = [call for call in message.tool_calls if self._handles(call)]
            for result in await asyncio.gather(*map(self._run, handled)):
                self.messages.append(result)
                yield result
            if not handled or len(handled) < len(message.tool_calls):
                return
            self._parameters.pop("tool_choice", None)  # the requested tool has been called

    async def gather(self) -> Answer:
        """Wait for the end, and return the last answer. Raises the error of a failed request."""
        async for _ in self:
            pass
        if self.answer is None:
            raise RuntimeError("the conversation was closed before the end of its answer")
        return self.answer

    async def aclose(self) -> None:
        """Cancel the running answer. Safe to call again."""
        if self._stream is not None:
            await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _asked(self) -> dict[str, object]:
        if not self._tools:
            return self._parameters
        values: list[dict[str, Any]] = [dict(value) for value in tool_values(list(self._tools.values())) or ()]
        tools = [
            {**value, "function": {**value["function"], "strict": tool.strict}}
            for value, tool in zip(values, self._tools.values(), strict=True)
        ]
        choice = {} if self._rounds else {"tool_choice": "none"}
        return {**self._parameters, "tools": tools, **choice}

    def _take(self, answer: Answer) -> Message:
        self.answer = answer
        self.messages.append(answer.message)
        self.usage = total([self.usage, answer.finish.usage])
        # A truncated call has no end, and its arguments are not JSON.
        return answer.message if answer.finish.reason == "tool_calls" else evolve(answer.message, tool_calls=())

    def _handles(self, call: ToolCall) -> bool:
        """Whether the host answers a call: it has a handler, or its tool is not offered."""
        tool = self._tools.get(call.name)
        return tool is None or (isinstance(tool, ServerTool) and tool.handler is not None)

    async def _run(self, call: ToolCall) -> Message:
        tool = self._tools.get(call.name)
        if tool is None:
            reason = f"there is no tool '{call.name}'; the tools are {', '.join(self._tools)}"
            return Message("tool", json.dumps({"error": reason}, ensure_ascii=False), call.name, tool_call_id=call.id)
        assert isinstance(tool, ServerTool)  # noqa: S101  # it has a handler
        try:
            async with asyncio.timeout(tool.timeout):
                content = _text(await _result(tool.handler, json.loads(call.arguments)))
        except Exception as error:  # noqa: BLE001  # a handler may raise anything, and the model can do something about it
            late = isinstance(error, TimeoutError)
            reason = f"no result within {tool.timeout:g} s" if late else f"{type(error).__name__}: {error}"
            content = json.dumps({"error": reason}, ensure_ascii=False)
        return Message("tool", content, call.name, tool_call_id=call.id)


async def _result(handler: Handler | None, arguments: Mapping[str, object]) -> object:
    assert handler is not None  # noqa: S101  # only those with one are run
    if inspect.iscoroutinefunction(handler):
        return await handler(**arguments)
    found = await asyncio.to_thread(handler, **arguments)
    return await found if inspect.isawaitable(found) else found


def _text(result: object) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
