"""What parent and worker say to each other: frozen values, framed and pickled. One message per step for all slots.

Both ends are one program in one version on one machine, so pickle is safe and fast here.
"""

import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from attrs import Attribute, field, fields, frozen

from lllms_core.engines import Engine
from lllms_core.engines.sessions import State
from lllms_core.queries import AnyRequest
from lllms_core.types import Delta, ModelInfo, ModelSpec

_LENGTH = struct.Struct("!I")
_FIRST = 3
"""So many fields of a `Delta` always travel; the others, if any of them says something."""


@frozen
class SessionTerms:
    """What a worker is told about the sessions that are stored for it."""

    min_tokens: int
    """One that saves the evaluation of fewer is not asked for, nor put."""
    max_size: int
    """Bytes; a larger one is not put."""


@frozen
class Load:
    """To the worker, first of all: load this model."""

    engine: Engine
    spec: ModelSpec
    sessions: SessionTerms | None = None
    """None: no sessions are stored."""


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
    """To the worker: compute with at most so many cores."""

    count: int


@frozen
class FoundSession:
    """To the worker: the answer to `FindSession`; without `tokens`, that there is none."""

    request_id: str
    tokens: bytes = b""
    """4 bytes each, in the byte order of the machine."""
    state: State = field(default=b"", repr=False)


@frozen
class Survey:
    """To the worker: tell which conversations the model holds, and forget these."""

    number: int
    forget: tuple[bytes, ...] = field(default=(), repr=False)
    """Lines of tokens, 4 bytes each: what begins with one of them goes, and what one of them begins with."""
    everything: bool = False
    """Whether all of them go."""

    @property
    def urgent(self) -> bool:
        """Whether a long step is to be given up for it: somebody wants something forgotten, not only to look."""
        return self.everything or bool(self.forget)


@frozen
class Probe:
    """To the worker: say `Alive` if the loop got on since the last probe. Answered beside the loop, not by it."""


@frozen
class Close:
    """To the worker: free the model and end."""


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
    """Of an exception that the engine did not mean to raise; empty for one that it did."""


@frozen
class Deltas:
    """From the worker: what one step gave, for all requests that it advanced."""

    deltas: tuple[Delta, ...]


@frozen
class Alive:
    """From the worker: the answer to `Probe`; a loop that is stuck is told by its absence."""


@frozen
class FindSession:
    """From the worker: find a session that saves evaluating more of this prompt than what is `known` already."""

    request_id: str
    space: str
    tokens: bytes = field(repr=False)
    known: int
    whole: bool
    """Whether only sessions count that are a beginning of the prompt, all of them."""


@frozen
class PutSession:
    """From the worker: keep this session."""

    space: str
    tokens: bytes = field(repr=False)
    whole: bool
    """Whether it can only be gone on with as it is."""
    state: State = field(repr=False)


@frozen
class Held:
    """A conversation that a model holds."""

    tokens: bytes = field(repr=False)
    used: float
    size: int | None


@frozen
class Surveyed:
    """From the worker: the answer to `Survey`. Whatever it put before that has arrived before this."""

    number: int
    held: tuple[Held, ...]
    """What it held before it forgot any."""


@frozen
class Crashed:
    """From the worker: the engine raised what it must not; the worker ends.

    All whose requests it held are told the reason, so no part of this quotes any.
    """

    reason: str
    traceback: str


ToWorker = Load | Open | Cancel | UseThreads | FoundSession | Survey | Probe | Close
FromWorker = Progress | Loaded | LoadFailed | Deltas | Alive | FindSession | PutSession | Surveyed | Crashed


def encode(message: object) -> bytes:
    """Return the frame of a message: its length, then its pickle."""
    if type(message) is Deltas:
        # The one message that is sent for every token: as plain tuples it costs a third of what pickled objects do.
        plain = [_plain(delta) for delta in message.deltas]
        body = pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)
    else:
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def _make_plain() -> Callable[[Delta], tuple[object, ...]]:
    """Return a function that gives the values of a delta's fields, in their order: of most only the first ones.

    It is compiled from the names of the fields, as attrs does with its methods: a loop over them would take several
    times as long, for every token.
    """
    every: Sequence[Attribute[Any]] = fields(Delta)
    values = [f"d.{one.name}" for one in every]
    # The default of each later field is None, or empty.
    told = [f"d.{one.name} is not None" if one.default is None else f"d.{one.name}" for one in every]
    code = f"lambda d: ({', '.join(values)}) if {' or '.join(told[_FIRST:])} else ({', '.join(values[:_FIRST])})"
    return cast(Callable[[Delta], tuple[object, ...]], eval(code))  # noqa: S307  # made of nothing but those names


_plain = _make_plain()


class FrameReader:
    """Puts frames together from bytes that arrive in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[object]:
        """Take more bytes and yield the messages that are complete.

        A message is unpickled only when it is asked for: the first may prepare what the second needs.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            message = pickle.loads(body)  # noqa: S301  # from our own parent or child
            yield Deltas(tuple(Delta(*plain) for plain in message)) if type(message) is list else message
