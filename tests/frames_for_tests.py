"""HTTP/2 by hand: frames in any order, with any content, without the checks of a library."""

from collections.abc import Iterable, Sequence
from typing import Self

import hpack
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from lines_for_tests import SECRET, Address, Answer, Line
from waits_for_tests import GUARD

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = Sequence[tuple[str, str]]


class Frames:
    """One connection; `send` takes frames and bytes, and each call sends one packet."""

    def __init__(self, address: Address, *, preface: bytes = PREFACE, within: float = GUARD) -> None:
        self.line = Line(address, within)
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._got = b""
        self.line.send(preface)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.socket.close()

    def send(self, *frames: Frame | bytes) -> Self:
        """Send frames, or bytes that look like frames."""
        self.line.send(b"".join(one if isinstance(one, bytes) else one.serialize() for one in frames))
        return self

    def block(self, fields: Fields) -> bytes:
        """Compress headers."""
        return self._encoder.encode(fields)

    def ask(self, stream: int, body: bytes, path: str = "/v1/chat/completions", *extra: tuple[str, str]) -> list[Frame]:
        """The frames of a request."""
        head = HeadersFrame(stream, self.block([*fields("POST", path, len(body)), *extra]), flags=["END_HEADERS"])
        parts = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
        frames = [head, *(DataFrame(stream, part) for part in parts)]
        frames[-1].flags.add("END_STREAM")
        return frames

    def read(self) -> Iterable[Frame]:
        """Yield the server's frames until the connection ends; settings and pings are answered."""
        while True:
            while len(self._got) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self._got[:9]))
                if len(self._got) < 9 + length:
                    break
                frame.parse_body(memoryview(self._got[9 : 9 + length]))
                self._got = self._got[9 + length :]
                if isinstance(frame, SettingsFrame | PingFrame) and "ACK" not in frame.flags:
                    self.send(SettingsFrame(flags=["ACK"]) if isinstance(frame, SettingsFrame)
                              else PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]))
                if isinstance(frame, DataFrame) and frame.flow_controlled_length:
                    self.send(*(WindowUpdateFrame(at, frame.flow_controlled_length) for at in (0, frame.stream_id)))
                yield frame
            try:
                part = self.line.socket.recv(1 << 16)
            except ConnectionResetError:
                return
            if not part:
                return
            self._got += part

    def answers(self, *streams: int) -> list[Answer]:
        """Read until these streams or the connection have ended; a stream without a status gives no answer."""
        statuses: dict[int, int] = {}
        bodies: dict[int, bytes] = {}
        waiting = set(streams)
        try:
            for frame in self.read():
                if isinstance(frame, HeadersFrame):
                    status = next(value for name, value in self._decoder.decode(frame.data) if name == ":status")
                    statuses.setdefault(frame.stream_id, int(status))
                elif isinstance(frame, DataFrame):
                    bodies[frame.stream_id] = bodies.get(frame.stream_id, b"") + frame.data
                if isinstance(frame, GoAwayFrame):
                    break
                if isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags:
                    waiting.discard(frame.stream_id)
                if not waiting:
                    break
        except HyperframeError:
            pass  # an HTTP/1.1 answer to bytes that did not look like HTTP/2
        return [Answer(status, {}, bodies.get(stream, b"")) for stream, status in statuses.items()]


def fields(method: str = "POST", path: str = "/v1/chat/completions", length: int | None = None) -> list[
    tuple[str, str],
]:
    """The headers of a request."""
    told = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost"),
            ("authorization", f"Bearer {SECRET}")]
    return told + ([] if length is None else [("content-type", "application/json"), ("content-length", str(length))])


def header_frames(stream: int, block: bytes, *, end: bool = True) -> list[Frame]:
    """A header block in frames of the largest size; without `end` the last one lacks END_HEADERS."""
    parts = [block[at : at + 16384] for at in range(0, len(block), 16384)] or [b""]
    frames: list[Frame] = [HeadersFrame(stream, parts[0]), *(ContinuationFrame(stream, part) for part in parts[1:])]
    if end:
        frames[-1].flags.add("END_HEADERS")
    frames[0].flags.add("END_STREAM")
    return frames


def bare(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """Any frame; its length may be a lie."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
