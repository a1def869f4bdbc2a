"""Since when places are there, and which are not used, with the reasons; pure."""

from typing import Literal

from attrs import define, field, frozen

from lllms_core.placements import Place

LOST_SECONDS = 600.0
"""How long a lost place is remembered."""
MOST_UNUSED = 32
"""Places that are not used are remembered up to this many, the last ones."""


@frozen
class UnusedPlace:
    """A place that gets no instances."""

    place: Place
    state: Literal["refused", "lost"]
    reason: str
    since: float


@define(eq=False)
class Attendance:
    """Remembers, for people, which places came, and which are not used. Times are those of `time.monotonic`."""

    since: dict[str, float] = field(factory=dict)
    """By the id of a place that is used: when it came."""
    _unused: dict[str, UnusedPlace] = field(factory=dict)

    def there(self, place: Place, now: float) -> None:
        """A place is used: it came, came back, or its facts have changed."""
        self.since.setdefault(place.id, now)
        # A machine that was started again may have another id.
        back = [one for one, other in self._unused.items() if one == place.id or other.place.name == place.name]
        for one in back:
            del self._unused[one]

    def refused(self, place: Place, reason: str, now: float) -> None:
        """A place is there, and is not used."""
        before = self._unused.get(place.id)
        since = before.since if before is not None and before.state == "refused" else now
        self._note(UnusedPlace(place, "refused", reason, since))

    def lost(self, place: Place, reason: str, now: float) -> None:
        """A place that was used is gone."""
        self._note(UnusedPlace(place, "lost", f"it is lost: {reason}", now))

    def left(self, place: str) -> None:
        """A place that was not used is gone."""
        if (one := self._unused.get(place)) is not None and one.state == "refused":
            del self._unused[place]

    def unused(self, now: float) -> tuple[UnusedPlace, ...]:
        """Return the places that are there and not used, and those that were lost a moment ago."""
        return tuple(
            one for one in self._unused.values() if one.state == "refused" or now - one.since <= LOST_SECONDS
        )

    def _note(self, one: UnusedPlace) -> None:
        self.since.pop(one.place.id, None)
        self._unused.pop(one.place.id, None)
        self._unused[one.place.id] = one
        for oldest in [*self._unused][:-MOST_UNUSED]:
            del self._unused[oldest]
