"""Parts of an answer that are written to the connection in the callback in which they arrive."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import pytest
from clients_for_tests import Http2, connect, post, read, read_until
from gates_for_tests import Gate, gated
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.builtin.openai.shapes import Events
from lllms_core.errors import EngineFailed
from lllms_core.host import Host
from lllms_core.types import Delta
from lllms_core.web.connection import Connection
from lllms_core.web.http1_body import Http1Body

pytestmark = pytest.mark.slow

PATH = "/v1/chat/completions"
CHAT = {"model": "gate", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture
def gate() -> Gate:
    gate = Gate()
    gate.load.set()
    return gate


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is written directly, piece by piece."""
    pieces: list[bytes] = []
    write = Http1Body.write

    def noted(self: Http1Body, data: bytes) -> None:
        assert cast(Connection, self._line).transport.get_write_buffer_size() == 0
        pieces.append(data)
        write(self, data)

    monkeypatch.setattr(Http1Body, "write", noted)
    return pieces


@asynccontextmanager
async def serving(gate: Gate) -> AsyncIterator[tuple[Host, str]]:
    async with gated(gate) as host, published(host) as url:
        yield host, url


def contents(answer: bytes) -> str:
    """The text of a streamed chat, in whatever chunks."""
    events = [json.loads(line[6:].split(b"\n")[0]) for line in answer.split(b"\n\n") if line[:7] == b"data: {"]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in events if "choices" in one)


def dechunked(answer: bytes) -> bytes:
    """The body of an answer with the chunked encoding, which must be complete."""
    at, chunks = answer.index(b"\r\n\r\n") + 4, list[bytes]()
    while True:
        start = answer.index(b"\r\n", at) + 2
        length = int(answer[at:start], 16)
        if not length:
            assert answer[start:] == b"\r\n"
            return b"".join(chunks)
        chunks.append(answer[start : start + length])
        at = start + length + 2


async def test_what_follows_the_first_piece_is_written_directly(gate: Gate, written: list[bytes]) -> None:
    """The client gets the same answer in the same framing, and its connection serves the next request."""
    async with serving(gate) as (host, url):
        with connect(url) as client:
            for _ in range(2):
                written.clear()
                gate.pieces.put("one")
                client.setblocking(True)
                client.sendall(post(PATH, CHAT))
                answer = await read_until(client, b'"one"')
                for piece in (" two", " three"):
                    gate.pieces.put(piece)
                    answer += await read_until(client, b'"%s"' % piece.encode())
                gate.pieces.put(None)
                answer += await read_until(client, b"[DONE]\n\n\r\n0\r\n\r\n")
                assert contents(dechunked(answer)) == "one two three"
                assert [contents(piece) for piece in written] == [" two", " three"]
                await until(lambda: not host.status().running)


async def test_an_old_client_gets_the_body_as_it_is(gate: Gate, written: list[bytes]) -> None:
    """Over HTTP/1.0 there are no chunks, and the end of the connection is the end of the answer."""
    async with serving(gate) as (_, url):
        with connect(url) as client:
            gate.pieces.put("one")
            client.sendall(post(PATH, CHAT).replace(b"HTTP/1.1", b"HTTP/1.0"))
            answer = await read_until(client, b'"one"')
            gate.pieces.put(" two")
            answer += await read_until(client, b'" two"')
            gate.pieces.put(None)
            answer += await read(client)
    assert len(written) == 1
    body = answer.split(b"\r\n\r\n", 1)[1]
    assert body.startswith(b"data: ")
    assert body.endswith(b"data: [DONE]\n\n")
    assert contents(body) == "one two"


async def test_http2_has_no_direct_way(gate: Gate, written: list[bytes]) -> None:
    """Over HTTP/2 all pieces pass through the flow control of their stream."""
    async with serving(gate) as (_, url):
        http2 = Http2()
        http2.post(PATH, CHAT)
        with connect(url) as client:
            gate.pieces.put("one")
            client.sendall(http2.bytes)
            await read_until(client, b'"one"')
            gate.pieces.put(" two")
            await read_until(client, b'" two"')
            gate.pieces.put(None)
            await read_until(client, b"[DONE]")
    assert not written


async def test_a_client_that_leaves_between_two_pieces_is_noticed(gate: Gate, written: list[bytes]) -> None:
    """Its request ends, and the model stops writing, though no task has written the last pieces."""
    async with serving(gate) as (host, url):
        with connect(url) as client:
            gate.pieces.put("one")
            client.sendall(post(PATH, CHAT))
            await read_until(client, b'"one"')
            gate.pieces.put(" two")
            await read_until(client, b'" two"')
            assert written
            assert gate.answering == 1
        await until(lambda: not host.status().running)
        await until(lambda: not gate.answering)


async def test_a_piece_that_cannot_be_encoded_ends_its_own_answer(
    gate: Gate, written: list[bytes], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its client is told, its request ends, and the answer to another client goes on."""
    encode = Events.delta

    def breaking(self: Events, delta: Delta) -> bytes:
        if delta.text == "bad":
            raise EngineFailed("no words")
        return encode(self, delta)

    monkeypatch.setattr(Events, "delta", breaking)
    async with serving(gate) as (host, url):
        with connect(url) as client, connect(url) as other:
            gate.pieces.put("one")
            client.sendall(post(PATH, CHAT))
            await read_until(client, b'"one"')
            gate.pieces.put("bad")
            assert b"no words" in await read_until(client, b"0\r\n\r\n")
            await until(lambda: not host.status().running)
            gate.pieces.put("one")
            other.sendall(post(PATH, CHAT))
            await read_until(other, b'"one"')
            gate.pieces.put(" two")
            gate.pieces.put(None)
            assert b'" two"' in await read_until(other, b"[DONE]")
    assert [contents(piece) for piece in written] in ([" two"], [])  # the end may have come in the same turn


async def test_a_client_that_does_not_read_is_waited_for(gate: Gate, written: list[bytes]) -> None:
    """While bytes wait for a client nothing is written past them; once it reads, it gets the answer as written."""
    words = ["one", " two", *(f" {number}{'x' * 1000}" for number in range(4000))]
    async with serving(gate) as (host, url):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", urlsplit(url).port))
            client.sendall(post(PATH, CHAT))
            gate.pieces.put(words[0])
            answer = await read_until(client, b'"one"')
            gate.pieces.put(words[1])
            answer += await read_until(client, b'" two"')
            assert [contents(piece) for piece in written] == [" two"]
            for word in words[2:]:
                gate.pieces.put(word)
            gate.pieces.put(None)
            await until(lambda: not host.status().running)  # all of it is written, and waits here
            reader, writer = await asyncio.open_connection(sock=client, limit=1 << 24)
            async with asyncio.timeout(GUARD):
                answer += await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.close()
    assert contents(dechunked(answer)) == "".join(words)
