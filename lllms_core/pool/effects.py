"""The actions that the scheduler decides on and the pool carries out."""

from collections.abc import Mapping

from attrs import field, frozen

from lllms_core.errors import LllmsError
from lllms_core.events import UnloadCause
from lllms_core.placements import LOCAL


@frozen
class Start:
    """Start a worker for a new instance, and load the model in it."""

    instance: str
    model: str
    threads: int
    memory: int | None = None
    """The `ModelSpec.memory` for its automatic sizes."""
    place: str = LOCAL
    """Where."""
    device_memory: Mapping[str, int] | None = None
    """The `ModelSpec.device_memory` for its automatic layers on GPUs."""


@frozen
class Prepare:
    """Fetch a model's missing files; to another place, after they were looked for there."""

    model: str
    place: str = LOCAL


@frozen
class Measure:
    """Find out how much memory an instance of a model needs at a place, and at all others of its kind."""

    model: str
    place: str = LOCAL
    memory: int | None = None
    """The `ModelSpec.memory` with which it would be loaded; None: automatic sizes are chosen for the place."""


@frozen
class ShrinkSessions:
    """Give up this many bytes of stored sessions, the least recently used first, and tell the scheduler (`shrunk`)."""

    size: int


@frozen
class Assign:
    """Give a waiting request to an instance."""

    ticket: str
    instance: str


@frozen
class Refuse:
    """Tell a waiting request that it will not be served."""

    ticket: str
    error: LllmsError


@frozen
class Stop:
    """Unload an idle instance; the reason is not compared, since it changes nothing."""

    instance: str
    cause: UnloadCause = field(default="idle", eq=False)
    room_for: str | None = field(default=None, eq=False)
    """The model that needs its room."""


@frozen
class ShareCores:
    """Set the number of cores that an instance may use from now on."""

    instance: str
    count: int


Effect = Start | Prepare | Measure | ShrinkSessions | Assign | Refuse | Stop | ShareCores
