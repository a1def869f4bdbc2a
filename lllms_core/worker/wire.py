"""The messages between parent and worker: frozen values, framed and pickled. One message per step for all slots.

Both ends are the same version of one program on one machine, so pickle is safe and fast here.
"""

import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from attrs import Attribute, field, fields, frozen

from lllms_core.engines import Engine
from lllms_core.engines.session_link import State
from lllms_core.queries import AnyRequest
from lllms_core.types import Delta, ModelInfo, ModelSpec

_LENGTH = struct.Struct("!I")
_FIRST = 3
"""This many fields of a `Delta` are always sent; the others only if any of them is set."""


@frozen
class SessionTerms:
    """The limits of the sessions that are stored for a worker."""

    min_tokens: int
    """A session that saves the evaluation of fewer is neither looked up nor put."""
    max_size: int
    """Bytes; a larger session is not put."""
    waiting: int = 2**29
    """Bytes of sessions that may wait in the worker to be sent; more are lost, unless it is a single one."""


@frozen
class Hello:
    """To the worker process, as its first message: what it must know before it can unpickle any other."""

    parent: int | None
    """The id of the server's process; None: on another machine."""
    channel: int | None
    """The descriptor of its socket for sessions; None: the process knows it, or has none."""
    level: int
    """The level of the log records that it sends."""
    quiet: bool = False
    """Whether it prepares itself (`Warm`) with the lowest priority."""


@frozen
class Warm:
    """To a spare worker process: import what this engine's loads need, and wait for `Load`."""

    engine: Engine


@frozen
class Load:
    """To the worker: load this model."""

    engine: Engine
    spec: ModelSpec
    sessions: SessionTerms | None = None
    """None: no sessions are stored."""
    rehearsal: bool = False
    """Whether to only rehearse the load and then end."""


@frozen
class Open:
    """To the worker: take this request."""

    request: AnyRequest


@frozen
class Cancel:
    """To the worker: end this request; its last delta says `cancelled`."""

    request_id: str


@frozen
class UseThreads:
    """To the worker: compute with at most this many cores."""

    count: int


@frozen
class FoundSession:
    """To the worker: the answer to `FindSession`; without `tokens`, no session was found."""

    request_id: str
    tokens: bytes = b""
    """4 bytes each, in the byte order of the machine."""
    state: State = field(default=b"", repr=False)


@frozen
class Survey:
    """To the worker: report the conversations that the model holds, and forget some."""

    number: int
    forget: tuple[bytes, ...] = field(default=(), repr=False)
    """Sequences of tokens, 4 bytes each: conversations that continue one, or are a prefix of one, are forgotten."""
    everything: bool = False
    """Whether to forget all conversations."""

    @property
    def urgent(self) -> bool:
        """Whether to interrupt a long step for it: it is to forget something, not only to report."""
        return self.everything or bool(self.forget)


@frozen
class Probe:
    """To the worker: send `Alive` if the loop has made progress since the last probe. Not answered by the loop."""


@frozen
class Close:
    """To the worker: free the model and end."""


@frozen
class Warmed:
    """From a spare worker process: its engine's libraries are imported, or why they are not; it can load a model."""

    failure: str = ""


@frozen
class Taken:
    """From a spare worker process: it has got its `Load`, and is a worker like any other from now on."""


@frozen
class Progress:
    """From the worker: how much of the load is done, 0 to 1."""

    fraction: float


@frozen
class Loaded:
    """From the worker: the model is ready for requests."""

    info: ModelInfo


@frozen
class LoadFailed:
    """From the worker: the model cannot be loaded; the worker ends."""

    reason: str
    traceback: str
    """Of an exception that the engine did not raise on purpose; empty for one that it did."""
    starved: bool = False
    """Whether it is for lack of memory."""


@frozen
class Rehearsed:
    """From the worker: the model could be loaded, and the worker ends."""


@frozen
class Deltas:
    """From the worker: the output of one step, for all requests that it advanced."""

    deltas: tuple[Delta, ...]


@frozen
class Reading:
    """From the worker: how much of long prompts has been read, 0 to 1, by request; a few times a second at most."""

    shares: Mapping[str, float]


@frozen
class Alive:
    """From the worker: the answer to `Probe`; its absence reveals a stuck loop."""


@frozen
class FindSession:
    """From the worker: find a session that covers more of this prompt than the `known` tokens, which it has."""

    request_id: str
    space: str
    tokens: bytes = field(repr=False)
    known: int
    whole: bool
    """Whether only sessions that are, as a whole, a prefix of the prompt count."""


@frozen
class PutSession:
    """From the worker: keep this session."""

    space: str
    tokens: bytes = field(repr=False)
    whole: bool
    """Whether it can only be resumed whole."""
    state: State = field(repr=False)


@frozen
class HeldConversation:
    """A conversation that a model holds."""

    tokens: bytes = field(repr=False)
    used: float
    size: int | None


@frozen
class Surveyed:
    """From the worker: the answer to `Survey`. Every session that it put earlier arrives before this."""

    number: int
    held: tuple[HeldConversation, ...]
    """The conversations that it held before it forgot any."""


@frozen
class Crashed:
    """From the worker: the engine raised a forbidden exception; the worker ends.

    The reason goes to the clients of all its requests, so it quotes none of them.
    """

    reason: str
    traceback: str
    starved: bool = False
    """Whether it is for lack of memory."""


ToWorker = Load | Open | Cancel | UseThreads | FoundSession | Survey | Probe | Close
FromWorker = (
    Warmed | Taken | Progress | Loaded | LoadFailed | Rehearsed | Deltas | Reading | Alive | FindSession | PutSession
    | Surveyed | Crashed
)


def encode(message: object) -> bytes:
    """Return the frame of a message: its length, then its pickle."""
    if type(message) is Deltas:
        # The only message that is sent for every token: as plain tuples it costs a third as much as pickled objects.
        plain = [_plain(delta) for delta in message.deltas]
        body = pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)
    else:
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def _make_plain() -> Callable[[Delta], tuple[object, ...]]:
    """Return a function that gives the values of a delta's fields, in their order: for most deltas only the first ones.

    It is compiled from the fields' names, as attrs does with its methods: a loop over them would take several times as
    long, for every token.
    """
    every: Sequence[Attribute[Any]] = fields(Delta)
    values = [f"d.{one.name}" for one in every]
    # The default of each later field is None, or empty.
    told = [f"d.{one.name} is not None" if one.default is None else f"d.{one.name}" for one in every]
    code = f"lambda d: ({', '.join(values)}) if {' or '.join(told[_FIRST:])} else ({', '.join(values[:_FIRST])})"
    return cast(Callable[[Delta], tuple[object, ...]], eval(code))  # noqa: S307  # made of nothing but those names


_plain = _make_plain()


class FrameReader:
    """Assembles frames from bytes that arrive in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[object]:
        """Take more bytes and yield the complete messages.

        A message is unpickled only when it is asked for: the first may prepare the unpickling of the second.
        """
        if not self._buffer and len(data) > _LENGTH.size and len(data) == _LENGTH.size + _LENGTH.unpack_from(data)[0]:
            yield _decoded(data[_LENGTH.size :])  # as the tokens of a step usually come
            return
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _decoded(body)


def _decoded(body: bytes) -> object:
    message = pickle.loads(body)  # noqa: S301  # from our own parent or child
    return Deltas(tuple([Delta(*plain) for plain in message])) if type(message) is list else message
