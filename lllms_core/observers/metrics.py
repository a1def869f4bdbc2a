"""The measurements of a server in Prometheus' format.

What has happened is counted: a request at its end, so that a token costs nothing. The present state is read at each
scrape. Labels have few values: names of models and of places, states, causes, HTTP statuses.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import cast

from attrs import frozen
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from lllms_core.events import (
    Event,
    FilesEnded,
    InstanceDied,
    LoadEnded,
    PlaceDeparted,
    RequestRefused,
    RequestRequeued,
    UnloadBegun,
)
from lllms_core.status import DownloadStatus, PoolStatus, RequestRecord, RequestStatus

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""The buckets of waits, loads and whole requests."""
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


@frozen
class Now:
    """What a scrape reads of a server."""

    pool: PoolStatus
    requests: tuple[RequestStatus, ...]
    models: tuple[str, ...]
    downloads: tuple[tuple[str, DownloadStatus], ...]
    """With the name of the model whose files they are."""


class Metrics:
    """Counts what a host does. Each host has its own, so several in one process do not mix."""

    def __init__(self, now: Callable[[], Now]) -> None:
        """`now` is called at each scrape."""
        self._registry = registry = CollectorRegistry(auto_describe=False)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"lllms_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"lllms_{name}", text, labels, registry=registry, buckets=buckets)

        self._requests = counter(
            "requests", "Requests for models that have ended, by outcome and usual HTTP status.", "model", "task",
            "outcome", "status",
        )
        self._refused = counter(
            "refused_requests", "HTTP requests answered with an error before they became requests for a model.",
            "route", "status",
        )
        self._prompt = counter("prompt_tokens", "Tokens of prompts, those from a cache included.", "model")
        self._cached = counter("cached_prompt_tokens", "Tokens of prompts that were in a cache.", "model")
        self._generated = counter("generated_tokens", "Tokens that models have generated.", "model")
        self._drafted = counter("drafted_tokens", "Drafted tokens, by the model's verdict.", "model", "verdict")
        self._seconds = histogram(
            "request_duration_seconds", "Time from submission to the end of the answer.", SECONDS, "model", "task",
        )
        self._queue = histogram(
            "request_queue_seconds", "Time that requests waited for their turn, without loads.", SECONDS, "model",
        )
        self._first = histogram(
            "time_to_first_token_seconds", "Time from submission to the first piece of the answer.", SECONDS, "model",
        )
        self._between = histogram(
            "inter_token_seconds", "Time between two tokens: the mean of each answer.", TOKEN_SECONDS, "model",
        )
        self._lengths = histogram("answer_tokens", "Tokens of each answer.", TOKENS, "model")
        self._loads = counter("loads", "Loads of instances, by result.", "model", "result")
        self._load_seconds = histogram("load_duration_seconds", "Time that successful loads took.", SECONDS, "model")
        self._unloads = counter(
            "unloads", "Instances unloaded: idle, for the room of others, for growth, or by a new configuration.",
            "model", "cause",
        )
        self._evictions = counter("evictions", "Instances unloaded for the room of another model.", "model", "room_for")
        self._deaths = counter("instance_deaths", "Loaded instances whose worker died or was killed.", "model")
        self._lost = counter("lost_places", "Places that were lost, with all their instances.", "place")
        self._requeued = counter(
            "requeued_requests", "Requests queued again because their place was lost before they had an answer.",
            "model",
        )
        self._downloads = counter("downloads", "Fetches of models' files, by result.", "model", "result")
        registry.register(_Present(now))
        ProcessCollector(registry=registry)

    def ended(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        model, times = record.model, record.timings
        self._requests.labels(model, record.task, record.outcome, record.status).inc()
        self._seconds.labels(model, record.task).observe(record.seconds)
        self._queue.labels(model).observe(times.queued)
        if record.prompt_tokens:
            self._prompt.labels(model).inc(record.prompt_tokens)
            self._cached.labels(model).inc(record.cached_tokens)
        for verdict, count in (("accepted", record.accepted_tokens), ("rejected", record.rejected_tokens)):
            if count:
                self._drafted.labels(model, verdict).inc(count)
        if record.task in {"chat", "text"} and record.tokens:
            self._generated.labels(model).inc(record.tokens)
            self._lengths.labels(model).observe(record.tokens)
            if record.first_piece is not None:
                self._first.labels(model).observe(record.first_piece)
            if record.seconds_per_token is not None:
                self._between.labels(model).observe(record.seconds_per_token)

    def __call__(self, event: Event) -> None:
        """Count what happens to instances and files, and what is refused."""
        match event:
            case RequestRefused(route=route, status=status):
                self._refused.labels(route, status).inc()
            case LoadEnded(model=model, seconds=seconds, problem=None):
                self._loads.labels(model, "done").inc()
                self._load_seconds.labels(model).observe(seconds)
            case LoadEnded(model=model):
                self._loads.labels(model, "failed").inc()
            case UnloadBegun(model=model, cause=cause, room_for=room_for):
                self._unloads.labels(model, cause).inc()
                if room_for is not None:
                    self._evictions.labels(model, room_for).inc()
            case InstanceDied(model=model):
                self._deaths.labels(model).inc()
            case PlaceDeparted(name=name):
                self._lost.labels(name).inc()
            case RequestRequeued(model=model):
                self._requeued.labels(model).inc()
            case FilesEnded(model=model, result=result):
                self._downloads.labels(model, result).inc()
            case _:
                pass  # requests are counted at their ends

    def write(self, accept: str) -> tuple[bytes, str]:
        """Return all measurements, in the format that a scraper accepts, and the type of their content."""
        encode, content_type = choose_encoder(accept)
        return encode(cast(CollectorRegistry, _WithoutBirths(self._registry))), content_type


class _WithoutBirths(Collector):
    """Leaves out when each series began, which nobody asks for and doubles what a scrape transfers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


class _Present(Collector):
    """Reads the present state at each scrape."""

    def __init__(self, now: Callable[[], Now]) -> None:
        self._now = now

    def collect(self) -> Iterator[Metric]:
        now = self._now()
        yield InfoMetricFamily("lllms_build", "The version of the server.", {"version": version("lllms-core")})
        yield from _pool(now.pool)
        yield from _requests(now)
        yield from _instances(now)
        yield from _memory(now.pool)
        yield from _places(now.pool)
        yield from _transfers(now)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"lllms_{name}", text, value=value)


def _pool(pool: PoolStatus) -> Iterator[Metric]:
    yield _gauge("concurrency_limit", "The most requests that run at once.", pool.concurrency)
    yield _gauge("queue_limit", "The most requests that wait.", pool.queue_size)
    yield _gauge("cores", "The cores that are divided among busy instances.", pool.cores)


def _requests(now: Now) -> Iterator[Metric]:
    running = GaugeMetricFamily("lllms_running_requests", "Requests that hold a slot.", labels=["model"])
    waiting = GaugeMetricFamily("lllms_waiting_requests", "Requests in the queue, by model.", labels=["model"])
    for model in now.models:
        own = [one for one in now.requests if one.model == model]
        running.add_metric([model], sum(one.instance is not None for one in own))
        waiting.add_metric([model], sum(one.instance is None for one in own))
    yield running
    yield waiting


def _instances(now: Now) -> Iterator[Metric]:
    count = GaugeMetricFamily("lllms_instances", "Instances, by model and state.", labels=["model", "state"])
    slots = GaugeMetricFamily("lllms_slots", "Slots of the loaded instances.", labels=["model"])
    told = GaugeMetricFamily(
        "lllms_instance_memory_bytes", "Memory of instances by their estimates; with a memory limit only.",
        labels=["model"],
    )
    measured = GaugeMetricFamily(
        "lllms_instance_measured_bytes", "Memory that instances were last measured to take.", labels=["model"],
    )
    for model in now.models:
        own = [one for one in now.pool.instances if one.model == model]
        for state in ("loading", "ready", "closing"):
            count.add_metric([model, state], sum(one.state == state for one in own))
        slots.add_metric([model], sum(one.info.slots for one in own if one.info is not None))
        told.add_metric([model], sum(one.memory or 0 for one in own))
        measured.add_metric([model], sum(one.measured or 0 for one in own))
    yield from (count, slots, told, measured)


def _memory(pool: PoolStatus) -> Iterator[Metric]:
    if pool.memory is None:
        return
    yield _gauge("memory_limit_bytes", "The memory that the server may use (server.memory_limit).", pool.memory.limit)
    yield _gauge("memory_used_bytes", "Memory in use: the server, its sessions, all instances.", pool.memory.used)
    yield _gauge(
        "memory_session_bytes", "Memory of stored sessions, which give way to instances.", pool.memory.sessions,
    )
    if pool.memory.available is not None:
        yield _gauge("memory_available_bytes", "Memory that is free on the machine now.", pool.memory.available)


def _places(pool: PoolStatus) -> Iterator[Metric]:
    count = GaugeMetricFamily("lllms_places", "Machines of the placement, by state.", labels=["state"])
    gauges = {
        name: GaugeMetricFamily(f"lllms_place_{name}", text, labels=["place"]) for name, text in (
            ("instances", "Instances at a place."),
            ("cores", "The cores that are divided among the busy instances of a place."),
            ("memory_limit_bytes", "The memory that the instances of a place may take; absent without a limit."),
            ("memory_used_bytes", "The memory of the instances of a place, by their estimates."),
        )
    }
    used = [one for one in pool.places if one.state in {"used", "avoided"}]
    if pool.places:
        for state in ("used", "avoided", "refused", "lost"):
            count.add_metric([state], sum(one.state == state for one in pool.places))
    for name in dict.fromkeys(one.name for one in used):  # two may have the same
        own = [one for one in used if one.name == name]
        gauges["instances"].add_metric([name], sum(one.instances for one in own))
        gauges["cores"].add_metric([name], sum(one.cores for one in own))
        gauges["memory_used_bytes"].add_metric([name], sum(one.used for one in own))
        if any(one.memory is not None for one in own):
            gauges["memory_limit_bytes"].add_metric([name], sum(one.memory or 0 for one in own))
    yield from (count, *gauges.values())


def _transfers(now: Now) -> Iterator[Metric]:
    done = GaugeMetricFamily(
        "lllms_download_done_bytes", "Bytes on the disk of the files that are being fetched.", labels=["model"],
    )
    total = GaugeMetricFamily("lllms_download_size_bytes", "Bytes of these files.", labels=["model"])
    for model, download in now.downloads:
        done.add_metric([model], download.done)
        if download.total is not None:
            total.add_metric([model], download.total)
    yield from (done, total)
