"""Compressed bodies: decoded within the limits, over real connections."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio
from clients_for_tests import Http2, connect, head, read_until
from quart import Quart
from serving_for_tests import published
from waits_for_tests import until

from lllms_core.app import mount
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.web import body, body_memory
from lllms_core.web.body import PatientBody
from lllms_core.web.codings import Inflater

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

PATH = "/v1/chat/completions"
CHAT = {"model": "mock", "messages": [{"role": "user", "content": "Hi"}], "user": "x" * 5_000}
TEXT = json.dumps(CHAT).encode()
LIMIT = 100_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


GZIPPED = gzip.compress(TEXT, mtime=0)  # the time would be a part of it
PACKED = {"gzip": GZIPPED, "x-gzip": GZIPPED, "GZIP": GZIPPED,
          "deflate": zlib.compress(TEXT), "Deflate, identity": raw_deflate(TEXT), "identity": TEXT, "": TEXT}


def bomb(size: int) -> bytes:
    """A small body that is large when decompressed."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(b" " * 2**20) for _ in range(size // 2**20)) + packer.flush()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    async with Host(parse_config({"server": {"max_body": LIMIT}})) as host, published(host) as url:
        yield url


async def answer_of(url: str, coding: str, data: bytes, framing: str = "") -> tuple[int, bytes]:
    """The status and the full answer to a chat with this body."""
    with connect(url) as client:
        framing = framing or f"Content-Length: {len(data)}"
        headers = ("Content-Type: application/json", f"Content-Encoding: {coding}", framing, "Connection: close")
        client.sendall(head("POST", PATH, *headers) + data)
        answer = await read_until(client, b"\0")
    return int(answer.split(b" ", 2)[1]), answer


def fault(answer: bytes) -> dict[str, str]:
    """The error of an answer."""
    found: dict[str, str] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return found


@pytest.mark.parametrize("coding", PACKED)
async def test_compressed_bodies_are_read(url: str, coding: str) -> None:
    """A body in gzip or deflate, with or without zlib's header, is answered like an uncompressed one."""
    status, answer = await answer_of(url, coding, PACKED[coding])
    assert status == 200, answer
    assert b'"finish_reason":"stop"' in answer


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_they_may_come_in_any_pieces(url: str, coding: str) -> None:
    """A body is decoded however it is split on its way, here byte by byte, in chunks."""
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in PACKED[coding]) + b"0\r\n\r\n"
    status, _ = await answer_of(url, coding, chunks, "Transfer-Encoding: chunked")
    assert status == 200


async def test_they_are_read_over_http2(url: str) -> None:
    """An HTTP/2 stream may have a compressed body, too."""
    http2 = Http2()
    stream = http2.h2.get_next_available_stream_id()
    http2.h2.send_headers(stream, [
        (":method", "POST"), (":path", PATH), (":scheme", "http"), (":authority", "localhost"),
        ("content-type", "application/json"), ("content-encoding", "gzip"),
    ])
    http2.h2.send_data(stream, PACKED["gzip"], end_stream=True)
    with connect(url) as client:
        client.sendall(http2.bytes)
        await read_until(client, b'"finish_reason":"stop"')


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x" * 4_000, "compress"])
async def test_other_codings_are_refused_by_name(url: str, coding: str) -> None:
    """They are a 415, which names the accepted ones, in its text and in `Accept-Encoding`."""
    status, answer = await answer_of(url, coding, b"\x1b\x02\x80")
    assert status == 415
    assert "compressed with one of gzip, deflate" in fault(answer)["message"]
    assert coding[:20] in fault(answer)["message"]
    assert b"\r\naccept-encoding: gzip, deflate\r\n" in answer.lower()


@pytest.mark.parametrize(
    ("data", "reason"),
    [(TEXT, "incorrect header check"), (PACKED["gzip"][:-9], "it ends too early"), (b"\x1f", "it ends too early"),
     (PACKED["gzip"] + b"x", "there are bytes after its end"), (PACKED["gzip"] * 2, "there are bytes after its end"),
     (PACKED["gzip"][:-8] + bytes(8), "incorrect data check")],
    ids=["not packed", "cut", "one byte", "a byte more", "two members", "another sum"],
)
async def test_what_cannot_be_decoded_is_told(url: str, data: bytes, reason: str) -> None:
    """Data that is not gzip, or not one whole stream of it, is a 400 that says what is wrong with it."""
    status, answer = await answer_of(url, "gzip", data)
    assert (status, fault(answer)["code"]) == (400, "invalid_encoding")
    assert reason in fault(answer)["message"]


@pytest.mark.parametrize(
    "sent", [PACKED["gzip"][:-1], PACKED["gzip"][:12], bomb(2**20)[:40]], ids=["the end", "the start", "a bomb"],
)
async def test_one_that_stops_is_told_so(url: str, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops in the middle of a compressed body gets a 408 like any other, not an error about its data."""
    monkeypatch.setattr(body, "SILENCE_SECONDS", 0.2)
    status, answer = await answer_of(url, "gzip", sent, f"Content-Length: {len(sent) + 1}")
    assert (status, fault(answer)["code"]) == (408, "request_timeout")


async def test_an_empty_body_is_none_of_any_coding(url: str) -> None:
    """A header without a body is answered like any missing body."""
    status, answer = await answer_of(url, "gzip", b"")
    assert (status, fault(answer)["code"]) == (400, "invalid_json")


async def test_the_limit_counts_decoded_bytes(url: str) -> None:
    """A body of the allowed size is read; one byte more is a 413, as is a small one that grows a thousandfold."""
    fits = json.dumps({**CHAT, "user": ""}).encode()
    fits += b" " * (LIMIT - len(fits))
    assert (await answer_of(url, "gzip", gzip.compress(fits)))[0] == 200
    for data in (gzip.compress(fits + b" "), bomb(64 * 2**20)):
        status, answer = await answer_of(url, "gzip", data)
        assert status == 413
        assert f"larger than {LIMIT} bytes" in fault(answer)["message"]


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yield a list that receives the peak of allocated bytes at the end."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


async def test_a_bomb_takes_no_more_than_the_limit() -> None:
    """However large a body would get, no more than the limit is ever decoded, kept or counted as held."""
    data = bomb(64 * 2**20)
    received = PatientBody(None, 2**20)
    received.inflater = Inflater("gzip")
    before = body_memory.BodyMemory.total
    with peak_memory() as peak:
        for at in range(0, len(data), 2**16):
            received.append(data[at : at + 2**16])
            assert body_memory.BodyMemory.total - before <= 2**20
        received.set_complete()
        with pytest.raises(Exception, match="413"):
            await received
    assert peak[0] < 3 * 2**20
    assert body_memory.BodyMemory.total == before


async def test_decoded_bytes_are_held(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of all requests is counted decoded: a small body that grows beyond that bound is a 503."""
    monkeypatch.setattr(body, "MOST", 60_000)
    monkeypatch.setattr(body_memory, "MOST", 60_000)
    status, answer = await answer_of(url, "gzip", gzip.compress(b" " * 60_001))
    assert (status, fault(answer)["code"]) == (503, "overloaded")
    assert (await answer_of(url, "gzip", PACKED["gzip"]))[0] == 200
    await until(lambda: body_memory.BodyMemory.total == 0)


async def test_others_get_their_turns() -> None:
    """A large body is decoded in slices, between which the event loop does other work."""
    received = PatientBody(None, 2**30)
    received.inflater = Inflater("gzip")
    received.append(bomb(32 * 2**20))
    received.set_complete()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    assert len(await received) == 32 * 2**20
    counting.cancel()
    received.held.release()
    assert turns >= 32 * 2**20 // body.SLICE - 2


async def test_an_application_that_decodes_nothing_says_so() -> None:
    """Mounted into a foreign application, whose bodies are not decoded, a compressed body is a 415."""
    app = Quart("mine")
    async with Host() as host:
        mount(app, host)
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        answer = await app.test_client().post(PATH, data=PACKED["gzip"], headers=headers)
        assert answer.status_code == 415
        assert "send the body as it is" in (await answer.get_json())["error"]["message"]
