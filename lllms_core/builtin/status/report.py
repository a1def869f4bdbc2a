"""The contents of the status page and its JSON, read from a server."""

from importlib.metadata import version
from math import ceil

from attrs import asdict

from lllms_core.apis import ModelCard, Server
from lllms_core.status import (
    DownloadStatus,
    FailedLoad,
    InstanceStatus,
    Lack,
    MemoryUse,
    PlaceStatus,
    Waiting,
    progress_text,
)

Report = dict[str, object]


def make_report(server: Server) -> Report:
    """Return the state of a server in JSON's types. It holds nothing of requests or answers."""
    pool = server.status()
    return {
        "name": "lllms",
        "version": version("lllms-core"),
        "status": health(server),
        "models": [_model(card, pool.instances) for card in server.models()],
        "problems": [{"model": problem.name, "problem": problem.text} for problem in server.problems()],
        "lacking": lacking(server),
        "failed_loads": [_failed(one) for one in server.failed_loads()],
        "instances": [_instance(instance) for instance in pool.instances],
        "downloads": downloads(server),
        "requests": {
            "running": pool.running,
            "waiting": pool.waiting,
            "concurrency": pool.concurrency,
            "queue_size": pool.queue_size,
        },
        "waiting": _waiting(server),
        "cores": pool.cores,
        "memory": None if pool.memory is None else _memory(pool.memory),
        "places": [_place(one) for one in pool.places],
        "spares": [asdict(one) for one in pool.spares],
    }


def _memory(use: MemoryUse) -> Report:
    values = asdict(use)
    if not use.devices:
        del values["devices"]
    return values


def _place(one: PlaceStatus) -> Report:
    return {**asdict(one), "problem": one.problem or None, "seconds": round(one.seconds, 1)}


def waiting_values(waiting: Waiting | None) -> Report:
    """Return what a request waits for in JSON's types, and as a text for people; None: for nothing."""
    return {
        "state": None if waiting is None else waiting.state,
        "position": None if waiting is None else waiting.position,
        "progress": None if waiting is None or waiting.progress is None else round(waiting.progress, 3),
        "reason": None if waiting is None else waiting.reason or None,
        "text": None if waiting is None else str(waiting),
    }


def _waiting(server: Server) -> list[Report]:
    """Return for each model with queued requests how many there are, and what the first of them waits for."""
    queued: dict[str, list[Waiting]] = {}
    for one in server.requests():
        if one.waiting is not None and one.waiting.position is not None:
            queued.setdefault(one.model, []).append(one.waiting)
    return [
        {"model": model, "requests": len(waits), **waiting_values(min(waits, key=lambda one: one.position or 0))}
        for model, waits in queued.items()
    ]


def _failed(one: FailedLoad) -> Report:
    return {
        "model": one.model, "problem": one.problem, "failures": one.failures,
        "retry_seconds": round(one.retry_seconds, 1),
    }


def downloads(server: Server) -> list[Report]:
    """Return the running and failed downloads in JSON's types."""
    return [_download(download, server) for download in server.downloads()]


def lacking(server: Server) -> list[Report]:
    """Return the models that have fewer instances ready than they keep, in JSON's types."""
    return [_lack(one) for one in server.lacks()]


def health(server: Server) -> str:
    """Return `ok`, or `unavailable` while the server starts or stops."""
    return "ok" if server.ready else "unavailable"


def _model(card: ModelCard, instances: tuple[InstanceStatus, ...]) -> Report:
    return {
        "name": card.name,
        "aliases": list(card.aliases),
        "engine": card.engine,
        "plugin": card.plugin,
        "description": card.description,
        "instances": sum(instance.model == card.name for instance in instances),
        "max_instances": card.max_instances,
        "on_disk": card.here,
    }


def _lack(lack: Lack) -> Report:
    retry = lack.retry_seconds
    return {
        "model": lack.model,
        "ready": lack.ready,
        "min_instances": lack.kept,
        "problem": lack.problem or None,
        "retry_seconds": None if retry is None else round(retry, 1),
    }


def _instance(instance: InstanceStatus) -> Report:
    info = instance.info
    return {
        "id": instance.id,
        "model": instance.model,
        "state": instance.state,
        "progress": round(instance.progress, 3),
        "running": instance.running,
        "slots": None if info is None else info.slots,
        "context_length": None if info is None else info.context_length,
        "threads": instance.threads,
        "idle_seconds": round(instance.idle_seconds, 1),
        "load_seconds": round(instance.load_seconds, 1),
        "load_timeout": instance.load_timeout,
        "silent_seconds": round(instance.silent_seconds, 1),
        "watchdog": instance.watchdog,
        "memory": instance.memory,
        "measured": instance.measured,
        "grown": instance.grown,
        "pid": instance.pid,
        "place": instance.place or None,
        "fingerprint": instance.fingerprint,
        "replaced": instance.replaced,
        "retired": instance.retired,
        "devices": dict(instance.devices),
        "details": {} if info is None else dict(info.details),
    }


def _download(download: DownloadStatus, server: Server) -> Report:
    left = download.seconds_left
    return {
        "id": download.id,
        "models": [card.name for card in server.models() if card.download_id == download.id],
        "source": download.source,
        "place": download.place or None,
        "state": download.state,
        "note": download.note,
        "done_bytes": download.done,
        "total_bytes": download.total,
        "bytes_per_second": round(download.speed),
        "seconds_left": None if left is None else ceil(left),
        "text": progress_text(download),
    }
