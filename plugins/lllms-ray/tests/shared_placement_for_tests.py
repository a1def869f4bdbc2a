"""One open placement for many tests."""

from collections.abc import Callable
from pathlib import PurePath

from lllms_ray import RayOptions, RayPlacement
from waits_for_tests import until

from lllms_core.placements import FileKey, Launch, Launched, NoPlacementOptions, Place, PlaceEvents, Placement


class SharedPlacement(Placement):
    """A placement that stays open: each test opens and closes its use of it."""

    name = "ray"
    Options = NoPlacementOptions

    def __init__(self) -> None:
        self.real = RayPlacement()
        self.places: dict[str, Place] = {}
        self.told: list[tuple[str, str]] = []
        """Names of places that are gone, and why."""
        self.hidden: set[str] = set()
        """Names of places that are not told."""
        self._events: PlaceEvents | None = None

    async def begin(self, options: RayOptions) -> None:
        """Open it."""
        await self.real.open(options, self)

    async def end(self) -> None:
        """Close it."""
        await self.real.close()

    def there(self, place: Place) -> None:
        """Pass a place on."""
        self.places[place.id] = place
        if self._events is not None and place.name not in self.hidden:
            self._events.there(place)

    def gone(self, place: str, reason: str) -> None:
        """Pass a loss on."""
        known = self.places.pop(place)
        self.told.append((known.name, reason))
        if self._events is not None and known.name not in self.hidden:
            self._events.gone(place, reason)

    def place(self, name: str) -> Place:
        """Return the place of this name."""
        [found] = [one for one in self.places.values() if one.name == name]
        return found

    def has(self, name: str) -> bool:
        """Whether there is a place of this name."""
        return any(one.name == name for one in self.places.values())

    async def whole(self, *names: str) -> None:
        """Wait until there are these places, and no others."""
        await until(lambda: sorted(one.name for one in self.places.values()) == sorted(names), 0.05)

    def hide(self, name: str) -> None:
        """Let a place be gone, for the test that uses it."""
        self.hidden.add(name)
        assert self._events is not None
        self._events.gone(self.place(name).id, "hidden")

    async def open(self, options: object, events: PlaceEvents) -> None:
        """Tell of the places."""
        self._events = events
        self.hidden.clear()
        for place in self.places.values():
            events.there(place)

    async def launch(self, place: str, launch: Launch) -> Launched:
        """Start a worker."""
        return await self.real.launch(place, launch)

    async def find(self, place: str, file: FileKey) -> PurePath | None:
        """Find a file."""
        return await self.real.find(place, file)

    async def fetch(self, place: str, source: str, file: FileKey, progress: Callable[[float], None]) -> PurePath:
        """Fetch a file."""
        return await self.real.fetch(place, source, file, progress)

    async def close(self) -> None:
        """Tell of places no more."""
        self._events = None
