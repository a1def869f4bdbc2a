"""When idle instances have been idle for too long; pure. An event costs only what has changed by it."""

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

from lllms_core.pool.fleet import Fleet
from lllms_core.pool.state import NEVER, InstanceEntry, ModelLimits

SLACK = 64
"""The heap may hold this many times out of date, and as many as there are that are not."""


class Deadlines:
    """The times of many things, and the first of them."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def set(self, key: str, at: float | None) -> None:
        """Set the time of a thing; None: it has none."""
        if at is None:
            self._at.pop(key, None)
        elif self._at.get(key) != at:
            self._at[key] = at
            heappush(self._heap, (at, key))
            if len(self._heap) > 2 * len(self._at) + SLACK:
                self._heap = [(at, key) for key, at in self._at.items()]
                heapify(self._heap)

    def first(self) -> float | None:
        """Return the first time; None if there is none."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[str]:
        """Return the things whose time has come."""
        found: list[str] = []
        while (at := self.first()) is not None and at <= now:
            found.append(heappop(self._heap)[1])
            del self._at[found[-1]]
        return found


class Expiring:
    """The idle instances that will be unloaded in time: no request waits for their models, which do not keep them."""

    def __init__(self, fleet: Fleet, models: Mapping[str, ModelLimits], waited: Callable[[str], bool]) -> None:
        """`waited`: whether requests wait for a model."""
        self._fleet = fleet
        self._models = models
        self._waited = waited
        self._deadlines = Deadlines()
        self._expire: set[str] = set()
        """The models whose idle instances expire."""

    def first(self) -> float | None:
        """Return when the first instance expires."""
        return self._deadlines.first()

    def update(self, touched: set[str], moved: set[str]) -> None:
        """Take account of these models, whose instances or requests have changed, and of these instances."""
        for model in touched:
            expire = model in self._models and self._fleet.spare(model) > 0 and not self._waited(model)
            if expire != (model in self._expire):
                (self._expire.add if expire else self._expire.discard)(model)
                moved.update(entry.id for entry in self._fleet.alive(model))
        for instance in moved:
            entry = self._fleet.instances.get(instance)
            self._deadlines.set(instance, None if entry is None else self._at(entry))

    def due(self, now: float) -> list[InstanceEntry]:
        """Return the instances whose time has come, the longest idle first; unload those that are spare."""
        return sorted(
            (self._fleet.instances[instance] for instance in self._deadlines.due(now)), key=lambda one: one.idle_since,
        )

    def limit(self, entry: InstanceEntry) -> float | None:
        """Return the idle seconds after which an instance is unloaded; None: never."""
        if entry.retired:
            return 0.0
        ttl = self._ttl(entry)
        return None if ttl == NEVER or self._fleet.spare(entry.model) <= 0 else ttl

    def _at(self, entry: InstanceEntry) -> float | None:
        if not entry.idle or entry.retired or entry.model not in self._expire:
            return None
        ttl = self._ttl(entry)
        return None if ttl == NEVER else entry.idle_since + ttl

    def _ttl(self, entry: InstanceEntry) -> float:
        return self._models[entry.model].ttl if entry.ttl is None else entry.ttl
