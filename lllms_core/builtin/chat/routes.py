"""The routes of the native chat: read the body, submit the request, answer as events that can be resumed, or whole."""

from collections.abc import Callable, Sequence
from secrets import token_hex

from attrs import frozen
from quart import Blueprint, Response, request
from werkzeug.exceptions import Gone, NotFound

from lllms_core.answers import Stream
from lllms_core.apis import Server
from lllms_core.apis.bodies import LARGE, read_body, work
from lllms_core.apis.ignored import ignored_header
from lllms_core.apis.replies import reply, reply_large
from lllms_core.apis.streaming import HEADERS, gather_answers
from lllms_core.apis.unkept import check_answers, unkept_header
from lllms_core.builtin.chat.chat_body import NEW, ChatBody, read_chat_body
from lllms_core.builtin.chat.chat_events import ChatEvents, whole_value
from lllms_core.builtin.chat.conversation_routes import add_conversation_routes
from lllms_core.builtin.chat.kept_conversations import ConversationUnknown, KeptConversation, KeptConversations
from lllms_core.builtin.chat.running_chats import ChatLimits, RunningChat, RunningChats
from lllms_core.builtin.chat.said_messages import answer_value, read_said, with_our_tools
from lllms_core.builtin.chat.script_routes import add_script_routes
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut
from lllms_core.queries import Prepared
from lllms_core.types import ChatRequest, Message

PREFIX = "/api/v1"
OWN_PREFIX = "conv_"
"""The start of the ids that the server makes: such a conversation must exist to be continued."""


def make_blueprint(server: Server, limits: ChatLimits) -> Blueprint:
    """Return the routes over `server`."""
    routes = Blueprint("chat", __name__, url_prefix=PREFIX)
    kept = KeptConversations(server.documents)
    views = ChatViews(server, kept, limits)
    routes.add_url_rule("/chat", "create", views.create, methods=["POST"])
    routes.add_url_rule("/chat/<chat_id>", "resume", views.resume)
    routes.add_url_rule("/chat/<chat_id>", "stop", views.stop, methods=["DELETE"])
    add_conversation_routes(routes, kept)
    add_script_routes(routes)
    return routes


class ChatUnknown(NotFound):
    """No answer has this id."""

    def __init__(self, chat_id: str) -> None:
        super().__init__(
            f"there is no answer '{cut(chat_id)}' to resume: its readers left too long ago, or it ended too long ago",
        )


@frozen
class ChatJob:
    """A client's request, checked, in its conversation."""

    asked: ChatBody
    request: ChatRequest
    submitted: ChatRequest | Prepared
    conversation: KeptConversation | None
    """As it will be if it is answered, without the answer."""
    release: Callable[[], None]
    """Ends the reservation of the conversation; safe to call again."""


class ChatViews:
    """The handlers of the routes for answers."""

    def __init__(self, server: Server, kept: KeptConversations, limits: ChatLimits) -> None:
        self._server = server
        self._kept = kept
        self._limits = limits
        self._chats = RunningChats(limits)

    async def create(self) -> Response:
        """Answer messages."""
        body = await read_body()
        asked = await work(len(body), lambda: read_chat_body(body, self._server.json_levels))
        self._server.model(asked.model)
        if asked.conversation is None:
            return await self._answer(await self._check(asked, None, lambda: None, len(body)))
        before, release = await self._find(asked.conversation)
        try:
            return await self._answer(await self._check(asked, before, release, len(body)))
        except BaseException:
            release()
            raise

    async def resume(self, chat_id: str) -> Response:
        """Return the rest of an answer's events."""
        chat = self._chats.get(chat_id)
        if chat is None:
            raise ChatUnknown(chat_id)
        number = _next_event(chat)
        if chat.ended and number == chat.buffer.next:
            return Response(status=204)  # an EventSource that gets this does not ask again
        if number < chat.buffer.first:
            raise Gone(
                f"the events of this answer before {chat.id}-{chat.buffer.first} are no longer kept; ask again",
            )
        return self._follow(chat, number)

    async def stop(self, chat_id: str) -> Response:
        """Stop an answer; one that has ended stays as it is."""
        chat = self._chats.get(chat_id)
        if chat is None:
            raise ChatUnknown(chat_id)
        await chat.stop()
        return reply({"stopped": chat_id})

    # -- a request ----------------------------------------------------------------------------------------------------

    async def _find(self, wanted: str) -> tuple[KeptConversation, Callable[[], None]]:
        """Reserve a conversation, and return it; a client may choose the id of a new one."""
        name = OWN_PREFIX + token_hex(12) if wanted == NEW else wanted
        release = self._kept.claim(name)
        try:
            await self._kept.prepare()
            found = await self._kept.find(name)
        except BaseException:
            release()
            raise
        if found is None and name == wanted and name.startswith(OWN_PREFIX):
            release()
            raise ConversationUnknown(name)
        return KeptConversation.new(name) if found is None else found, release

    async def _check(
        self, asked: ChatBody, before: KeptConversation | None, release: Callable[[], None], size: int,
    ) -> ChatJob:
        """Check the request, and prepare it if it is large. Raises `LllmsError`."""
        if before is not None:
            size += before.weight

        def check() -> ChatJob:
            after = None if before is None else before.continued(asked.model, asked.system, asked.said)
            if after is not None:
                after.check()
            system = asked.system if after is None else after.system
            messages = [] if system is None else [Message("system", system)]
            messages += read_said(asked.said if after is None else after.messages)
            made = with_our_tools(lambda: self._server.request(
                asked.model, messages=messages, parameters=asked.parameters,
            ))
            return ChatJob(asked, made, self._server.prepare(made) if size > LARGE else made, after, release)

        return await work(size, check)

    # -- its answer ---------------------------------------------------------------------------------------------------

    async def _answer(self, job: ChatJob) -> Response:
        stream = self._server.submit(job.submitted)
        chat_id = f"chat_{token_hex(16)}"  # unlike the request's id, which others may list, this one gives access
        if not job.asked.stream:
            return await self._answer_whole(job, stream, chat_id)
        try:
            begun = await stream.take() if await stream.wait(self._limits.patience) else []
        except BaseException:
            await stream.aclose()
            raise
        name = None if job.conversation is None else job.conversation.id
        events = ChatEvents(chat_id, name, thoughts=job.asked.thoughts)
        chat = RunningChat(
            chat_id, stream, events, lambda: self._server.waiting(job.request),
            lambda message: self._settle(job, message), limits=self._limits,
        )
        chat.start(begun)
        self._chats.add(chat)
        response = self._follow(chat, 0)
        response.headers.update({**ignored_header(job.request.unused), **unkept_header(stream.unenforced)})
        return response

    async def _answer_whole(self, job: ChatJob, stream: Stream, chat_id: str) -> Response:
        [answer] = await gather_answers([stream])
        self._settle(job, answer.message)
        name = None if job.conversation is None else job.conversation.id
        response = await reply_large(
            len(answer.text), lambda: whole_value(
                chat_id, job.request.model, name, answer, thoughts=job.asked.thoughts,
            ), job.request.unused,
        )
        response.timeout = None  # a slow reader is no reason to cut an answer
        response.headers.update(await check_answers([stream], [answer]))
        return response

    def _settle(self, job: ChatJob, message: Message | None) -> None:
        """Keep the conversation with its answer, or leave it as it was before the request."""
        if job.conversation is not None and message is not None:
            self._kept.keep(job.conversation.continued(job.asked.model, None, [answer_value(message)]))
        job.release()

    def _follow(self, chat: RunningChat, number: int) -> Response:
        response = Response(chat.follow(number), headers={"Content-Type": "text/event-stream", **HEADERS})
        response.timeout = None  # neither a slow model nor a slow reader is a reason to cut an answer
        return response


def _next_event(chat: RunningChat) -> int:
    """Return the number of the event after the last one that the client got."""
    last = request.headers.get("Last-Event-ID", "")
    if not last:
        return 0
    of, _, number = last.rpartition("-")
    known: Sequence[int] = range(chat.buffer.next)
    if of != chat.id or not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) in known):
        raise InvalidRequest(
            f"the header Last-Event-ID must be the id of an event of this answer, like {chat.id}-0, not '{cut(last)}'",
            "Last-Event-ID", "invalid_value",
        )
    return int(number) + 1
