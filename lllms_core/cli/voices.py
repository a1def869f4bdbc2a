"""Voices that answer in the terminal: a model in this process, or one of a running server, with one interface."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from attrs import evolve, frozen

from lllms_core.cli.model_options import given_options, with_given
from lllms_core.cli.setup import read_config, select, start_log
from lllms_core.cli.startup import started
from lllms_core.client import (
    Client,
    LoadingEvent,
    PromptEvent,
    QueuedEvent,
    TextEvent,
    ThoughtsEvent,
    UsageEvent,
)
from lllms_core.types import Finish, Message, Request

if TYPE_CHECKING:
    from lllms_core.answers import Stream
    from lllms_core.client import ChatEvent

LOOK_SECONDS = 0.2
"""Between two looks at what an answer waits for."""


@frozen
class Awaited:
    """What an answer waits for, and how far that is, in a few words."""

    text: str


Heard = TextEvent | ThoughtsEvent | UsageEvent | Awaited
"""A piece of an answer, or what it waits for, or, at its end, what it took."""
Pieces = Generator[Heard, None, None]
"""An answer as it arrives; closing it cancels the answer."""


class Voice(ABC):
    """Answers piece by piece."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def chat(self, messages: Sequence[Message], parameters: Mapping[str, object]) -> Pieces:
        """Answer a conversation."""

    @abstractmethod
    def complete(self, prompt: str, parameters: Mapping[str, object]) -> Pieces:
        """Continue a text."""

    def check(self) -> None:
        """Raise `LllmsError` if there is no such model; the base knows when it is made."""

    def close(self) -> None:
        """Release all resources."""


class LocalVoice(Voice):
    """A model loaded for this command; its event loop runs only while the command waits for it."""

    def __init__(self, model: str, config_file: Path | None, *, log_level: str | None = None) -> None:
        """Start a host for this one model: a name, a file or a source. Raises the errors of `Host` and `select`."""
        from lllms_core.host import Host
        from lllms_core.plugins import Plugins

        config = read_config(config_file)
        start_log(config, log_level)
        plugins = Plugins.discover(disable=config.disabled_plugins)
        chosen = with_given(select(config, plugins, [model]), plugins, given_options())
        [(self._model, found)] = chosen.models.items()
        # Fetch files first, with a bar, not while the request waits.
        self._host = Host(evolve(chosen, models={self._model: evolve(found, prepare="blocking")}), plugins)
        self._runner = asyncio.Runner()
        self._runner.run(started(self._host))

    def chat(self, messages: Sequence[Message], parameters: Mapping[str, object]) -> Pieces:
        """Answer a conversation."""
        yield from self._answer(self._host.request(self._model, messages=messages, parameters=parameters))

    def complete(self, prompt: str, parameters: Mapping[str, object]) -> Pieces:
        """Continue a text."""
        yield from self._answer(self._host.request(self._model, prompt=prompt, parameters=parameters))

    def close(self) -> None:
        """Unload the model."""
        with self._runner:
            self._runner.run(self._host.close(grace=0))

    def _answer(self, request: Request) -> Pieces:
        async def submit() -> "Stream":
            return self._host.submit(request)

        stream = self._runner.run(submit())
        begun = False
        try:
            while True:
                if not self._runner.run(stream.wait(LOOK_SECONDS)):
                    waiting = None if begun else self._host.waiting(request)
                    if waiting is not None:
                        yield Awaited(str(waiting))
                    continue
                deltas = self._runner.run(stream.take())
                if not deltas:
                    break
                begun = True
                if thoughts := "".join(delta.reasoning for delta in deltas):
                    yield ThoughtsEvent(thoughts)
                if text := "".join(delta.text for delta in deltas):
                    yield TextEvent(text)
            if stream.finish is not None:
                yield _usage(stream.finish)
        finally:
            self._runner.run(stream.aclose())


def _usage(finish: Finish) -> UsageEvent:
    usage, timings = finish.usage, finish.timings
    seconds = {
        "queued": timings.queued, "load": timings.load, "prompt": timings.prompt, "answer": timings.answer,
    }
    return UsageEvent(
        usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens, seconds,
    )


class RemoteVoice(Voice):
    """A model of a running server."""

    def __init__(self, model: str, url: str, api_key: str | None = None) -> None:
        """Prepare to ask the server. Raises `ServerError` for an invalid address."""
        self._model = model
        self._client = Client(url, api_key)

    def chat(self, messages: Sequence[Message], parameters: Mapping[str, object]) -> Pieces:
        """Answer a conversation."""
        said = [{"role": message.role, "content": message.content} for message in messages]
        given: dict[str, Any] = dict(parameters)
        with self._client.chat(self._model, messages=said, **given) as answer:
            for event in answer:
                yield from _heard(event)

    def complete(self, prompt: str, parameters: Mapping[str, object]) -> Pieces:
        """Continue a text."""
        body = {"model": self._model, "prompt": prompt, **parameters}
        with closing(self._client.stream("/v1/completions", body)) as events:
            for event in events:
                yield from (TextEvent(choice["text"]) for choice in event["choices"])

    def check(self) -> None:
        """Ask the server for the model, which it may know by another name."""
        self._client.get(f"/v1/models/{quote(self._model)}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _heard(event: "ChatEvent") -> Iterator[Heard]:
    match event:
        case TextEvent() | ThoughtsEvent() | UsageEvent():
            yield event
        case QueuedEvent(position, reason):
            yield Awaited(f"queued{'' if position is None else f' {position}'}{f', {reason}' if reason else ''}")
        case LoadingEvent():
            yield Awaited(event.about)
        case PromptEvent(progress) if progress is not None:
            yield Awaited(f"reading the prompt {progress:.0%}")
