"""The routes: read the body, submit the request, answer whole or as a stream."""

import time
from collections.abc import Callable, Sequence

from attrs import evolve, frozen
from quart import Blueprint, Response

from lllms_core.answers import Choice, Stream, slowest, total
from lllms_core.apis import ModelCard, Server
from lllms_core.apis.bodies import LARGE, read_body, work
from lllms_core.apis.replies import reply_answers
from lllms_core.apis.streaming import gather_answers, stream_answer
from lllms_core.builtin.openai.embeddings import add_routes
from lllms_core.builtin.openai.model_list import ModelList
from lllms_core.builtin.openai.prompts import MOST
from lllms_core.builtin.openai.request_body import Completion, read_chat, read_text
from lllms_core.builtin.openai.responses.routes import add_response_routes
from lllms_core.builtin.openai.shapes import Asked, Events, Head, completion_id, whole_answer
from lllms_core.errors import InvalidRequest
from lllms_core.parameters import ROUTES
from lllms_core.queries import Prepared
from lllms_core.types import ChatRequest, Request, new_request_id

PREFIXES = ("/openai/v1", "/v1")

DEFAULT_TEXT_TOKENS = 16
"""The number of tokens that OpenAI's `/completions` generates by default."""

LIMITS = frozenset(name for name, line in ROUTES["text"].items() if "max_tokens" in {name, line.means})
"""The names of the token limit."""

SCORE_SIZE = 100
"""Bytes that a token's scores take in an answer, at least."""


@frozen
class Job:
    """A client's request, checked."""

    wanted: Completion
    requests: Sequence[Request]
    """One for a conversation, or one per prompt."""
    submitted: Sequence[Request | Prepared]
    """The same requests, ready to submit."""


def make_blueprint(server: Server, patience: float, interval: float) -> Blueprint:
    """Return the routes over `server`; see `OpenAiApi` for the two times."""
    views, models = Views(server, patience, interval), ModelList(server)
    routes = Blueprint("openai", __name__)
    for prefix in PREFIXES:
        routes.add_url_rule(f"{prefix}/models", "models", models.list)
        routes.add_url_rule(f"{prefix}/models/<path:name>", "model", models.one)
        routes.add_url_rule(f"{prefix}/chat/completions", "chat", views.chat_completions, methods=["POST"])
        routes.add_url_rule(f"{prefix}/completions", "text", views.completions, methods=["POST"])
    add_routes(routes, server, PREFIXES)
    add_response_routes(routes, server, PREFIXES, patience, interval)
    return routes


class Views:
    """The handlers of the routes."""

    def __init__(self, server: Server, patience: float, interval: float) -> None:
        self._server = server
        self._patience = patience
        self._interval = interval

    async def chat_completions(self) -> Response:
        """Answer a conversation."""
        return await self._complete(read_chat)

    async def completions(self) -> Response:
        """Continue a text."""
        return await self._complete(read_text)

    async def _complete(self, read: Callable[[bytes, int], Completion]) -> Response:
        body = await read_body()
        job = await work(len(body), lambda: self._check(read(body, self._server.json_levels), large=len(body) > LARGE))
        wanted, first = job.wanted, job.requests[0]
        asked = Asked(
            first.task == "chat", first.n, first.top_logprobs is not None,
            tuple([await self._echo(one) for one in job.requests]), wanted.functions,
            wanted.timings,
        )
        streams = self._server.submit_all(job.submitted)
        if wanted.stream:
            events = Events(asked, lambda: self._head(asked, streams), include_usage=wanted.include_usage)
            return await stream_answer(
                self._server, streams, events, patience=self._patience, interval=self._interval,
            )
        answers = await gather_answers(streams)
        choices = [choice for answer in answers for choice in answer.choices]
        counts = total(answer.finish.usage for answer in answers)
        head, times = self._head(asked, streams), slowest([answer.finish.timings for answer in answers])
        return await reply_answers(
            streams, answers, _size(asked, choices), lambda: whole_answer(asked, head, choices, counts, times),
        )

    def _check(self, wanted: Completion, *, large: bool) -> Job:
        """Check the request, and prepare it if it is large. Raises `LllmsError`."""
        card = self._server.model(wanted.model)
        requests = self._requests(card, wanted)
        first = requests[0]
        if wanted.stream and first.count > first.n:
            raise InvalidRequest("'best_of' above 'n' cannot be streamed: only the ends tell which are best", "best_of")
        if len(requests) * first.count > MOST:
            raise InvalidRequest(
                f"{len(requests)} prompts with {first.count} answers each are more than the {MOST} that a request may "
                "ask for; send several requests",
                "best_of" if first.count > first.n else "n", "invalid_value",
            )
        return Job(wanted, requests, [self._server.prepare(one) if large else one for one in requests])

    def _requests(self, card: ModelCard, wanted: Completion) -> list[Request]:
        """One request for the conversation, or for each prompt."""
        parameters = dict(wanted.parameters)
        if wanted.messages is not None:
            return [self._server.request(
                card.name, messages=wanted.messages, parameters=parameters, unused=wanted.unused,
            )]
        if card.max_tokens is None and LIMITS.isdisjoint(parameters):
            parameters["max_tokens"] = DEFAULT_TEXT_TOKENS
        first, *others = wanted.prompts
        made = self._server.request(card.name, prompt=first, parameters=parameters, unused=wanted.unused)
        return [made, *(evolve(made, id=new_request_id(), prompt=prompt) for prompt in others)]

    async def _echo(self, request: Request) -> str:
        """Return the text with which the answers to a request begin."""
        if isinstance(request, ChatRequest) or not request.echo:
            return ""
        prompt = request.prompt
        return prompt if isinstance(prompt, str) else await self._server.detokenize(request.model, prompt)

    def _head(self, asked: Asked, streams: Sequence[Stream]) -> Head:
        """Return the values that all parts of an answer share, once it has begun and so has an instance."""
        first = next((stream for stream in streams if stream.instance is not None), streams[0])
        card = self._server.model(first.request.model)
        name = completion_id("chat" if asked.chat else "text", first.id)
        return Head(name, int(time.time()), card.name, first.fingerprint or card.fingerprint)


def _size(asked: Asked, choices: Sequence[Choice]) -> int:
    """The approximate size of an answer in bytes."""
    tokens = sum(len(one.scores) + (0 if one.prompt_scores is None else len(one.prompt_scores.rest)) for one in choices)
    return sum(map(len, asked.echoes)) + sum(len(one.message.content) for one in choices) + SCORE_SIZE * tokens
