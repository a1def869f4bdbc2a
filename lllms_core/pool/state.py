"""The scheduler's state: limits, requests, instances."""

from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import inf

from attrs import Factory, define, field, frozen

from lllms_core.caller import Priority
from lllms_core.placements import LOCAL
from lllms_core.pool.budget import DeviceRoom, Need
from lllms_core.pool.prefixes import SeenPrefixes
from lllms_core.status import InstanceState

NEVER = -1.0
"""The `ttl` of instances and sessions that are never dropped for being idle."""

NOTHING = Need()


@frozen
class Surroundings:
    """What else takes memory on this machine, in bytes."""

    sessions: int = 0
    """Those in this server's memory: stored there, or waiting to be stored."""
    available: int | None = None
    """What the machine can give now, without the margin that is left to other programs; None: unknown."""
    devices: Mapping[str, DeviceRoom] = field(factory=dict)
    """The memory of GPUs, by their names."""


ALONE = Surroundings()


@frozen
class MemoryLimit:
    """The memory that a server may use, in bytes, by estimates."""

    total: int
    own: int = 0
    """What of it is for the server itself, without the sessions that it keeps in memory."""
    machine: int | None = None
    """All memory of this machine, or of its control group; None: unknown."""

    @property
    def instances(self) -> int:
        """What all instances together may take, beside the sessions in memory, which give way."""
        return max(0, self.total - self.own)


@frozen
class PoolLimits:
    """The limits of the pool as a whole."""

    concurrency: int = 8
    queue_size: int = 512
    queue_timeout: float = 600.0
    max_instances: int = 4
    """Of all models together; when more are needed, idle ones are unloaded."""
    cores: int = 1
    memory: MemoryLimit | None = None
    """None: no limit."""
    max_wait_before_swap: float = 30.0
    """After this many seconds in the queue a request gets its model loaded at the cost of busier ones."""
    min_residency: float = 10.0
    """Seconds for which an instance that is in use makes no room for other models after its load."""
    gpu_memory: int | None = None
    """Bytes for all instances on each GPU; None: as `lllms_core.pool.devices` says."""
    spare_workers: int = 0
    """Processes that are ready to load a model."""


@frozen
class ModelLimits:
    """The limits of one model's instances."""

    min_instances: int = 0
    max_instances: int = 1
    ttl: float = 300.0
    load_timeout: float = 300.0
    """Seconds for a load, not counting the fetching of files; 0: no limit."""
    watchdog: float = 30.0
    """Seconds that an instance with work may show no sign of progress; 0: no limit."""
    priority: Priority = "normal"
    """That of its requests, unless they have their own."""
    files: bool = False
    """Whether a place other than this machine must get its files before a load."""


@frozen
class PoolChange:
    """What a new configuration changes in a pool."""

    models: Mapping[str, ModelLimits]
    """All models from now on."""
    limits: PoolLimits
    fresh: AbstractSet[str] = frozenset()
    """Models that were unknown, or whose instances are replaced."""
    absent: AbstractSet[str] = frozenset()
    """Those of them whose files are missing."""
    prepare: AbstractSet[str] = frozenset()
    """Models whose files are fetched now, if they are missing."""
    unfit: AbstractSet[str] = frozenset()
    """Models whose engine is another, which the waiting requests may not fit."""
    measure: bool = False
    """Whether all models may need other memory than before."""


@define(eq=False)
class Ticket:
    """A waiting or running request."""

    id: str
    model: str
    prefixes: Sequence[Hashable]
    arrived: float
    instance: str | None = None
    started: float = 0.0
    ttl: float | None = None
    client: str = ""
    rank: int = 1
    """Of its priority; 0 is served first."""
    patience: float | None = None
    """Seconds that it may wait by its own limit; None: it has none."""
    until: float = inf
    """When it has waited for too long, by that limit or by the pool's."""
    admitted: bool = False
    """Whether it belongs to a group whose first request was accepted: it is never refused for a full queue."""
    number: int = 0
    """Counts the requests, in the order of their arrival."""
    requeued: bool = False
    """Whether it ran on an instance that was lost with its place, and waits or runs for the second time."""


@define(eq=False)
class InstanceEntry:
    """A loaded copy of a model, or one that is being loaded or unloaded."""

    id: str
    model: str
    threads: int
    need: Need = NOTHING
    """What it counts for: as told when the load began, or as measured if that is more."""
    told: Need = NOTHING
    """Its need when the load began."""
    measured: int | None = None
    """The private bytes that it was last measured to take; None: it was not measured."""
    state: InstanceState = "loading"
    slots: int = 0
    running: dict[str, Ticket] = Factory(dict)
    load_began: float = 0.0
    ready_since: float = 0.0
    idle_since: float = 0.0
    used: float = 0.0
    """When it got its last request."""
    ttl: float | None = None
    """How long it may be idle after that request; None: the `ttl` of its model."""
    retired: bool = False
    """Whether it has a former configuration: it finishes its requests, takes no more, and is unloaded."""
    again: bool = False
    """Whether its load is the second try, after one that failed for lack of memory."""
    seen: SeenPrefixes = Factory(SeenPrefixes)
    place: str = LOCAL
    """The id of the place where it runs."""

    @property
    def grown(self) -> bool:
        """Whether it takes a fifth more private memory than it was told to need."""
        return self.measured is not None and 0 < 1.2 * self.told.private < self.measured

    @property
    def idle(self) -> bool:
        """Whether it is loaded and runs no request."""
        return self.state == "ready" and not self.running
