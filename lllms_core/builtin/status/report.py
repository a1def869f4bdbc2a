"""What the status page and its JSON tell, read from a host."""

from importlib.metadata import version

from lllms_core.catalog import CatalogEntry
from lllms_core.host import Host
from lllms_core.status import DownloadStatus, InstanceStatus, Lack, progress_text
from lllms_core.store import download_id

Report = dict[str, object]


def make_report(host: Host) -> Report:
    """Return the state of a host in JSON's types. It holds nothing of what anybody asked or was answered."""
    pool = host.status()
    return {
        "name": "lllms",
        "version": version("lllms-core"),
        "status": health(host),
        "models": [_model(entry, pool.instances) for entry in host.catalog.entries],
        "problems": [{"model": problem.name, "problem": problem.text} for problem in host.catalog.problems],
        "lacking": lacking(host),
        "instances": [_instance(instance) for instance in pool.instances],
        "downloads": downloads(host),
        "requests": {
            "running": pool.running,
            "waiting": pool.waiting,
            "concurrency": pool.concurrency,
            "queue_size": pool.queue_size,
        },
        "cores": pool.cores,
    }


def downloads(host: Host) -> list[Report]:
    """Return what is on its way, and what failed, in JSON's types."""
    return [_download(download, host) for download in host.downloads()]


def lacking(host: Host) -> list[Report]:
    """Return which models have fewer instances ready than they keep, in JSON's types."""
    return [_lack(one) for one in host.lacks()]


def health(host: Host) -> str:
    """Return `ok`, or `unavailable` while the host starts or stops."""
    return "ok" if host.ready else "unavailable"


def _model(entry: CatalogEntry, instances: tuple[InstanceStatus, ...]) -> Report:
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "engine": entry.engine.name,
        "plugin": entry.plugin,
        "description": entry.description,
        "instances": sum(instance.model == entry.name for instance in instances),
        "max_instances": entry.config.max_instances,
        "on_disk": entry.here,
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
        "silent_seconds": round(instance.silent_seconds, 1),
        "pid": instance.pid,
        "details": {} if info is None else dict(info.details),
    }


def _download(download: DownloadStatus, host: Host) -> Report:
    left = download.seconds_left
    return {
        "id": download.id,
        "models": [one.name for one in host.catalog.entries if one.source and download_id(one.source) == download.id],
        "source": download.source,
        "state": download.state,
        "note": download.note,
        "done_bytes": download.done,
        "total_bytes": download.total,
        "bytes_per_second": round(download.speed),
        "seconds_left": None if left is None else round(left),
        "text": progress_text(download),
    }
