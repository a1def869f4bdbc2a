"""Answers that go on for a while without a reader: their events wait in bounded buffers for one who returns."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from attrs import frozen

from lllms_core.answers import Stream
from lllms_core.apis import explain
from lllms_core.apis.event_buffer import EventBuffer
from lllms_core.apis.unkept import log_unkept
from lllms_core.apis.writing import comment, event
from lllms_core.builtin.chat.chat_events import ChatEvents
from lllms_core.errors import RequestCancelled
from lllms_core.status import Waiting
from lllms_core.types import Delta, Message


@frozen
class ChatLimits:
    """How long answers can be resumed, in seconds, and how much of them is kept."""

    patience: float = 0.2
    """An answer that is refused within this time is an error with its own status; then the headers are sent."""
    interval: float = 10.0
    """Of silence, after which a comment shows that the connection is alive."""
    look: float = 0.25
    """Between two looks at what an answer that has not begun waits for."""
    grace: float = 5.0
    """That an answer goes on after its last reader has left; then it is cancelled."""
    kept: float = 60.0
    """That the events of an answer that has ended can be read again."""
    buffer: int = 2 * 2**20
    """Bytes of events of one answer."""
    most_ended: int = 64
    """Answers that have ended and can still be read."""
    most_ended_bytes: int = 16 * 2**20
    """Bytes of all their events."""


@frozen
class _Source:
    """Where an answer comes from: it refers to the whole request."""

    stream: Stream
    events: ChatEvents
    waits: Callable[[], Waiting | None]
    settle: Callable[[Message | None], None]


class RunningChat:
    """One answer that is being written, or was, with its events. Once it has ended, it lets go of its request.

    Whoever submitted its request gets `settle(message)` once, when it ends: with the answer if it is to be kept in its
    conversation, else with None. An answer that was stopped is kept as far as it came; one that failed, or whose
    readers have all left, is not.
    """

    def __init__(
        self, chat_id: str, stream: Stream, events: ChatEvents, waits: Callable[[], Waiting | None],
        settle: Callable[[Message | None], None], *, limits: ChatLimits,
    ) -> None:
        self.id = chat_id
        self.buffer = EventBuffer(limits.buffer)
        self._source: _Source | None = _Source(stream, events, waits, settle)
        self._limits = limits
        self._readers = 0
        self._leaving: asyncio.TimerHandle | None = None
        self._stopped: bool | None = None
        """Whether it was stopped by a client, and not because nobody reads it; None: neither."""
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether all of its events are written."""
        return self.buffer.ended

    def start(self, begun: Sequence[Delta]) -> None:
        """Begin to read the answer; `begun` was already taken."""
        source = self._source
        assert source is not None  # noqa: S101  # it has not ended
        if not begun:
            self.buffer.put(source.events.waits(source.waits()))  # so that its reader learns the id with the headers
        self._task = asyncio.create_task(self._read(source, begun))

    def when_ended(self, act: Callable[[], object]) -> None:
        """Call `act` once the started answer has ended."""
        assert self._task is not None  # noqa: S101  # it was started
        self._task.add_done_callback(lambda _: act())

    async def stop(self, *, by_client: bool = True) -> None:
        """Stop the answer, and wait until it has settled; nothing happens if it has ended."""
        if self._task is None or self._source is None or self.ended:
            return
        if self._stopped is None:
            self._stopped = by_client
        await self._source.stream.aclose()
        await asyncio.wait([self._task])

    def follow(self, number: int) -> AsyncIterator[bytes]:
        """Return the events from this number on, for the HTTP request that the current task serves.

        The reader has left when that task ends: nothing less sees each phase of it (`apis.streaming`).
        """
        self._readers += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # views run in tasks
        task.add_done_callback(self._leave)
        slow = event({
            "code": "too_slow", "message": "this reader is too far behind: what it lacks is no longer kept",
            "parameter": None, "retry_after": None,
        }, "error")
        return self.buffer.follow(number, self._limits.interval, comment("waiting"), slow)

    def _leave(self, _: object) -> None:
        self._readers -= 1
        if self._readers == 0 and not self.ended:
            self._leaving = asyncio.get_running_loop().call_later(self._limits.grace, self._abandon)

    def _abandon(self) -> None:
        if self._readers == 0:
            stopping = asyncio.ensure_future(self.stop(by_client=False))
            _STOPPING.add(stopping)
            stopping.add_done_callback(_STOPPING.discard)

    async def _read(self, source: _Source, begun: Sequence[Delta]) -> None:
        stream = source.stream
        kept: Message | None = None
        try:
            deltas = begun or await self._begin(source)
            while deltas:
                events = source.events.add(deltas)
                finish = stream.finish
                if finish is not None:
                    events += source.events.end(finish)
                    kept = source.events.message
                self.buffer.put(events)
                if finish is not None:
                    if stream.unenforced:
                        await log_unkept([stream])
                    return
                deltas = await stream.take()
            kept = self._partial(source.events.message)
            raise RequestCancelled("the answer was stopped" if self._stopped else "all readers of the answer left")  # noqa: TRY301  # as any other end
        except Exception as error:  # noqa: BLE001  # nobody waits for this task: its events tell what happened
            self.buffer.put(source.events.fault(explain(error)))
        finally:
            source.settle(kept)
            self.buffer.end()
            self._source = None
            await stream.aclose()

    def _partial(self, message: Message) -> Message | None:
        """Return the answer to a client that stopped it, unless it has said nothing."""
        return message if self._stopped and (message.content or message.tool_calls) else None

    async def _begin(self, source: _Source) -> Sequence[Delta]:
        """Return the first deltas; until they come, tell what they wait for."""
        while not await source.stream.wait(self._limits.look):
            self.buffer.put(source.events.waits(source.waits()))
        return await source.stream.take()


_STOPPING: set[asyncio.Future[None]] = set()  # the event loop holds tasks only weakly


class RunningChats:
    """All of them, by id: those that are being written, and some that have ended."""

    def __init__(self, limits: ChatLimits) -> None:
        self._limits = limits
        self._chats: dict[str, RunningChat] = {}

    def add(self, chat: RunningChat) -> None:
        """Add one that was started."""
        self._chats[chat.id] = chat
        chat.when_ended(lambda: self._ended(chat.id))

    def get(self, chat_id: str) -> RunningChat | None:
        """Return one, if it is here."""
        return self._chats.get(chat_id)

    def _ended(self, chat_id: str) -> None:
        chat = self._chats.pop(chat_id)
        self._chats[chat_id] = chat  # now among those that have ended, in order
        asyncio.get_running_loop().call_later(self._limits.kept, self._chats.pop, chat_id, None)
        ended = [one for one in self._chats.values() if one.ended]
        size = sum(one.buffer.size for one in ended)
        while ended and (len(ended) > self._limits.most_ended or size > self._limits.most_ended_bytes):
            oldest = ended.pop(0)
            size -= oldest.buffer.size
            del self._chats[oldest.id]
