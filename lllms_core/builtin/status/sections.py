"""What the page at `/` shows, in sections that change independently, in JSON's types; pure.

Unlike the report's, times are points in time (seconds since 1970): what does not change need not be sent again.
"""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from lllms_core.apis import Abilities, ModelCard, state_of
from lllms_core.builtin.status.report import Report, waiting_values
from lllms_core.builtin.status.timelines import summary, timing_values
from lllms_core.status import (
    DeviceUse,
    DownloadStatus,
    FailedLoad,
    InstanceStatus,
    Lack,
    MemoryUse,
    PlaceStatus,
    PoolStatus,
    Problem,
    RequestRecord,
    RequestStatus,
)

SILENT = 5.0
"""Seconds of silence of a busy instance that are worth showing."""
STEP = 50_000_000
"""What the machine has free is told in steps of this many bytes: it changes all the time."""
MOST_REQUESTS, MOST_ENDED = 50, 20
SHOWN_DETAILS = ("architecture", "parameters", "quantisation", "size", "license")
SHOWN_TASKS = ("chat", "text", "embed", "rerank")
"""What people choose a model for; the others are aids."""


@frozen
class Seen:
    """The state of a server at a moment, as a caller may see it."""

    pool: PoolStatus
    cards: Sequence[ModelCard]
    abilities: Mapping[str, Abilities | None]
    """By model; None: it can never be loaded. Models that nobody has looked at yet are missing."""
    problems: Sequence[Problem]
    lacks: Sequence[Lack]
    failed: Sequence[FailedLoad]
    requests: Sequence[RequestStatus]
    ended: Sequence[RequestRecord]
    downloads: Sequence[DownloadStatus]
    told_downloads: Sequence[Report]
    """The same in JSON's types."""
    version: str
    ready: bool
    now: float
    """In seconds since 1970."""
    paces: Mapping[str, float] = field(factory=dict)
    """The tokens per second of running requests, by their ids."""


def make_sections(seen: Seen) -> Mapping[str, object]:
    """Return all sections by name."""
    return {
        "server": _server(seen),
        "problems": [one.text for one in seen.problems if not one.name],
        "memory": None if seen.pool.memory is None else _memory(seen.pool.memory),
        "places": [_place(one, seen) for one in seen.pool.places],
        "models": [*_models(seen)],
        "instances": [_instance(one, seen) for one in seen.pool.instances],
        "requests": [_request(one, seen) for one in seen.requests[:MOST_REQUESTS]],
        "ended": [_ended(one) for one in seen.ended[:MOST_ENDED]],
        "downloads": seen.told_downloads,
        "spares": [{"engine": one.engine, "ready": one.ready, "pid": one.pid} for one in seen.pool.spares],
    }


def _server(seen: Seen) -> Report:
    pool = seen.pool
    return {
        "version": seen.version, "ready": seen.ready, "running": pool.running, "waiting": pool.waiting,
        "concurrency": pool.concurrency, "queue_size": pool.queue_size, "cores": pool.cores,
    }


def _memory(use: MemoryUse) -> Report:
    free = use.available
    return {
        "limit": use.limit, "used": use.used, "sessions": use.sessions, "measured": use.measured,
        "available": None if free is None else free // STEP * STEP,
        "devices": [_device(one) for one in use.devices],
    }


def _device(one: DeviceUse) -> Report:
    return {"name": one.name, "total": one.total, "limit": one.limit, "used": one.used}


def _place(one: PlaceStatus, seen: Seen) -> Report:
    return {
        "id": one.id, "name": one.name, "state": one.state, "problem": one.problem or None,
        "since": round(seen.now - one.seconds), "instances": one.instances, "cores": one.cores,
        "memory": one.memory, "used": one.used, "disk": one.disk, "devices": [_device(each) for each in one.devices],
    }


def _models(seen: Seen) -> list[Report]:
    troubles = {name: told for name, told in _troubles(seen).items() if name}
    rows = [_model(card, seen, troubles.pop(card.name, [])) for card in seen.cards]
    # Offers that could not even be made, which are no models.
    rows += [
        {
            "name": name, "aliases": [], "engine": "", "description": "", "state": "broken", "instances": 0,
            "max_instances": 0, "download": None, "abilities": None, "troubles": told,
        }
        for name, told in troubles.items()
    ]
    return rows


def _model(card: ModelCard, seen: Seen, troubles: Sequence[Report]) -> Report:
    known = seen.abilities.get(card.name)
    broken = card.name in seen.abilities and known is None
    state: str = state_of(card, None if broken else known or UNKNOWN, seen.pool.instances, seen.downloads)
    if state == "unloaded" and troubles:
        state = "failed"
    return {
        "name": card.name, "aliases": list(card.aliases), "engine": card.engine, "description": card.description,
        "state": state, "instances": sum(one.model == card.name for one in seen.pool.instances),
        "max_instances": card.max_instances, "download": card.download_id,
        "abilities": None if known is None else _abilities(known), "troubles": list(troubles),
    }


def _abilities(known: Abilities) -> Report:
    return {
        "tasks": None if known.tasks is None else [one for one in SHOWN_TASKS if one in known.tasks],
        "context_length": known.context_length, "thinks": bool(known.thinks), "tools": known.calls_tools,
        "images": known.sees_images,
        "details": {name: known.details[name] for name in SHOWN_DETAILS if name in known.details},
    }


def _troubles(seen: Seen) -> dict[str, list[Report]]:
    """Return what is wrong, by model, each cause once."""
    found: dict[str, list[Report]] = {}

    def add(model: str, text: str, retry: float | None = None) -> None:
        told = found.setdefault(model, [])
        if text and all(one["text"] != text for one in told):
            told.append({"text": text, "retry_at": None if not retry else round(seen.now + retry)})

    for problem in seen.problems:
        add(problem.name, problem.text)
    for failed in seen.failed:
        add(failed.model, failed.problem, failed.retry_seconds)
    for lack in seen.lacks:
        add(lack.model, lack.problem, lack.retry_seconds)
    return {name: told for name, told in found.items() if told}


def _instance(one: InstanceStatus, seen: Seen) -> Report:
    info = one.info
    own = [seen.paces[request.id] for request in seen.requests if request.instance == one.id
           and request.id in seen.paces]
    idle = one.state == "ready" and not one.running
    return {
        "id": one.id, "model": one.model, "state": one.state, "progress": round(one.progress, 3),
        "running": one.running, "slots": None if info is None else info.slots,
        "context_length": None if info is None else info.context_length, "threads": one.threads, "pid": one.pid,
        "loading_since": round(seen.now - one.load_seconds) if one.state == "loading" else None,
        "load_timeout": one.load_timeout or None,
        "idle_since": round(seen.now - one.idle_seconds) if idle else None,
        "ttl": one.ttl, "silent": round(one.silent_seconds) if one.silent_seconds >= SILENT else None,
        "memory": one.memory, "measured": one.measured, "grown": one.grown, "replaced": one.replaced,
        "place": one.place or None, "devices": dict(one.devices),
        "device": None if info is None else info.details.get("device"),
        "pace": round(sum(own), 1) if own else None,
    }


def _request(one: RequestStatus, seen: Seen) -> Report:
    return {
        "id": one.id, "model": one.model, "task": one.task, "instance": one.instance,
        "place": one.place or None, "tokens": one.tokens,
        "since": round(seen.now - one.seconds, 1), "pace": seen.paces.get(one.id), **waiting_values(one.waiting),
        "state": one.state,
    }


def _ended(record: RequestRecord) -> Report:
    told = {**summary(record), "timings": timing_values(record)}
    del told["client_id"]  # a text of some client, which is nobody else's business
    return told


UNKNOWN = Abilities(None, None, None, calls_tools=False, sees_images=False, details={})
