"""Keeps sessions for the instances of all models: between the workers, which export them, and a store.

Nothing here delays a request for long: sessions wait in memory until they are stored, and a request whose session is
not found in time continues without it. A failing store costs a line in the log.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import TypeVar

from attrs import evolve

from lllms_core.pool.session_rules import (
    HEAD,
    SessionLimits,
    in_one_line,
    pack,
    superseded,
    unpack,
    victims,
)
from lllms_core.pool.state import NEVER
from lllms_core.sessions import SessionEntry, SessionStore, TokenChain, longest_prefix
from lllms_core.tracebacks import kind
from lllms_core.worker.wire import FindSession, FoundSession, PutSession

LOG = logging.getLogger("lllms.sessions")

T = TypeVar("T")

FIND_SECONDS = 2.0
"""The longest that a request waits for its session."""
LOG_SECONDS = 60.0
"""The shortest time between two log lines about the same trouble."""

MOST_SPACES = 1000
"""Each file, version or configuration of a model that the server has had is one."""
SWEEP_SECONDS = 600.0
"""Interval between sweeps for expired sessions."""


class _Line:
    """A thread that runs jobs one after the other; a daemon, because a hanging store cannot be ended."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy_since: float | None = None

    def run(self, job: Callable[[], None]) -> None:
        """Run the job when its turn comes; it must not raise."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    @property
    def stuck(self) -> bool:
        """Whether the running job has taken longer than any request waits."""
        since = self.busy_since
        return since is not None and time.monotonic() - since > FIND_SECONDS

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            self.busy_since = time.monotonic()
            job()
            del job  # a session may have hundreds of megabytes, and the next one may be long in coming
            self.busy_since = None


class SessionKeeper:
    """The sessions of one server. Use it from one event loop."""

    def __init__(self, store: SessionStore, limits: SessionLimits) -> None:
        self.store = store
        self.limits = limits
        self.room: int | None = None
        """Bytes of this process's memory that sessions may take now; None: no limit."""
        self._writing = _Line("lllms sessions put")
        self._reading = _Line("lllms sessions get")
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[SessionEntry, PutSession]] = {}
        """Sessions that are not stored yet, by id."""
        self._stored = 0
        """Bytes of the stored sessions, if these are in memory."""
        self._spaces: dict[str, None] = {}
        """The last spaces in which sessions have been looked up for the first time, up to `MOST_SPACES`."""
        self._told: dict[str, float] = {}
        self._tending: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Start to evict sessions that are expired or exceed the size limit: now, and from time to time."""
        async def tend() -> None:
            while True:
                self._writing.run(self._sweep)
                await asyncio.sleep(SWEEP_SECONDS)

        self._tending = asyncio.create_task(tend())

    @property
    def held(self) -> int:
        """The bytes of this process's memory that sessions take: stored there, or waiting to be stored."""
        with self._lock:
            return self._stored + sum(entry.size for entry, _ in self._waiting.values())

    async def shrink(self, size: int) -> bool:
        """Give up `size` bytes of sessions in memory, the least recently used first; return whether that was possible.

        Those that wait for a store on a disk are written.
        """
        target = self.held - size
        try:
            return await self._ask(self._writing, lambda: self._shrink(target), otherwise=False)
        except TimeoutError:
            return False

    def put(self, model: str, message: PutSession) -> None:
        """Have a session stored; returns at once."""
        size = HEAD.size + len(message.tokens) + len(message.state)
        held = self.held
        with self._lock:
            waiting = sum(entry.size for entry, _ in self._waiting.values())
            if self._closed or size > self.limits.max_size:
                return
            if waiting and waiting + size > self.limits.waiting:
                self._complain("put", "sessions come faster than they are stored, and some are lost")
                return
            if self.room is not None and size + (0 if self.store.in_memory else held) > self.room:
                self._complain("room", "the models leave no memory to sessions (server.memory_limit); some are lost")
                return
            tokens = TokenChain(memoryview(message.tokens).cast("i").tolist())
            entry = SessionEntry(
                token_hex(8), model, message.space, len(tokens), tokens.blocks, tokens.digest(len(tokens)), size,
                time.time(),
            )
            self._waiting[entry.id] = entry, message
        self._writing.run(lambda: self._store(entry, message, tokens))

    async def find(self, model: str, message: FindSession) -> FoundSession:
        """Return the session that saves an instance of this model most, or none; it answers within `FIND_SECONDS`."""
        nothing = FoundSession(message.request_id)
        if self._closed or self._reading.stuck:
            return nothing
        prompt = TokenChain(memoryview(message.tokens).cast("i").tolist())
        with suppress(TimeoutError):
            return await self._read(lambda: self._find(model, message, prompt), nothing)
        self._complain("find", f"store '{self.store.name}' takes too long; requests continue without their sessions")
        return nothing

    async def list(self) -> Sequence[SessionEntry]:
        """Return all sessions, the most recently used first. Raises `TimeoutError` if the store does not answer."""
        def entries() -> Sequence[SessionEntry]:
            with self._lock:
                waiting = {session_id: entry for session_id, (entry, _) in self._waiting.items()}
            stored = {entry.id: entry for entry in self.store.list() if not self._too_old(entry)}
            return sorted({**stored, **waiting}.values(), key=lambda entry: -entry.used)

        nothing: Sequence[SessionEntry] = ()
        return await self._read(entries, nothing)

    async def tokens(self, session_id: str) -> tuple[SessionEntry, bytes] | None:
        """Return a session's entry and its tokens, 4 bytes each; None if it is missing or damaged.

        Raises `TimeoutError` if the store does not answer.
        """
        def read() -> tuple[SessionEntry, bytes] | None:
            with self._lock:
                waiting = self._waiting.get(session_id)
            if waiting is not None:
                return waiting[0], waiting[1].tokens
            entry = next((one for one in self.store.list() if one.id == session_id), None)
            data = None if entry is None or self._too_old(entry) else self.store.get(session_id)
            return None if entry is None or data is None else (entry, unpack(data)[0])

        return await self._read(read, otherwise=None)

    async def delete(self, session_id: str) -> bool:
        """Forget a session; return whether it existed. Raises `TimeoutError` if the store does not answer."""
        def forget() -> bool:
            with self._lock:
                waited = self._waiting.pop(session_id, None) is not None
            there = any(entry.id == session_id for entry in self.store.list())
            gone = there and self.store.delete(session_id)
            self._count()
            return gone or waited

        return await self._read(forget, otherwise=False)

    async def forget(self, line: bytes) -> Sequence[str]:
        """Forget all sessions that continue these tokens, 4 bytes each, or are a prefix of them.

        Returns their ids. Raises `TimeoutError` if the store does not answer.
        """
        def forget() -> Sequence[str]:
            tokens = TokenChain(memoryview(line).cast("i").tolist())
            with self._lock:
                waited = [key for key, (_, one) in self._waiting.items() if in_one_line(one.tokens, line)]
                for key in waited:
                    del self._waiting[key]
            related = [entry for entry in self.store.list() if self._is_related(entry, tokens, line)]
            gone = [*waited, *(entry.id for entry in related if self.store.delete(entry.id))]
            self._count()
            return gone

        nothing: Sequence[str] = ()
        return await self._read(forget, nothing)

    async def close(self, seconds: float) -> None:
        """Store the waiting sessions, for at most this many seconds, and close the store."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            try:
                self.store.close()
            except Exception:
                LOG.exception("could not close the session store '%s'", self.store.name)
            with suppress(RuntimeError):  # the loop does not wait for a store that hangs
                loop.call_soon_threadsafe(done.set)

        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._tending is not None:
            self._tending.cancel()
        self._writing.run(end)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await done.wait()

    # -- in the threads -----------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        try:
            for session_id in victims(self.store.list(), 0, self._limits, time.time()):
                self.store.delete(session_id)
            self._count()
        except Exception as error:  # noqa: BLE001  # as in _store
            self._complain("sweep", f"could not evict sessions from store '{self.store.name}': {kind(error)}")

    @property
    def _limits(self) -> SessionLimits:
        """The limits, with what the models leave to sessions."""
        if self.room is None or not self.store.in_memory:
            return self.limits
        return evolve(self.limits, max_size=min(self.limits.max_size, self.room))

    def _count(self) -> None:
        """Count the stored sessions again, after some were put or deleted."""
        if self.store.in_memory:
            self._stored = self.store.size()

    def _shrink(self, target: int) -> bool:
        """Delete sessions until they take no more than `target` bytes of memory."""
        if self.store.in_memory:
            for entry in sorted(self.store.list(), key=lambda entry: entry.used):
                if self.held <= target:
                    break
                self.store.delete(entry.id)
                self._count()
        return self.held <= target

    def _store(self, entry: SessionEntry, message: PutSession, tokens: TokenChain) -> None:
        try:
            with self._lock:
                if entry.id not in self._waiting:
                    return  # deleted meanwhile
            entries = self.store.list()
            useless = set(superseded(entries, entry.space, tokens, whole=message.whole))
            rest = [one for one in entries if one.id not in useless]
            for session_id in [*useless, *victims(rest, entry.size, self._limits, time.time())]:
                self.store.delete(session_id)
            self.store.put(entry, pack(message.tokens, message.state))
        except Exception as error:  # noqa: BLE001  # a store may raise anything, and a lost session is a miss
            self._complain("put", f"store '{self.store.name}' cannot keep a session: {kind(error)}")
        finally:
            with self._lock:
                deleted = self._waiting.pop(entry.id, None) is None
            with suppress(Exception):
                if deleted:
                    self.store.delete(entry.id)
                self._count()

    def _find(self, model: str, message: FindSession, prompt: TokenChain) -> FoundSession:
        nothing = FoundSession(message.request_id)
        if message.space not in self._spaces:
            self._spaces[message.space] = None
            if len(self._spaces) > MOST_SPACES:
                del self._spaces[next(iter(self._spaces))]
            self._tell_of_others(model, message.space)
        with self._lock:
            waiting = dict(self._waiting)
        best = longest_prefix([one for one, _ in waiting.values()], message.space, prompt, whole=message.whole)
        stored = self.store.find(message.space, prompt, whole=message.whole)
        if stored is not None and (best is None or prompt.shared(stored) > prompt.shared(best)):
            best = stored
        if best is None or self._too_old(best) or prompt.shared(best) - message.known < self.limits.min_tokens:
            return nothing
        if best.id in waiting:
            tokens, state = waiting[best.id][1].tokens, memoryview(waiting[best.id][1].state)
        else:
            data = self.store.get(best.id)
            if data is None:
                return nothing
            tokens, state = unpack(data)
        return FoundSession(message.request_id, tokens, state)

    def _is_related(self, entry: SessionEntry, tokens: TokenChain, line: bytes) -> bool:
        """Whether a stored session continues these tokens, or they continue it."""
        if tokens.continues(entry):
            return True
        if entry.tokens <= len(tokens) or entry.chain[: len(tokens.blocks)] != tokens.blocks:
            return False
        data = self.store.get(entry.id)  # only the tokens themselves show the last, incomplete block
        return data is not None and unpack(data)[0].startswith(line)

    def _tell_of_others(self, model: str, space: str) -> None:
        """Log once why the sessions of another file, version or configuration of a model are not used."""
        others = sum(1 for entry in self.store.list() if entry.model == model and entry.space != space)
        if others:
            LOG.warning(
                "%d stored sessions of model '%s' belong to another file, version or configuration of it, and are not "
                "used", others, model,
            )

    def _too_old(self, entry: SessionEntry) -> bool:
        return self.limits.ttl != NEVER and entry.used + self.limits.ttl <= time.time()

    async def _read(self, job: Callable[[], T], otherwise: T) -> T:
        """Run a job in the reading thread, see `_ask`."""
        return await self._ask(self._reading, job, otherwise)

    async def _ask(self, line: _Line, job: Callable[[], T], otherwise: T) -> T:
        """Run a job in one of the threads; if the store fails, log that and return `otherwise`.

        Raises `TimeoutError`.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def give(result: T) -> None:
            if not answer.done():
                answer.set_result(result)

        def work() -> None:
            result = otherwise
            try:
                if not answer.done():
                    result = job()
            except Exception as error:  # noqa: BLE001  # as in _store
                self._complain("get", f"store '{self.store.name}' failed: {kind(error)}")
            with suppress(RuntimeError):  # the loop may be gone
                loop.call_soon_threadsafe(give, result)

        line.run(work)
        async with asyncio.timeout(FIND_SECONDS):
            return await answer

    def _complain(self, about: str, text: str) -> None:
        now = time.monotonic()
        if self._told.get(about, -LOG_SECONDS) + LOG_SECONDS <= now:
            self._told[about] = now
            LOG.warning("%s", text)
