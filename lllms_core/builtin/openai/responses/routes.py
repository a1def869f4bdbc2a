"""The routes of responses: read the body, submit the chat, answer whole, as a stream, or in the background."""

from collections.abc import Mapping, Sequence

from attrs import frozen
from quart import Blueprint, Response

from lllms_core.answers import Stream
from lllms_core.apis import Server
from lllms_core.apis.bodies import LARGE, read_body, work
from lllms_core.apis.ignored import ignored_header
from lllms_core.apis.replies import reply, reply_large
from lllms_core.apis.streaming import HEADERS, close_with_client, stream_answer
from lllms_core.apis.unkept import check_answers
from lllms_core.builtin.openai.responses.background import BackgroundResponse, BackgroundResponses
from lllms_core.builtin.openai.responses.input_items import (
    Item,
    Placed,
    kept_items,
    read_conversation,
    weight,
)
from lllms_core.builtin.openai.responses.kept_responses import KeptResponse, KeptResponses, ResponseUnknown
from lllms_core.builtin.openai.responses.listing import list_items
from lllms_core.builtin.openai.responses.progress import ResponseHead, ResponseProgress
from lllms_core.builtin.openai.responses.query import read_number, read_switch, take_arguments
from lllms_core.builtin.openai.responses.response_body import Creation, in_our_words, read_creation
from lllms_core.builtin.openai.responses.response_events import ResponseEvents
from lllms_core.errors import InvalidRequest, RequestError
from lllms_core.parameters.wording import empty
from lllms_core.queries import CountRequest, Prepared
from lllms_core.types import ChatRequest, Message, new_request_id


def add_response_routes(
    routes: Blueprint, server: Server, prefixes: Sequence[str], patience: float, interval: float,
) -> None:
    """Add the routes below each prefix; see `OpenAiApi` for the two times."""
    views = ResponseViews(server, patience, interval)
    for prefix in prefixes:
        path = f"{prefix}/responses"
        routes.add_url_rule(path, "respond", views.create, methods=["POST"])
        routes.add_url_rule(f"{path}/input_tokens", "count_response", views.count, methods=["POST"])
        routes.add_url_rule(f"{path}/<response_id>", "response", views.retrieve)
        routes.add_url_rule(f"{path}/<response_id>", "delete_response", views.delete, methods=["DELETE"])
        routes.add_url_rule(f"{path}/<response_id>/cancel", "cancel_response", views.cancel, methods=["POST"])
        routes.add_url_rule(f"{path}/<response_id>/input_items", "response_items", views.input_items)


@frozen
class ResponseJob:
    """A client's request, checked."""

    creation: Creation
    request: ChatRequest
    submitted: ChatRequest | Prepared
    head: ResponseHead
    items: Sequence[Item]
    """Its own input, as it is kept."""


class ResponseViews:
    """The handlers of the routes."""

    def __init__(self, server: Server, patience: float, interval: float) -> None:
        self._server = server
        self._patience = patience
        self._interval = interval
        self._kept = KeptResponses(server.documents)
        self._background = BackgroundResponses()

    async def create(self) -> Response:
        """Answer a conversation."""
        job = await self._read()
        progress = ResponseProgress(job.head, lambda value: self._keep(job, value))
        stream = self._server.submit(job.submitted)
        try:
            if job.creation.background:
                return await self._answer_later(job, stream, progress)
            if job.creation.stream:
                return await stream_answer(
                    self._server, [stream], ResponseEvents(progress), patience=self._patience, interval=self._interval,
                )
            return await self._answer_whole(job, stream, progress)
        except RequestError as error:
            raise in_our_words(error) from None

    async def count(self) -> Response:
        """Count the tokens of a conversation."""
        job = await self._read()
        chat = job.request
        asked = CountRequest(new_request_id(), chat.model, chat, chat.timeout)
        prepare = isinstance(job.submitted, Prepared)
        tokens = await self._server.ask(self._server.prepare(asked) if prepare else asked, int)
        return reply({"object": "response.input_tokens", "input_tokens": tokens}, chat.unused)

    async def retrieve(self, response_id: str) -> Response:
        """Return a response, or the rest of its events."""
        arguments = take_arguments("include", "include[]", "stream", "starting_after", "include_obfuscation")
        running = self._background.get(response_id)
        if read_switch(arguments, "stream"):
            after = read_number(arguments, "starting_after", -1, least=-1)
            if running is None:
                await self._found(response_id)
                raise InvalidRequest(
                    "only a response with 'background' can be streamed again, for some time after its end; retrieve it "
                    "without 'stream'", "stream", "invalid_value",
                )
            running.check(after)
            return self._follow(running, after)
        if "starting_after" in arguments:
            raise InvalidRequest("'starting_after' needs 'stream=true'", "starting_after", "invalid_value")
        return await self._tell(await self._found(response_id))

    async def delete(self, response_id: str) -> Response:
        """Forget a response, and stop it if it is still being written."""
        take_arguments()
        stopped = await self._background.drop(response_id)
        if not (await self._kept.drop(response_id) or stopped):
            raise ResponseUnknown(response_id)
        return reply({"id": response_id, "object": "response", "deleted": True})

    async def cancel(self, response_id: str) -> Response:
        """Stop a response that is written in the background; one that has ended stays as it is."""
        take_arguments()
        running = self._background.get(response_id)
        if running is not None:
            await running.cancel()
        value = await self._found(response_id)
        if value.get("background") is not True:
            raise InvalidRequest(
                "Cannot cancel a synchronous response: close its connection instead.", "response_id", "invalid_value",
            )
        return await self._tell(value)

    async def input_items(self, response_id: str) -> Response:
        """List the items that a response answers, those of the responses before it first."""
        arguments = take_arguments("after", "include", "include[]", "limit", "order")
        found = await self._kept.find(response_id)
        if found is None:
            raise ResponseUnknown(response_id)
        items = [*await self._kept.before(found.previous, whole=False), *found.items]
        return await reply_large(LARGE + 1, lambda: list_items(items, arguments))

    # -- a request ----------------------------------------------------------------------------------------------------

    async def _read(self) -> ResponseJob:
        body = await read_body()
        size = len(body)
        creation = await work(size, lambda: read_creation(body, self._server.json_levels))
        self._server.model(creation.model)
        before = await self._kept.before(creation.previous)
        items = await self._kept.resolve(creation.items)
        size = max(size, weight(before) + sum(weight(one.item) for one in items))
        try:
            return await work(size, lambda: self._check(creation, before, items, large=size > LARGE))
        except RequestError as error:
            raise in_our_words(error) from None

    def _check(
        self, creation: Creation, before: Sequence[Item], items: Sequence[Placed], *, large: bool,
    ) -> ResponseJob:
        """Check the request, and prepare it if it is large. Raises `LllmsError`."""
        said = [*(Placed(item, "previous_response_id") for item in before), *items]
        messages = read_conversation(said, creation.toolbox.names)
        if creation.instructions is not None:
            messages.insert(0, Message("system", creation.instructions))
        if not messages:
            raise empty("input")
        made = self._server.request(
            creation.model, messages=messages, parameters=creation.parameters, constraint=creation.constraint,
            unused=creation.unused,
        )
        head = ResponseHead(made, creation.echo, creation.instructions, creation.previous, creation.toolbox.origins)
        if large:
            assert head.encoded  # noqa: S101  # now, in a thread
        submitted = self._server.prepare(made) if large else made
        return ResponseJob(creation, made, submitted, head, kept_items(items, head.id) if creation.store else ())

    def _keep(self, job: ResponseJob, value: Mapping[str, object]) -> None:
        if job.creation.store:
            self._kept.keep(KeptResponse(value, job.items, job.creation.previous))

    # -- its answer ---------------------------------------------------------------------------------------------------

    async def _answer_whole(self, job: ResponseJob, stream: Stream, progress: ResponseProgress) -> Response:
        close_with_client([stream])
        for _ in progress.begin(told=True):
            pass
        while deltas := await stream.take():
            for delta in deltas:
                for _ in progress.add(delta):
                    pass
        if stream.finish is None:
            raise RuntimeError("the stream was closed before the end of the answer")
        for _ in progress.end(stream.finish):
            pass
        value = progress.value
        size = sum(len(item.text) for item in progress.output.items) + len(job.head.encoded)
        response = await reply_large(size, lambda: value, job.request.unused)
        response.timeout = None  # a slow reader is no reason to cut an answer
        answer = stream.unenforced_answer()
        if answer is not None:
            response.headers.update(await check_answers([stream], [answer]))
        return response

    async def _answer_later(self, job: ResponseJob, stream: Stream, progress: ResponseProgress) -> Response:
        """Answer at once, or stream what may be streamed again; what is refused at once is an error."""
        begun = await stream.take() if await stream.wait(0) else []

        def waits() -> bool:
            waiting = self._server.waiting(job.request)
            return waiting is not None and waiting.state != "prompt"

        running = BackgroundResponse(stream, progress, waits)
        self._keep(job, progress.value)  # should the server end before the response does
        running.start(begun)
        self._background.add(running)
        if job.creation.stream:
            response = self._follow(running, -1)
            response.headers.update(ignored_header(job.request.unused))
            return response
        return await self._tell(running.value, job.request.unused)

    def _follow(self, running: BackgroundResponse, after: int) -> Response:
        headers = {"Content-Type": ResponseEvents.content_type, **HEADERS}
        response = Response(running.follow(after, self._interval), headers=headers)
        response.timeout = None
        return response

    async def _found(self, response_id: str) -> Mapping[str, object]:
        """Return the value of a response. Raises `ResponseUnknown`."""
        running = self._background.get(response_id)
        if running is not None:
            return running.value
        found = await self._kept.find(response_id)
        if found is None:
            raise ResponseUnknown(response_id)
        if not found.ended:
            error = {"code": "server_error", "message": "the server ended before the response did"}
            return {**found.value, "status": "failed", "error": error}
        return found.value

    async def _tell(self, value: Mapping[str, object], unused: Sequence[str] = ()) -> Response:
        return await reply_large(LARGE + 1, lambda: value, unused)
