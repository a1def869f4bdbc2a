"""A response while it is written: its value at any time, and the events that tell how it came to be."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from secrets import token_hex
from typing import Literal

from attrs import define, field, frozen

from lllms_core.apis import Fault
from lllms_core.apis.writing import dumps
from lllms_core.builtin.openai.responses.output_items import Event, ResponseOutput
from lllms_core.types import ChatRequest, Delta, Finish, FinishReason, Sampling, Usage

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

STATUS: Mapping[FinishReason, ResponseStatus] = {
    "stop": "completed", "tool_calls": "completed", "length": "incomplete", "timeout": "incomplete",
    "cancelled": "cancelled",
}
"""An answer that ran out of time is cut, like one that ran out of tokens."""
ERROR_CODES: Mapping[str, str] = {"invalid_request_error": "invalid_prompt", "rate_limit_error": "rate_limit_exceeded"}
"""OpenAI's codes for the error of a failed response, by the type of a fault; others are a `server_error`."""


def new_response_id() -> str:
    """Return an id that nobody can guess: who knows it may read the response."""
    return f"resp_{token_hex(24)}"


@frozen
class RequestShown:
    """What a response tells of its request, which may have megabytes beside that."""

    model: str
    sampling: Sampling
    scored: bool
    """Whether the answer has log probabilities."""


def _asked(request: ChatRequest) -> RequestShown:
    return RequestShown(request.model, request.sampling, request.top_logprobs is not None)


@frozen
class ResponseHead:
    """What is known of a response before it is written."""

    asked: RequestShown = field(converter=_asked)
    """Made of the request."""
    echo: Mapping[str, object]
    instructions: str | None = None
    previous: str | None = None
    origins: Mapping[str, tuple[str | None, str]] = field(factory=dict)
    id: str = field(factory=new_response_id)
    created: int = field(factory=lambda: int(time.time()))

    @cached_property
    def value(self) -> Mapping[str, object]:
        """The members that never change."""
        sampling = self.asked.sampling
        return {
            "id": self.id, "object": "response", "created_at": self.created, "model": self.asked.model,
            "instructions": self.instructions, "previous_response_id": self.previous, "max_output_tokens": None,
            "parallel_tool_calls": True, "service_tier": "default", "temperature": sampling.temperature,
            "top_p": sampling.top_p, **self.echo,
        }

    @cached_property
    def encoded(self) -> bytes:
        """The same, encoded once, since a request with many tools has several events with all of them."""
        return dumps(self.value)


@define
class ResponseProgress:
    """One response. `on_end` gets its last value, before the event that tells it."""

    head: ResponseHead
    on_end: Callable[[Mapping[str, object]], None] | None = None
    status: ResponseStatus = "queued"
    output: ResponseOutput = field(init=False)
    _usage: Usage | None = field(default=None, init=False)
    _error: Mapping[str, object] | None = field(default=None, init=False)
    _completed: int | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.output = ResponseOutput(self.head.id, self.head.origins, self.head.asked.scored)

    @property
    def ended(self) -> bool:
        """Whether the status is final."""
        return self.status not in {"queued", "in_progress"}

    @property
    def value(self) -> dict[str, object]:
        """The response in OpenAI's form, as far as it has come."""
        return {**self.head.value, **self.state}

    @property
    def state(self) -> dict[str, object]:
        """The members besides those of its head."""
        reason = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        return {
            "status": self.status, "completed_at": self._completed, "error": self._error,
            "incomplete_details": reason, "output": self.output.values,
            "usage": None if self._usage is None else usage(self._usage),
        }

    def queue(self) -> Iterator[Event]:
        """Tell that the response waits; before the first piece."""
        yield "created", {"response": self.state}
        yield "queued", {"response": self.state}

    def begin(self, *, told: bool) -> Iterator[Event]:
        """Tell that the response is being written; `told`: after `queue`."""
        self.status = "in_progress"
        if not told:
            yield "created", {"response": self.state}
        yield "in_progress", {"response": self.state}

    def add(self, delta: Delta) -> Iterator[Event]:
        """Add a piece of the answer."""
        return self.output.add(delta)

    def end(self, finish: Finish) -> Iterator[Event]:
        """End the response as its answer ended."""
        status = STATUS[finish.reason]
        yield from self.output.end("completed" if status == "completed" else "incomplete")
        self._usage = finish.usage
        self._end(status)
        if status != "cancelled":
            yield status, {"response": self.state}

    def fail(self, fault: Fault) -> Iterator[Event]:
        """End the response with an error; its last item stays as far as it came."""
        self._error = {"code": ERROR_CODES.get(fault.type, "server_error"), "message": fault.message}
        yield from self.output.close("incomplete")
        self._end("failed")
        yield "failed", {"response": self.state}

    def cancel(self) -> None:
        """End the response because its client wants no more of it."""
        for _ in self.output.close("incomplete"):
            pass
        self._end("cancelled")

    def _end(self, status: ResponseStatus) -> None:
        self.status = status
        self._completed = int(time.time()) if status == "completed" else None
        if self.on_end is not None:
            self.on_end(self.value)
            self.on_end = None  # it may know the whole request, and the response can be read for a while


def usage(counts: Usage) -> dict[str, object]:
    """Return OpenAI's token counts."""
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
    }
