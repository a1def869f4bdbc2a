"""Hostile HTTP/2: frames that are out of order or lie, and floods of frames."""

import json
from collections.abc import Callable, Iterator, Sequence

from frames_for_tests import Frames, bare, fields, header_frames
from hostile_for_tests import BOT, CHAT, REFUSED, Input, body
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from lines_for_tests import SECRET, Address, Answer

GOOD = json.dumps(body(CHAT, BOT)).encode()
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5
WIRE = {200, *REFUSED, 501, 505}

Sent = Frame | bytes


def inputs() -> Iterator[Input]:
    """All hostile uses of HTTP/2."""
    yield from rights()
    yield from floods()
    yield from lies()
    yield from heads()


def plays(play: Callable[[Frames], Sequence[Answer] | None], **fields: object) -> Callable[[Address], Sequence[Answer]]:
    """An action on one connection."""

    def act(address: Address) -> Sequence[Answer]:
        with Frames(address, **fields) as frames:
            return play(frames) or []

    return act


def sent(*what: Sent, **fields: object) -> Callable[[Address], Sequence[Answer]]:
    """Send these frames and then a proper request, which is answered unless the connection is closed."""

    def play(frames: Frames) -> Sequence[Answer]:
        frames.send(SettingsFrame(), *what)
        return frames.send(*frames.ask(101, GOOD)).answers(101)

    return plays(play, **fields)


# Held: proper requests.
def rights() -> Iterator[Input]:
    """Valid requests, which show that the others fail because of their faults."""
    def asked(frames: Frames) -> Sequence[Answer]:
        return frames.send(SettingsFrame(), *frames.ask(1, GOOD)).answers(1)

    def many(frames: Frames) -> Sequence[Answer]:
        streams = range(1, 41, 2)
        return frames.send(SettingsFrame(), *(one for at in streams for one in frames.ask(at, GOOD))).answers(*streams)

    def wrong(frames: Frames) -> Sequence[Answer]:
        return frames.send(SettingsFrame(), *frames.ask(1, b"{", CHAT)).answers(1)

    def websocket(frames: Frames) -> Sequence[Answer]:
        told = [(":method", "CONNECT"), (":protocol", "websocket"), (":path", CHAT), (":scheme", "http"),
                (":authority", "localhost"), ("sec-websocket-version", "13"), ("authorization", f"Bearer {SECRET}")]
        return frames.send(SettingsFrame(), HeadersFrame(1, frames.block(told), flags=["END_HEADERS"])).answers(1)

    yield Input("h2: a request", plays(asked), {200})
    yield Input("h2: twenty at once", plays(many), {200})
    yield Input("h2: no JSON", plays(wrong), {400})
    yield Input("h2: a WebSocket", plays(websocket), REFUSED, may_end=True)


# Held: h2's own limits.
def floods() -> Iterator[Input]:
    """Floods of frames that cost the client nothing."""
    many: dict[str, list[Sent]] = {
        "2,000 pings": [PingFrame(opaque_data=b"12345678")] * 2000, "5,000 settings": [SettingsFrame()] * 5000,
        "settings of 2,000 values": [SettingsFrame(settings=dict.fromkeys(range(100, 2100), 1))],
        "50,000 empty frames of data": [DataFrame(1, b"")] * 50_000, "10,000 priorities": [
            PriorityFrame(stream, depends_on=stream + 2, stream_weight=1) for stream in range(1, 20_001, 2)],
        "2,000 unknown frames": [bare(0xEE, 0xFF, 7, b"x" * 100)] * 2000,
        "10,000 updates": [WindowUpdateFrame(0, 1)] * 10_000,
        "10,000 resets of nothing": [RstStreamFrame(stream) for stream in range(1, 20_001, 2)],
    }
    for what, frames in many.items():
        yield Input(f"h2: {what}", sent(*frames), WIRE, may_end=True, heavy=True)

    def endless(frames: Frames) -> Sequence[Answer]:
        block = frames.block([*fields(), *((f"x-{number}", "y" * 50) for number in range(20_000))])
        return frames.send(SettingsFrame(), *header_frames(1, block, end=False)).answers(1)

    def bomb(frames: Frames) -> Sequence[Answer]:
        frames.send(SettingsFrame())
        name = b"\x40\x01x" + b"\x7f" + b"\x81\x1e" + b"y" * 4000  # one long field, which the HPACK table keeps
        return frames.send(*header_frames(1, frames.block(fields()) + name + b"\xbe" * 60_000)).answers(1)

    yield Input(
        "h2: headers that do not end", plays(lambda frames: leave_after(endless, frames)), may_end=True, heavy=True,
    )
    yield Input("h2: an HPACK bomb", plays(lambda frames: leave_after(bomb, frames)), REFUSED, may_end=True, heavy=True)


def leave_after(play: Callable[[Frames], Sequence[Answer]], frames: Frames) -> Sequence[Answer]:
    """Disconnect soon: a server may wait for the end of such headers until its own timeout."""
    frames.line.socket.settimeout(1)
    try:
        return play(frames)
    except TimeoutError:
        return []


# Held: connection errors.
def lies() -> Iterator[Input]:
    """Invalid frames."""
    wrong: dict[str, Sent | list[Sent]] = {
        "data on stream 0": bare(0, 0, 0, b"x"), "data on no stream": DataFrame(9, b"x"),
        "headers on stream 0": bare(1, 4, 0, b"\x82"),
        "an even stream": bare(1, 5, 2, b"\x82\x86\x84"),
        "a frame of 16 MB": bare(0, 0, 1, b"x" * 100, length=2**24 - 1),
        "a long frame": bare(0, 0, 1, b"x" * 20_000), "a ping of 7": bare(6, 0, 0, b"1234567"),
        "a ping on a stream": bare(6, 0, 1, b"12345678"),
        "settings on a stream": bare(4, 0, 1, b""), "settings of 5 bytes": bare(4, 0, 0, b"12345"),
        "an acknowledgement with values": bare(4, 1, 0, b"123456"),
        "a window of 2**31": SettingsFrame(settings={INITIAL_WINDOW_SIZE: 2**31}),
        "frames of 1 byte": SettingsFrame(settings={MAX_FRAME_SIZE: 1}),
        "frames of 2**32": SettingsFrame(settings={MAX_FRAME_SIZE: 2**32 - 1}),
        "push of 2": SettingsFrame(settings={2: 2}),
        "an update of 0": bare(8, 0, 0, b"\0\0\0\0"), "an update of 3 bytes": bare(8, 0, 0, b"\0\0\1"),
        "updates beyond 2**31": [WindowUpdateFrame(0, 2**31 - 1), WindowUpdateFrame(0, 2**31 - 1)],
        "a reset of stream 0": bare(3, 0, 0, b"\0\0\0\0"), "a reset of 3 bytes": bare(3, 0, 1, b"\0\0\0"),
        "a reset of no stream": RstStreamFrame(7),
        "a push": PushPromiseFrame(1, 2, b"\x82", flags=["END_HEADERS"]),
        "a continuation alone": bare(9, 4, 1, b"\x82"),
        "a dependency on itself": bare(2, 0, 1, b"\0\0\0\1\0"), "a priority of 3 bytes": bare(2, 0, 1, b"\0\0\0"),
        "an index that is none": bare(1, 5, 1, b"\xff\xff\xff\xff\x0f"), "cut HPACK": bare(1, 5, 1, b"\x40\x7f"),
        "a table of 2**30": bare(1, 5, 1, b"\x3f\xe1\xff\xff\xff\x03"),
        "padding above the frame": bare(0, 8, 1, b"\xff"),
        "padding of headers above the frame": bare(1, 0xD, 1, b"\xff\x82"),
        "headers in headers": [bare(1, 0, 1, b"\x82"), bare(1, 4, 3, b"\x82")],
        "all bits": bare(0xFF, 0xFF, 2**31 - 1, b"\xff" * 100),
        "a farewell": GoAwayFrame(last_stream_id=0),
        "a farewell with 10 KB": GoAwayFrame(additional_data=b"x" * 10_000),
        "half a frame": b"\0\0\x10\0", "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n",
    }
    for what, frames in wrong.items():
        yield Input(f"h2: {what}", briefly(*(frames if isinstance(frames, list) else [frames])), WIRE, may_end=True)

    def lying(length: int, data: bytes) -> Callable[[Frames], Sequence[Answer]]:
        def play(frames: Frames) -> Sequence[Answer]:
            block = frames.block(fields("POST", CHAT, length))
            head = HeadersFrame(1, block, flags=["END_HEADERS"])
            return frames.send(SettingsFrame(), head, DataFrame(1, data, flags=["END_STREAM"])).answers(1)
        return play

    yield Input("h2: a length above the body", plays(lying(10_000, GOOD)), REFUSED, may_end=True)
    yield Input("h2: a length below the body", plays(lying(3, GOOD)), REFUSED, may_end=True)
    yield Input("h2: a negative length", plays(lying(-1, GOOD)), WIRE, may_end=True)

    def after_the_end(frames: Frames) -> Sequence[Answer]:
        more = [DataFrame(1, b"x"), DataFrame(1, b"x", flags=["END_STREAM"])]
        return frames.send(SettingsFrame(), *frames.ask(1, GOOD), *more).answers(1)

    def backwards(frames: Frames) -> Sequence[Answer]:
        return frames.send(SettingsFrame(), *frames.ask(9, GOOD), *frames.ask(1, GOOD)).answers(9, 1)

    yield Input("h2: data after the end", plays(after_the_end), WIRE, may_end=True)
    yield Input("h2: streams backwards", plays(backwards), WIRE, may_end=True)


def briefly(*what: Sent) -> Callable[[Address], Sequence[Answer]]:
    """Like `sent`, but leave soon: half a frame swallows all that follows, and a server may wait for its end."""
    act = sent(*what, within=1.0)

    def short(address: Address) -> Sequence[Answer]:
        try:
            return act(address)
        except TimeoutError:
            return []

    return short


# Broke: :authority as Host.
def heads() -> Iterator[Input]:
    """Headers that HTTP/2 forbids, or the counterparts of hostile HTTP/1.1 headers."""
    good = fields("POST", CHAT, len(GOOD))
    names = (":method", ":path", ":scheme", ":authority", "content-type")
    without = {name: [one for one in good if one[0] != name] for name in names}
    shapes: dict[str, list[tuple[str, str]]] = {
        **{f"no {name}": told for name, told in without.items()}, "an upper-case name": [*good, ("X-Y", "z")],
        "an empty name": [*good, ("", "z")],
        "connection": [*good, ("connection", "close")],
        "transfer-encoding": [*good, ("transfer-encoding", "chunked")], "te": [*good, ("te", "gzip")],
        "an unknown pseudo-header": [(":x", "y"), *good],
        "a late pseudo-header": [*without[":path"], (":path", CHAT)], "a path twice": [(":path", "/"), *good],
        "an empty path": [*without[":path"][:1], (":path", ""), *without[":path"][1:]],
        "a path without /": [*without[":path"][:1], (":path", "v1"), *without[":path"][1:]],
        "a NUL": [*good, ("x", "a\0b")], "a line break": [*good, ("x", "a\r\nHost: evil")],
        "8 bit": [*good, ("x", "\xff")], "2,000 headers": [*good, *[("x", "y")] * 2000],
        "a header of 60 KB": [*good, ("x", "y" * 60_000)], "two lengths": [*good, ("content-length", "1")],
        "a Host beside it": [*good, ("host", "evil.example")],
        "a method of 1,000 letters": [(":method", "G" * 1000), *without[":method"]],
        "CONNECT": [(":method", "CONNECT"), *without[":method"]],
        "a scheme that is none": [(":scheme", "\0"), *without[":scheme"]],
    }
    for name in (
        "a..b", ".", "a" * 64, "", "evil.example", "a b", "\x01", "user@localhost", "[::1", "localhost:99999999",
        "\xff",
    ):
        shapes[f":authority {name[:20]!r}"] = [
            without[":authority"][0], (":authority", name), *without[":authority"][1:],
        ]

    for what, told in shapes.items():

        def play(frames: Frames, told: list[tuple[str, str]] = told) -> Sequence[Answer]:
            heads = header_frames(
                1, frames.block([(name.encode("latin-1"), value.encode("latin-1")) for name, value in told]),
            )
            heads[0].flags.discard("END_STREAM")
            return frames.send(SettingsFrame(), *heads, DataFrame(1, GOOD, flags=["END_STREAM"])).answers(1)

        yield Input(f"h2: {what}", plays(play), WIRE, may_end=True)
