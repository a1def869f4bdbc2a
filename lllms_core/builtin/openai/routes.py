"""The routes: read the body, submit the request, answer whole or as a stream."""

import asyncio
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

from attrs import evolve, frozen
from quart import Blueprint, Response

from lllms_core.answers import Choice, Stream, merge, total
from lllms_core.builtin.openai.answers import Asked, Events, Head, completion_id, dumps, whole_answer
from lllms_core.builtin.openai.body import LARGE, read_body, work
from lllms_core.builtin.openai.errors import answer_error
from lllms_core.builtin.openai.openapi import PATHS, describe_api
from lllms_core.builtin.openai.prompts import MOST
from lllms_core.builtin.openai.sse import write_events
from lllms_core.builtin.openai.vectors import add_routes
from lllms_core.builtin.openai.wire import Completion, read_chat, read_text
from lllms_core.catalog import CatalogEntry
from lllms_core.errors import InvalidRequest
from lllms_core.host import Host
from lllms_core.parameters import verdicts
from lllms_core.queries import Prepared
from lllms_core.types import Request, new_request_id

PREFIXES = ("/openai/v1", "/v1")

DEFAULT_TEXT_TOKENS = 16
"""What OpenAI's `/completions` generates when nobody says how much."""

STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

SCORE_SIZE = 100
"""Bytes that a token's scores take in an answer, at least."""


@frozen
class Job:
    """What a client asks for, checked."""

    wanted: Completion
    entry: CatalogEntry
    requests: Sequence[Request]
    """One for a conversation, or for each prompt."""
    submitted: Sequence[Request | Prepared]
    """The same, as they are submitted."""


def make_blueprint(host: Host, patience: float, interval: float) -> Blueprint:
    """Return the routes over `host`; for the two times see `OpenAiApi`."""
    views = Views(host, patience, interval)
    routes = Blueprint("openai", __name__)
    routes.register_error_handler(Exception, answer_error)
    routes.add_url_rule("/openapi.json", "openapi", views.openapi)
    for prefix in PREFIXES:
        routes.add_url_rule(f"{prefix}/models", "models", views.models)
        routes.add_url_rule(f"{prefix}/models/<path:name>", "model", views.model)
        routes.add_url_rule(f"{prefix}/chat/completions", "chat", views.chat_completions, methods=["POST"])
        routes.add_url_rule(f"{prefix}/completions", "text", views.completions, methods=["POST"])
    add_routes(routes, host, PREFIXES)
    return routes


class Views:
    """What the routes do."""

    def __init__(self, host: Host, patience: float, interval: float) -> None:
        self._host = host
        self._levels = host.config.server.max_json_depth
        self._patience = patience
        self._interval = interval
        self._created = int(time.time())

    async def openapi(self) -> Response:
        """Describe the API."""
        entries = self._host.catalog.entries
        honoured = {name for entry in entries for name in entry.engine.parameters}
        return _json(describe_api([entry.name for entry in entries], version("lllms-core"), honoured))

    async def models(self) -> Response:
        """List the models."""
        data = [self._model(entry) for entry in self._host.catalog.entries]
        return _json({"object": "list", "data": data})

    async def model(self, name: str) -> Response:
        """Describe one model, by its name or an alias."""
        return _json(self._describe(self._host.model(name)))

    async def chat_completions(self) -> Response:
        """Answer a conversation."""
        return await self._complete(read_chat)

    async def completions(self) -> Response:
        """Continue a text."""
        return await self._complete(read_text)

    async def _complete(self, read: Callable[[bytes, int], Completion]) -> Response:
        body = await read_body()
        job = await work(len(body), lambda: self._check(read(body, self._levels), large=len(body) > LARGE))
        wanted, first = job.wanted, job.requests[0]
        asked = Asked(
            first.task == "chat", first.n, first.top_logprobs is not None,
            tuple([await self._echo(one) for one in job.requests]), wanted.functions,
        )
        streams = self._host.submit_all(job.submitted)
        _close_with_task(streams[::-1])  # those that wait for their turn first: else they would get it
        if wanted.stream:
            stream = streams[0] if len(streams) == 1 else merge(streams, first.n)
            response = await self._stream(stream, job.requests, asked, include_usage=wanted.include_usage)
        else:
            answers = await asyncio.gather(*(stream.gather() for stream in streams))
            choices = [choice for answer in answers for choice in answer.choices]
            counts = total([answer.finish for answer in answers])
            head = _head(streams[0], self._host.model(job.entry.name))
            data = await work(_size(asked, choices), lambda: dumps(whole_answer(asked, head, choices, counts)))
            response = Response(data, content_type="application/json")
        response.timeout = None  # a slow reader is no reason to cut an answer
        return response

    def _check(self, wanted: Completion, *, large: bool) -> Job:
        """Check what is asked for, and prepare it if it is large. Raises `LllmsError`."""
        entry = self._host.model(wanted.model)
        requests = self._requests(entry, wanted)
        first = requests[0]
        if wanted.stream and first.count > first.n:
            raise InvalidRequest("'best_of' above 'n' cannot be streamed: only the ends tell which are best", "best_of")
        if len(requests) * first.count > MOST:
            raise InvalidRequest(
                f"{len(requests)} prompts with {first.count} answers each are more than the {MOST} that a request may "
                "ask for; send several requests",
                "best_of" if first.count > first.n else "n", "invalid_value",
            )
        return Job(wanted, entry, requests, [self._host.prepare(one) if large else one for one in requests])

    def _requests(self, entry: CatalogEntry, wanted: Completion) -> list[Request]:
        """One request for the conversation, or for each prompt."""
        parameters = dict(wanted.parameters)
        if wanted.messages is not None:
            return [self._host.request(entry.name, messages=wanted.messages, parameters=parameters)]
        if entry.defaults.max_tokens is None:
            parameters.setdefault("max_tokens", DEFAULT_TEXT_TOKENS)
        first = self._host.request(entry.name, prompt=wanted.prompts[0], parameters=parameters)
        return [first, *(evolve(first, id=new_request_id(), prompt=prompt) for prompt in wanted.prompts[1:])]

    async def _echo(self, request: Request) -> str:
        """What the answers to a request begin with."""
        if not request.echo or request.prompt is None:
            return ""
        prompt = request.prompt
        return prompt if isinstance(prompt, str) else await self._host.detokenize(request.model, prompt)

    async def _stream(
        self, stream: Stream, requests: Sequence[Request], asked: Asked, *, include_usage: bool,
    ) -> Response:
        # A refusal that comes in time is answered with its status; after that the headers are out.
        first = await stream.take() if await stream.wait(self._patience) else None

        def start() -> Events:
            # Looked up only now: the file, which the fingerprint is of, may have been fetched meanwhile.
            return Events(asked, _head(stream, self._host.model(requests[0].model)), include_usage=include_usage)

        def waits() -> str:
            known = [waiting for one in requests if (waiting := self._host.waiting(one)) is not None]
            return str(known[0]) if known else "waiting"

        return Response(write_events(stream, first, start, self._interval, waits), headers=STREAM_HEADERS)

    def _model(self, entry: CatalogEntry) -> dict[str, object]:
        return {"id": entry.name, "object": "model", "created": self._created, "owned_by": entry.plugin}

    def _describe(self, entry: CatalogEntry) -> dict[str, object]:
        """What is told of one model, and would be too much in a list: what becomes of each parameter, by route."""
        table = {PATHS[route]: names for route, names in verdicts(entry.engine.parameters).items()}
        return {**self._model(entry), "description": entry.description, "parameters": table}


_CLOSING: set[asyncio.Task[None]] = set()  # the event loop holds tasks only weakly


def _close_with_task(streams: Sequence[Stream]) -> None:
    """Close the streams when the task that serves this HTTP request ends, however it ends.

    The server cancels that task when the client goes away. Nothing less sees each phase of it: an async generator that
    has not started yet, as while the headers are sent, runs no `finally`.
    """

    def close(_: object) -> None:
        for stream in streams:
            closing = asyncio.ensure_future(stream.aclose())
            _CLOSING.add(closing)
            closing.add_done_callback(_CLOSING.discard)

    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # views run in tasks
    task.add_done_callback(close)


def _head(stream: Stream, entry: CatalogEntry) -> Head:
    return Head(completion_id(stream.request.task, stream.id), int(time.time()), entry.name, entry.fingerprint)


def _size(asked: Asked, choices: Sequence[Choice]) -> int:
    """About as many bytes as an answer will have."""
    tokens = sum(len(one.scores) + (0 if one.prompt_scores is None else len(one.prompt_scores.rest)) for one in choices)
    return sum(map(len, asked.echoes)) + sum(len(one.message.content) for one in choices) + SCORE_SIZE * tokens


def _json(value: object) -> Response:
    return Response(dumps(value), content_type="application/json")
