"""What happens in a server, as values: logs, metrics, the history and traces are made of these and of nothing else.

No event holds anything that a client or a model has written, except the errors of requests, which observers reduce to
their codes. Times are those of `time.monotonic`.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from attrs import frozen

from lllms_core.errors import LllmsError
from lllms_core.status import WaitState
from lllms_core.types import Finish, Usage

LOG = logging.getLogger("lllms.events")

UnloadCause = Literal["idle", "room", "grown", "changed"]
"""Why an instance is unloaded: it was idle for long enough, another model needs its room, all instances together have
grown above the memory limit, or a new configuration has changed or removed its model, or lowered a limit."""


@frozen
class RequestSubmitted:
    """A request for a model of this server has arrived."""

    id: str
    model: str
    task: str
    """As in `RequestStatus`."""
    at: float
    key: str = ""
    """The name of the client's API key; "" without one."""
    client_id: str = ""
    """The id that the client gave it (`X-Request-Id`); "" if it gave none."""
    trace: str = ""
    """The client's `traceparent`; "" if it sent none."""


@frozen
class RequestsWait:
    """What the requests for a model wait for now."""

    model: str
    state: WaitState
    reason: str
    at: float
    id: str | None = None
    """The only request of which this is said; None: all of them."""


@frozen
class RequestAssigned:
    """A request has got a slot of an instance."""

    id: str
    instance: str
    at: float
    place: str = ""
    """The name of the instance's machine, if it is not this one; likewise below."""


@frozen
class RequestRequeued:
    """A request has lost its instance before the first piece of its answer, and waits again."""

    id: str
    model: str
    reason: str
    at: float


@frozen
class RequestBegun:
    """The first piece of an answer has arrived."""

    id: str
    admitted: Usage | None
    """The prompt's token counts; None if the engine tells them only at the end."""
    at: float


@frozen
class RequestEnded:
    """A request has ended, with a finish or an error."""

    id: str
    at: float
    finish: Finish | None = None
    error: LllmsError | None = None
    tokens: int = 0
    """The generated tokens that have arrived."""


@frozen
class RequestRefused:
    """An HTTP request was answered with an error before there was a request for a model."""

    method: str
    route: str
    """The rule of its route, not the path that the client sent."""
    status: int
    key: str = ""
    client_id: str = ""


@frozen
class LoadBegun:
    """An instance is being loaded."""

    instance: str
    model: str
    at: float
    place: str = ""


@frozen
class LoadEnded:
    """An instance is ready for requests, or could not be loaded."""

    instance: str
    model: str
    seconds: float
    at: float
    problem: str | None = None
    """Why it could not be loaded; None: it is ready."""
    place: str = ""


@frozen
class UnloadBegun:
    """An instance is being unloaded."""

    instance: str
    model: str
    cause: UnloadCause
    at: float
    room_for: str | None = None
    """The model that needs its room."""


@frozen
class InstanceDied:
    """A loaded instance's worker has ended by itself, or was killed."""

    instance: str
    model: str
    at: float


@frozen
class PlaceDeparted:
    """A machine of the placement was lost, with all its instances."""

    name: str
    reason: str
    at: float


@frozen
class FilesBegun:
    """The files of a model are being fetched."""

    model: str
    at: float


@frozen
class FilesEnded:
    """The files of a model have arrived, or not."""

    model: str
    result: Literal["done", "failed", "cancelled"]
    at: float


Event = (
    RequestSubmitted | RequestsWait | RequestAssigned | RequestRequeued | RequestBegun | RequestEnded | RequestRefused
    | LoadBegun | LoadEnded | UnloadBegun | InstanceDied | PlaceDeparted | FilesBegun | FilesEnded
)

Observer = Callable[[Event], None]


class Observers:
    """Passes events to each observer; one that fails is logged, and disturbs nobody."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = list(observers)

    def add(self, observer: Observer) -> None:
        """Let one more observer hear of all later events."""
        self._observers.append(observer)

    def __call__(self, event: Event) -> None:
        """Pass an event on."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                LOG.exception("an observer failed at %s", type(event).__name__)
