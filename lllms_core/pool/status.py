"""What the pool tells about itself: counts and states, never the text of anybody's prompt."""

from typing import Literal

from attrs import frozen

from lllms_core.types import ModelInfo

InstanceState = Literal["loading", "ready", "closing"]


@frozen
class InstanceStatus:
    """One instance as it is now."""

    id: str
    model: str
    state: InstanceState
    progress: float
    """How much of the load is done, 0 to 1."""
    running: int
    """Requests at work in it."""
    threads: int
    """The cores that it is allowed now."""
    idle_seconds: float
    """Since its last request ended; 0 while one runs."""
    silent_seconds: float
    """For how long it has had work and shown no sign of getting on with it."""
    pid: int | None
    """Its process; None for an instance that lives in a thread."""
    info: ModelInfo | None
    """What the loaded model said of itself; None until it is loaded."""


@frozen
class Lack:
    """A model that has fewer instances ready than it keeps (`min_instances`)."""

    model: str
    ready: int
    kept: int
    problem: str
    """The last failure of an instance; "" if there was none."""
    retry_seconds: float | None
    """Until the next try; None if one is under way, or is made only when somebody asks for the model."""


@frozen
class PoolStatus:
    """The pool as it is now."""

    instances: tuple[InstanceStatus, ...]
    running: int
    """Requests that hold a slot."""
    waiting: int
    """Requests in the queue."""
    concurrency: int
    """At most so many requests run at once."""
    queue_size: int
    """At most so many requests wait."""
    cores: int
    """The cores that are shared out among the instances at work."""
