"""llama-server's routes: read the body, submit the request, answer whole or as events."""

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from quart import Blueprint, Response

from lllms_compat.answer_values import Frame, answer_value, selected
from lllms_compat.cut_answers import submit_cut
from lllms_compat.events import CompletionEvents
from lllms_compat.faults import NOT_SUPPORTED
from lllms_compat.model_choice import GAPS, INFILL, take_model
from lllms_compat.prompts import Mixed, read_prompts
from lllms_compat.request_body import Asked, read_completion, read_infill
from lllms_compat.server_state import ServerState
from lllms_compat.token_routes import TokenViews
from lllms_core.answers import Answer, Stream
from lllms_core.apis import Api, ModelCard, Server
from lllms_core.apis.bodies import LARGE, read_body, read_object, take, take_text, work
from lllms_core.apis.replies import reply_large
from lllms_core.apis.streaming import gather_answers, stream_answer
from lllms_core.apis.unkept import check_answers
from lllms_core.errors import LllmsError, UnsupportedParameter
from lllms_core.queries import Prepared
from lllms_core.types import TextRequest

SCORE_SIZE = 100
"""Bytes that a token's scores take in an answer, at least."""

View = Callable[[], Awaitable[Response]]


def make_blueprint(server: Server, api: Api, patience: float, interval: float) -> Blueprint:
    """Return the routes of `api` over `server`; see `LlamaServerApi` for the two times."""
    views, tokens, state = Views(server, patience, interval), TokenViews(server), ServerState(server, api)
    routes = Blueprint("llama-server", __name__)
    posts: dict[str, View] = {
        "/infill": views.infill, "/completion": views.completion, "/completions": views.completion,
        "/tokenize": tokens.tokenize, "/detokenize": tokens.detokenize, "/apply-template": tokens.apply_template,
        "/props": state.change_props,
    }
    gets: dict[str, View] = {"/props": state.props, "/slots": state.slots}
    for path, view in posts.items():
        routes.add_url_rule(path, f"post {path}", view, methods=["POST"])
    for path, view in gets.items():
        routes.add_url_rule(path, f"get {path}", view)
    return routes


class Views:
    """The handlers of `/completion` and `/infill`."""

    def __init__(self, server: Server, patience: float, interval: float) -> None:
        self._server = server
        self._patience = patience
        self._interval = interval

    async def completion(self) -> Response:
        """Continue a text."""
        body, values = await self._read()
        card = take_model(self._server, values)
        prompts = read_prompts(take(values, "prompt"))
        plain = [one if isinstance(one, str | tuple) else await self._tokens(card, one) for one in prompts]
        asked, ready = await work(len(body), lambda: self._ready(
            read_completion(self._server, card, plain, values), len(body),
        ))
        return await self._answer(card, asked, ready)

    async def infill(self) -> Response:
        """Fill a gap."""
        body, values = await self._read()
        card = take_model(self._server, values, fills=True)
        if GAPS not in card.parameters:
            raise _no_gaps(card, f"engine '{card.engine}'")
        prompt = take_text(values, "prompt") if "prompt" in values else ""
        asked, ready = await work(len(body), lambda: self._ready(
            read_infill(self._server, card, prompt, values), len(body),
        ))
        try:
            return await self._answer(card, asked, ready)
        except UnsupportedParameter as error:
            if error.param != GAPS:
                raise
            raise _no_gaps(card, "it was not trained to, and it") from error

    async def _read(self) -> tuple[bytes, dict[str, object]]:
        body = await read_body(any_type=True)
        return body, await work(len(body), lambda: read_object(body, self._server.json_levels))

    async def _tokens(self, card: ModelCard, parts: Mixed) -> tuple[int, ...]:
        """Return the tokens of a prompt of texts and tokens."""
        found: list[int] = []
        for index, part in enumerate(parts):
            if isinstance(part, int):
                found.append(part)
            else:
                found += (await self._server.tokenize(card.name, part, add_special=index == 0)).ids
        return tuple(found)

    def _ready(self, asked: Asked, size: int) -> tuple[Asked, Sequence[TextRequest | Prepared]]:
        """Return a request, and what to submit of it: a large one is prepared."""
        return asked, [self._server.prepare(one) if size > LARGE else one for one in asked.requests]

    async def _answer(self, card: ModelCard, asked: Asked, ready: Sequence[TextRequest | Prepared]) -> Response:
        frames = [await self._frame(card, asked, one) for one in asked.requests]
        if asked.several:
            streams = self._server.submit_all(ready)
        else:
            streams = [submit_cut(self._server, ready[0], asked.indent, asked.seconds)]
        if asked.stream:
            events = CompletionEvents(asked.first, frames[0], asked.fields)
            return await stream_answer(
                self._server, streams, events, patience=self._patience, interval=self._interval,
            )
        answers = await gather_answers(streams)

        def value() -> object:
            found = [
                selected(_value(stream, frame, answer, index), asked.fields)
                for index, (stream, frame, answer) in enumerate(zip(streams, frames, answers, strict=True))
            ]
            return found if asked.several else found[0]

        response = await reply_large(sum(map(_size, answers)), value, asked.first.unused)
        response.timeout = None  # a slow reader is no reason to cut an answer
        response.headers.update(await check_answers(streams, answers))
        return response

    async def _frame(self, card: ModelCard, asked: Asked, request: TextRequest) -> Frame:
        try:
            length = (await self._server.abilities(card.name)).context_length
        except LllmsError:
            length = None  # the request is refused with the reason
        prompt = request.prompt if isinstance(request.prompt, str) else ""
        return Frame(card.name, length, prompt, asked.stream)


def _no_gaps(card: ModelCard, why: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"model '{card.name}' cannot fill gaps: {why} has no tokens for them; name another model as 'model', or give "
        f'that one the alias "{INFILL}"',
        "model", NOT_SUPPORTED,
    )


def _value(stream: Stream, frame: Frame, answer: Answer, index: int) -> dict[str, object]:
    request = cast("TextRequest", stream.request)
    [choice] = answer.choices
    return answer_value(request, frame, answer.finish, answer.text, index=index, scores=choice.scores)


def _size(answer: Answer) -> int:
    return len(answer.text) + SCORE_SIZE * len(answer.choices[0].scores)
