"""The state of a server in values: instances, queue, downloads, sessions. Counts and names, never a client's text."""

from collections.abc import Mapping
from math import ceil
from typing import Literal

from attrs import field, frozen

from lllms_core.types import ModelInfo, Reuse, Timings
from lllms_core.values.sizes import human_size, human_time

InstanceState = Literal["loading", "ready", "closing"]
WaitState = Literal["queued", "memory", "downloading", "loading", "prompt"]
"""The reason for a wait: other requests' turns, memory that others hold, the model's files, the model's load, or, once
the request runs, the reading of its prompt."""
PlaceState = Literal["used", "avoided", "refused", "lost"]
"""A place gets instances; or no new ones for some seconds, after one was lost with it; or none, because its versions
differ, or because it is lost."""
DownloadState = Literal["starting", "waiting", "downloading", "verifying", "done", "failed"]
"""`waiting`: another process is fetching the same file."""


@frozen
class InstanceStatus:
    """One instance as it is now."""

    id: str
    model: str
    state: InstanceState
    progress: float
    """How much of the load is done, 0 to 1."""
    running: int
    """The number of requests that it is running."""
    threads: int
    """The cores that it is allowed now."""
    idle_seconds: float
    """Since its last request ended; 0 while one runs."""
    silent_seconds: float
    """How long it has had work and shown no progress."""
    pid: int | None
    """Its process; None for an instance that lives in a thread."""
    info: ModelInfo | None
    """The loaded model's report; None until it is loaded."""
    fingerprint: str = ""
    """The fingerprint of the engine, options and files from which it was loaded; OpenAI's `system_fingerprint`."""
    replaced: bool = False
    """Whether one of these files has been changed or replaced since."""
    retired: bool = False
    """Whether a new configuration has replaced or removed it: it finishes its requests, and then ends."""
    memory: int | None = None
    """Bytes of its estimate, mapped weights included; None: unknown, as there is no memory limit."""
    measured: int | None = None
    """Bytes that it was last measured to take, with its mapped weights; None: unknown, as for one in a thread."""
    grown: bool = False
    """Whether it takes a fifth more than its estimate."""
    load_seconds: float = 0.0
    """How long its load has taken, so far or in all."""
    load_timeout: float = 0.0
    """The most seconds that its load may take; 0: no limit."""
    watchdog: float = 0.0
    """The `silent_seconds` after which it is killed; 0: no limit."""
    ttl: float | None = None
    """The idle seconds after which it is unloaded; None: never."""
    place: str = ""
    """The name of the machine on which it runs, if that is not this one."""
    devices: Mapping[str, int] = field(factory=dict)
    """Bytes of the memory of GPUs that it was told to need, by their names; empty: it runs on the CPU, as far as
    known."""


@frozen
class SpareStatus:
    """A process that waits for a model."""

    engine: str
    """The engine whose libraries it has imported."""
    ready: bool
    """False: it is still importing them."""
    pid: int | None


@frozen
class Lack:
    """A model that has fewer instances ready than it keeps (`min_instances`)."""

    model: str
    ready: int
    kept: int
    problem: str
    """The last failure of an instance; "" if there was none."""
    retry_seconds: float | None
    """Until the next try; None if one is under way, or is made only when the model is requested."""


@frozen
class FailedLoad:
    """A model whose last load failed."""

    model: str
    problem: str
    """The cause."""
    failures: int
    """The number of consecutive failed loads."""
    retry_seconds: float
    """Requests for the model are refused for this long; 0: the next one makes it load again."""


@frozen
class DeviceUse:
    """The memory of one GPU, in bytes."""

    name: str
    total: int
    limit: int
    """The most that all instances may take."""
    used: int
    """The sum of their estimates."""
    usable: int | None = None
    """The bytes that other programs leave, less a margin; None: unknown."""


@frozen
class MemoryUse:
    """The memory of the server, its sessions and all instances, in bytes."""

    limit: int
    used: int
    """By estimates, or as measured if that is more; mapped weights of one file count once."""
    sessions: int = 0
    """The part of `used` that is stored sessions, which give way to instances."""
    measured: int | None = None
    """Private bytes that all workers together were measured to take; None: nothing was measured."""
    available: int | None = None
    """The bytes that the machine has free now, less a margin for other programs; None: unknown."""
    devices: tuple[DeviceUse, ...] = ()
    """The GPUs that engines report."""


@frozen
class PlaceStatus:
    """A machine of a placement, and what its instances take together; those that are not used have none."""

    id: str
    name: str
    instances: int
    """`InstanceStatus.place` tells which."""
    cores: int
    memory: int | None
    """The bytes that they may take; None: no limit."""
    used: int
    """What they take, as told."""
    devices: tuple[DeviceUse, ...] = ()
    """Its GPUs."""
    disk: int | None = None
    """The free bytes of its disk, as last told; None: unknown."""
    state: PlaceState = "used"
    problem: str = ""
    """Why it gets no new instances now: its versions differ, an instance was lost with it, it is lost itself, or the
    files of some models could not be brought there. Empty if it gets all."""
    seconds: float = 0.0
    """Since it came, or since it was refused or lost."""


@frozen
class PoolStatus:
    """The pool as it is now."""

    instances: tuple[InstanceStatus, ...]
    running: int
    """Requests that hold a slot."""
    waiting: int
    """Requests in the queue."""
    concurrency: int
    """The most requests that run at once."""
    queue_size: int
    """The most requests that wait."""
    cores: int
    """The cores that are divided among the busy instances."""
    memory: MemoryUse | None = None
    """None: there is no memory limit."""
    spares: tuple[SpareStatus, ...] = ()
    """The spare workers."""
    places: tuple[PlaceStatus, ...] = ()
    """The machines of the placement, then those that are not used or were lost lately; empty if all instances run on
    this one."""


@frozen
class Problem:
    """A model that cannot be served, and all its faults, one per line."""

    name: str
    text: str
    configured: bool
    """Whether it is configured; else a plugin offers it."""


@frozen
class Changes:
    """What a new configuration changed in a running server."""

    added: tuple[str, ...] = ()
    """Models."""
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    """Models whose instances are replaced: the busy ones, once their requests have ended."""
    adjusted: tuple[str, ...] = ()
    """Models that keep their instances under the new configuration."""
    settings: tuple[str, ...] = ()
    """Other settings that are in force now, like `server.concurrency`."""
    restart: tuple[str, ...] = ()
    """Settings that have changed, and take effect only when the server is started again."""

    @property
    def lines(self) -> list[str]:
        """The changes in words, a line for each kind; empty without changes."""
        kinds = {
            "added": self.added, "removed": self.removed, "replaced": self.replaced, "changed in place": self.adjusted,
            "now in force": self.settings, "in force only after a restart": self.restart,
        }
        return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]


@frozen
class Setting:
    """One setting that is in force."""

    name: str
    """Its path, as TOML writes it: `server.port`."""
    value: object
    """In JSON's types; a secret is replaced by a word."""
    origin: str
    """`FILE:LINE`, the name of a variable or of a flag, `default`, or `given at the start`."""


@frozen
class DownloadStatus:
    """The progress of a download."""

    id: str
    """The same for all downloads of one source, and for no others."""
    source: str
    """Safe to show: without passwords."""
    state: DownloadState
    file: str
    """The store's name of the file that is being fetched; empty until known."""
    note: str
    """The choice that was made if the source left one, or the reason for the state."""
    done: int
    """Bytes of all files of the model that are on the disk."""
    checked: int
    """Bytes read for verification; 0 in any other state."""
    total: int | None
    """Bytes of all files of the model; None while unknown."""
    speed: float
    """Bytes per second: received, or read while verifying."""
    seconds_left: float | None
    """At this speed; None while unknown."""
    sha256: str = ""
    """The expected hash of `file`, in hexadecimal; "" if its source publishes none."""
    place: str = ""
    """The name of the machine that fetches it, if that is not this one."""


@frozen
class SessionInfo:
    """A session in a listing."""

    id: str
    model: str
    tokens: int
    size: int | None
    """Bytes; None if the engine does not report them."""
    used: float
    """When it was last used, in seconds since 1970."""
    where: str
    """The name of the store, or the id of the instance that holds it."""


@frozen
class Waiting:
    """Why a request has no answer yet, and how far that is; as text, a few words for people."""

    state: WaitState
    position: int | None = None
    """In the queue; 1 is next. None once it runs."""
    progress: float | None = None
    """How much is done of the download, the load, or the reading of the prompt, 0 to 1; None: unknown."""
    reason: str = ""
    """For `memory`: the need, and the holders of the rest. For `queued`: why no instance is loaded, if none is."""
    download: DownloadStatus | None = None
    """That of its model's files, if they are being fetched."""

    def __str__(self) -> str:
        share = "" if self.progress is None else f" {int(100 * self.progress)} %"
        match self.state:
            case "queued":
                return f"queued {self.position}{f', {self.reason}' if self.reason else ''}"
            case "memory":
                return f"queued {self.position}, waits for memory: {self.reason}"
            case "downloading":
                return f"downloading{share}{'' if self.download is None else f': {progress_text(self.download)}'}"
            case "loading":
                return f"loading{share}"
            case "prompt":
                return f"reading the prompt{share}"


@frozen
class RequestStatus:
    """A request that waits or runs. It shows nothing of its text."""

    id: str
    model: str
    task: str
    """`load` for a request that only loads the model; others as in `lllms_core.types.Task`."""
    state: WaitState | Literal["answering", "ending"]
    """`ending`: it was cancelled, but its instance has yet to notice."""
    seconds: float
    """Since it was submitted."""
    tokens: int = 0
    """Generated so far."""
    instance: str | None = None
    """The instance that runs it."""
    place: str = ""
    """The name of that instance's machine, if it is not this one."""
    waiting: Waiting | None = None
    """What it waits for; None once its answer has begun."""


@frozen
class Moment:
    """Something that happened to a request."""

    seconds: float
    """Since it was submitted."""
    what: str
    """In a word or two: submitted, queued, loading, assigned, answering, ended ..."""
    detail: str = ""
    """Why, or which instance; nothing that a client has written."""


@frozen
class RequestRecord:
    """A request, running or ended, with its timeline. It shows nothing of its text."""

    id: str
    model: str
    task: str
    submitted: float
    """In seconds since 1970."""
    seconds: float
    """From then to its end, or so far."""
    moments: tuple[Moment, ...] = ()
    key: str = ""
    """The name of the client's API key; "" without one."""
    client_id: str = ""
    """The id that the client gave it; "" if it gave none."""
    trace: str = ""
    """The client's `traceparent`; "" if it sent none."""
    instance: str | None = None
    place: str = ""
    """The name of that instance's machine, if it is not this one."""
    outcome: str | None = None
    """The reason of the finish, or the code of the error; None while it has not ended."""
    status: int | None = None
    """The usual HTTP status of that outcome; 499 if the client has left."""
    timings: Timings = field(default=Timings())
    first_piece: float | None = None
    """Seconds until the first piece of the answer arrived; None: there was none."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    """Generated."""
    accepted_tokens: int = 0
    """Drafted, and part of the answer."""
    rejected_tokens: int = 0
    """Drafted in vain."""
    reuse: Reuse | None = None
    """How the prompt met what was cached; None: unknown."""

    @property
    def seconds_per_token(self) -> float | None:
        """The mean time between two tokens of the answer; None if there were not two."""
        return self.timings.answer / (self.tokens - 1) if self.tokens > 1 and self.timings.answer > 0 else None


def progress_text(status: DownloadStatus) -> str:
    """Describe the progress of a transfer in a few words."""
    if status.state == "starting":
        return "starting"
    if status.state == "waiting":
        return "waiting: another process is fetching it"
    count = moved(status)
    share = f" of {human_size(status.total)}" if status.total else ""
    parts = [f"{'verified ' if status.state == 'verifying' else ''}{human_size(count)}{share}"]
    if status.speed > 0:
        parts.append(f"{human_size(status.speed)}/s")
    if status.seconds_left is not None:
        parts.append(f"{human_time(ceil(status.seconds_left))} left")
    return ", ".join(parts)


def moved(status: DownloadStatus) -> int:
    """Return the bytes done so far: verified, or received."""
    return status.checked if status.state == "verifying" else status.done
