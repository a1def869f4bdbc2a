"""Fetch one file by HTTP: in parts, resumed where the last attempt stopped, over several connections, with retries."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping

import httpx
from attrs import define

from lllms_core.builtin.downloaders.connections import is_distrust, open_client, told
from lllms_core.builtin.downloaders.headers import if_range, read_extent, read_length, read_retry_after, read_version
from lllms_core.builtin.downloaders.retry_policy import RETRY_POLICY, RetryPolicy
from lllms_core.downloads import Part, shown
from lllms_core.errors import DownloadCancelled, InvalidSource, SourceUnavailable, WrongFile

SEGMENT = 64 * 2**20
"""Bytes per request."""
CONNECTIONS = 4
"""Segments of one file that are fetched at the same time."""
PROGRESS = 2**20
"""Bytes to receive after a failure before it no longer counts."""
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


@define(auto_exc=True, eq=False, slots=False)
class Refused(SourceUnavailable):
    """The server requires a login, or another one."""

    code: str = ""
    """The hub's code for the reason (X-Error-Code)."""

    __str__ = SourceUnavailable.__str__


class _Transient(Exception):  # only an error if it persists
    """A failure that the next attempt may not have."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Changed(Exception):  # only an error if it persists
    """The bytes on the disk belong to another version of the file, or the server does not serve parts of it."""


@define
class _Segment:
    """Bytes that one connection fetches: from `at`, which advances, up to `stop`."""

    at: int
    stop: int


def fetch(url: str, part: Part, headers: Mapping[str, str] | None = None, policy: RetryPolicy = RETRY_POLICY) -> None:
    """Fetch the missing bytes of the file at `url` into `part`; blocking. `headers` go to its host with every request.

    Raises `SourceUnavailable` when it gives up, `InvalidSource` if the file does not exist, `WrongFile` for a web page.
    """

    async def run() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio.run makes one

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the download is over
                loop.call_soon_threadsafe(task.cancel)

        part.on_cancel(cancel)
        await _Transfer(url, part, headers or {}, policy).run()

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        raise DownloadCancelled(f"the download of {shown(url)} was cancelled; the bytes received are kept") from None


class _Transfer:
    """The transfer of one file."""

    def __init__(self, url: str, part: Part, headers: Mapping[str, str], policy: RetryPolicy) -> None:
        self._url = url
        self._part = part
        self._headers = headers
        self._policy = policy
        self._queue: deque[_Segment] = deque()
        self._identity: tuple[int | None, str | None] | None = None
        """Size and version from the first response."""
        self._in_parts = True
        self._failures = 0
        self._changes = 0
        self._received = 0
        self._received_at_failure = 0
        self._best = 0

    async def run(self) -> None:
        async with open_client(self._url, self._headers, self._policy) as client:
            while self._part.missing:
                try:
                    await self._round(client)
                    if not self._in_parts:
                        return  # the whole file came at once, possibly without a known size
                except _Transient as error:
                    await self._pause(error)
                except _Changed as error:
                    self._changes += 1
                    if self._changes > self._policy.attempts:
                        raise SourceUnavailable(
                            f"{shown(self._url)} is a different file each time ({error}); try again later",
                        ) from None

    async def _round(self, client: httpx.AsyncClient) -> None:
        """Fetch all missing bytes. The first response shows whether the server serves parts of the file."""
        self._queue.clear()
        self._identity = None
        start, stop = self._part.missing[0]
        first = _Segment(start, min(stop, start + SEGMENT))
        others: list[asyncio.Task[None]] = []
        try:
            async with self._ask(client, first) as response:
                self._begin(response, first)
                self._plan(first)
                more = min(CONNECTIONS - 1, len(self._queue))
                others = [asyncio.create_task(self._work(client)) for _ in range(more)]
                await self._receive(response, first)
            others.append(asyncio.create_task(self._work(client)))
            done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _work(self, client: httpx.AsyncClient) -> None:
        """Fetch segments until none are left."""
        while self._queue:
            segment = self._queue.popleft()
            while segment.at < segment.stop:
                try:
                    async with self._ask(client, segment) as response:
                        self._begin(response, segment)
                        await self._receive(response, segment)
                except _Transient as error:
                    await self._pause(error)

    def _plan(self, first: _Segment) -> None:
        """Queue all missing bytes except those that `first` fetches."""
        if not self._in_parts:
            return
        for start, stop in self._part.missing:
            at = max(start, first.stop) if start <= first.at < stop else start
            while at < stop:
                self._queue.append(_Segment(at, min(at + SEGMENT, stop)))
                at += SEGMENT

    # -- one response -------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _ask(self, client: httpx.AsyncClient, segment: _Segment) -> AsyncIterator[httpx.Response]:
        """Request a segment; connection errors, also while the response is read, become `_Transient`."""
        headers = {}
        if self._in_parts:
            headers["Range"] = f"bytes={segment.at}-{segment.stop - 1}"
            if self._part.version is not None and segment.at > 0:
                headers |= if_range(self._part.version)
        try:
            async with client.stream("GET", self._url, headers=headers) as response:
                yield response
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise SourceUnavailable(f"could not follow {shown(self._url)}: {error}") from error
        except httpx.TimeoutException as error:
            seconds = self._policy.connect if isinstance(error, httpx.ConnectTimeout) else self._policy.stall
            raise _Transient(f"nothing received for {seconds:g} s") from error
        except httpx.TransportError as error:
            if is_distrust(error):
                raise SourceUnavailable(f"{shown(self._url)}: {error}; is the address right, and the clock?") from error
            raise _Transient(told(error, self._url)) from error

    def _begin(self, response: httpx.Response, segment: _Segment) -> None:
        """Read the head of a response, begin the part, and move the segment to the start of the response."""
        self._check_status(response)
        self._check_place(response)
        version = read_version(response.headers)
        if response.status_code == 206:
            extent = read_extent(response.headers.get("Content-Range", ""))
            if extent is None:
                self._in_parts = False
                raise _Changed("its server sends parts without saying which")
            if extent.start != segment.at:
                raise _Changed(f"byte {segment.at} was requested, but byte {extent.start} received")
            if version is None and not self._part.hash_known and extent.stop - extent.start < extent.size:
                self._in_parts = False
                raise _Changed("its server sends no version, so parts may be of different files")
            self._same((extent.size, version))
            self._part.begin(extent.size, version)
            segment.stop = min(segment.stop, extent.stop)
            return
        if self._identity is not None:
            raise _Changed("it changed while it was fetched")
        size = read_length(response.headers)
        if size is None and not self._end_is_told(response):
            raise SourceUnavailable(
                f"{shown(self._url)}: its server does not send the file's length, so a truncated file would go"
                " unnoticed: give its sha256",
            )
        self._in_parts = False
        self._part.begin(size, version, whole=True)
        segment.at, segment.stop = 0, -1 if size is None else size

    def _end_is_told(self, response: httpx.Response) -> bool:
        """Whether truncation of a body without a length is noticed: by the protocol, its hash or its header."""
        framed = response.http_version == "HTTP/2" or "Transfer-Encoding" in response.headers
        return framed or self._part.hash_known or response.request.url.path.lower().endswith(".gguf")

    def _same(self, identity: tuple[int | None, str | None]) -> None:
        if self._identity not in (None, identity):
            raise _Changed("it changed while it was fetched")
        self._identity = identity

    async def _receive(self, response: httpx.Response, segment: _Segment) -> None:
        """Write the body of a response. Raises `_Transient` if it is too short."""
        async for data in response.aiter_raw():
            if segment.stop >= 0:
                data = data[: segment.stop - segment.at]  # noqa: PLW2901  # drop bytes that were not requested
            self._part.write(segment.at, data)
            segment.at += len(data)
            self._received += len(data)
            if segment.at == segment.stop:
                return
        if segment.at < segment.stop:
            raise _Transient(f"the response ended {segment.stop - segment.at} bytes early")

    def _check_status(self, response: httpx.Response) -> None:
        status, where = response.status_code, shown(self._url)
        if status in (200, 206):
            return
        if status == 416:
            self._in_parts = False  # the file is empty, or shorter than the bytes on the disk
            raise _Changed("it does not have the bytes that are missing")
        if status in TRANSIENT:
            wait = read_retry_after(response.headers.get("Retry-After"))
            if wait is not None and wait > self._policy.longest_wait:
                raise SourceUnavailable(f"{where}: the server asks to retry in {wait:.0f} s", int(wait) + 1)
            raise _Transient(f"the server answers {status} {response.reason_phrase}", wait)
        said = f"the server answers {status} {response.reason_phrase}"
        if status in (401, 403):
            code = response.headers.get("X-Error-Code", "")
            raise Refused(f"{where}: {said}; it needs a login, or the link has expired", code=code)
        if status in (404, 410):
            raise InvalidSource(f"{where}: {said}; there is no such file, so check the address")
        raise SourceUnavailable(f"{where}: {said}")

    def _check_place(self, response: httpx.Response) -> None:
        where = shown(self._url)
        if self._url.lower().startswith("https:") and response.url.scheme != "https":
            raise SourceUnavailable(f"{where} redirects to {shown(str(response.url))}, which is not protected (https)")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise SourceUnavailable(f"{where}: the server compresses the file ('{encoding}') although asked not to")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise WrongFile(
                f"{where} gives a web page, not a model: is the address right (it must be the one of the file itself),"
                " and does it need a login?",
            )

    # -- retries ------------------------------------------------------------------------------------------------------

    async def _pause(self, error: _Transient) -> None:
        """Wait before the next attempt. Raises `SourceUnavailable` after too many failures."""
        missing = self._part.missing
        reached = missing[0][0] if missing else self._best  # fetching the same bytes again is no progress
        gained = self._received - self._received_at_failure if self._in_parts else reached - self._best
        self._received_at_failure, self._best = self._received, max(self._best, reached)
        self._failures = 1 if gained >= PROGRESS else self._failures + 1
        limit = self._policy.attempts if self._received else self._policy.first_attempts
        if self._failures >= limit:
            raise SourceUnavailable(
                f"{shown(self._url)}: {error} ({self._failures} times in a row); the bytes received are kept,"
                " try again",
            ) from error
        pause = min(self._policy.pause * 2 ** (self._failures - 1), self._policy.longest_pause)
        await asyncio.sleep(error.wait if error.wait is not None else pause * random.uniform(0.75, 1.25))  # noqa: S311  # no secret
