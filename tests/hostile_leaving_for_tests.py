"""Clients that leave, at every moment and in every way, over HTTP/1.1 and HTTP/2: all work for them must stop.

Broke: requests of clients that left while the body was read, or before the handler ran, ran to the end; requests that
were reset in their own packet filled the queue. Held: clients that leave in the middle of a stream.
"""

from collections.abc import Callable, Iterator, Sequence

from frames_for_tests import PREFACE, Frames
from hostile_for_tests import CHAT, NATIVE, SLOW, TEXT, TINY, Input, with_value
from hostile_frames_for_tests import INITIAL_WINDOW_SIZE, plays
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame
from lines_for_tests import Address, Answer, Line, head

LONG = {SLOW: b"50000", TINY: b"400"}
"""Tokens of an answer whose end no client waits for."""
ENDS: dict[str, Callable[[Line], None]] = {
    "FIN": lambda line: line.socket.close(), "RST": Line.reset, "half-close": Line.half_close,
}
Play = Callable[[Frames], None]


def inputs() -> Iterator[Input]:
    """All leaving clients."""
    for model, path in ((SLOW, CHAT), (SLOW, TEXT), (TINY, CHAT)):
        for stream in ("false", "true"):
            yield from one_request(model, path, stream)
    yield from resumable()
    large = with_value(TEXT, SLOW, "prompt", b'"%s"' % (b"a" * 2_000_000))
    whole = head("POST", TEXT, length=len(large))
    yield Input("30 leave in large bodies", crowd(whole + large[:1_000_000], 30), may_end=True, heavy=True)
    yield Input("leaves with a large body", leaves(whole + large), may_end=True, heavy=True)
    page = head("GET", "/api/v1/status/events", kind=None)
    for how, end in ENDS.items():
        yield Input(f"leaves the events of the page by {how}", leaves(page, end=end, events=2), may_end=True)
    yield Input("100 leave the events of the page", crowd(page, 100), may_end=True)
    yield Input("100 connect and leave", crowd(b"", 100), may_end=True)
    for preface in (PREFACE, PREFACE[:12], PREFACE * 2, PREFACE + b"GET / HTTP/1.1\r\n\r\n", PREFACE + b"\0" * 1000):
        for how, end in ENDS.items():
            yield Input(f"leaves by {how} after {preface[20:40]!r}", leaves(preface, end=end), may_end=True)
    for model in (SLOW, TINY):
        yield from resets(model, with_value(CHAT, model, "max_tokens", LONG[model])[:-1] + b',"stream":true}')


def one_request(model: str, path: str, stream: str) -> Iterator[Input]:
    """Clients that leave in each phase of a request, alone and in a crowd."""
    long = with_value(path, model, "max_tokens", LONG[model])[:-1] + b',"stream":%s}' % stream.encode()
    whole = head("POST", path, length=len(long))
    of = f"{model} {path} stream {stream}"
    phases = {
        "in the first line": [whole[:10]], "in the headers": [whole[:60]], "after the headers": [whole],
        "in the body": [whole, long[:20]], "before the last byte": [whole, long[:-1]],
        "with the last byte": [whole + long],
    }
    for how, end in ENDS.items():
        for phase, parts in phases.items():
            yield Input(f"leaves {phase} by {how}, {of}", leaves(*parts, end=end), may_end=True)
        if stream == "true":
            yield Input(f"leaves in the stream by {how}, {of}", leaves(whole + long, end=end, events=2), may_end=True)
    yield Input(f"30 leave at once, {of}", crowd(whole + long, 30), may_end=True)


def resumable() -> Iterator[Input]:
    """Clients that leave an answer that waits for their return: few, since each costs that time."""
    ways = ("in the stream", b"true", 2, 1), ("at once", b"true", 0, 30), ("whole", b"false", 0, 30)
    for how, stream, events, many in ways:
        long = with_value(NATIVE, SLOW, "max_tokens", LONG[SLOW])[:-1] + b',"stream":%s}' % stream
        whole = head("POST", NATIVE, length=len(long)) + long
        act = leaves(whole, events=events) if many == 1 else crowd(whole, many)
        yield Input(f"{many} leave {how}, native", act, may_end=True)


def resets(model: str, long: bytes) -> Iterator[Input]:
    """HTTP/2 streams that their client resets or abandons; each call of `send` makes one packet."""

    def at_once(frames: Frames) -> None:
        frames.send(SettingsFrame(), *frames.ask(1, long), RstStreamFrame(1))

    def in_a_crowd(frames: Frames) -> None:
        asked = [[*frames.ask(at, long), RstStreamFrame(at)] for at in range(1, 201, 2)]
        frames.send(SettingsFrame(), *(frame for one in asked for frame in one))

    def rapidly(frames: Frames) -> None:
        for at in range(1, 401, 2):
            frames.send(*frames.ask(at, long), RstStreamFrame(at, error_code=8))

    def leaving(frames: Frames) -> None:
        frames.send(SettingsFrame(), *(frame for at in range(1, 41, 2) for frame in frames.ask(at, long)))

    def half(frames: Frames) -> None:
        frames.send(SettingsFrame(), *frames.ask(1, long)[:-1], RstStreamFrame(1))

    def after_an_event(*then: RstStreamFrame | GoAwayFrame | SettingsFrame) -> Play:
        def play(frames: Frames) -> None:
            frames.send(SettingsFrame(), *frames.ask(1, long))
            next(frame for frame in frames.read() if isinstance(frame, DataFrame))
            frames.send(*then)
        return play

    def no_window(frames: Frames) -> None:
        frames.send(SettingsFrame(settings={INITIAL_WINDOW_SIZE: 0}), *frames.ask(1, long))
        next(frame for frame in frames.read() if isinstance(frame, HeadersFrame))

    windows = [SettingsFrame(settings={INITIAL_WINDOW_SIZE: size}) for size in (0, 65535, 1, 0)]
    all_plays: dict[str, Play] = {
        "a reset in the packet of the request": at_once, "100 resets in one packet": in_a_crowd,
        "200 resets, one by one": rapidly, "20 requests, and leaves": leaving, "a reset before the last data": half,
        "a reset in the stream": after_an_event(RstStreamFrame(1)), "no window for the answer": no_window,
        "a farewell in the stream": after_an_event(GoAwayFrame(last_stream_id=1)),
        "windows that shrink": after_an_event(*windows),
    }
    for what, play in all_plays.items():
        yield Input(f"h2: {what}, {model}", plays(play), may_end=True)


def leaves(
    *parts: bytes, end: Callable[[Line], None] = Line.reset, events: int = 0,
) -> Callable[[Address], Sequence[Answer]]:
    """An action that sends these bytes, reads this many events of the answer, and leaves."""

    def act(address: Address) -> Sequence[Answer]:
        with Line(address) as line:
            line.send(*parts)
            got = b""
            while got.count(b"data: ") < events:
                part = line.socket.recv(4096)
                got += part
                assert part, f"the stream ended early: {got!r}"
                assert got.startswith(b"HTTP/1.1 200"[: len(got)]), got
            end(line)
        return []

    return act


def crowd(data: bytes, count: int) -> Callable[[Address], Sequence[Answer]]:
    """An action of many clients, which all send the same bytes and then leave."""

    def act(address: Address) -> Sequence[Answer]:
        lines = [Line(address) for _ in range(count)]
        for line in lines:
            line.send(data)
        for line in lines:
            line.reset()
        return []

    return act
