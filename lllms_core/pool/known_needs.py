"""How much memory instances count for: as told by estimates, and as learnt from earlier ones; pure."""

from collections.abc import Collection

from attrs import evolve, frozen

from lllms_core.placements import LOCAL
from lllms_core.pool.budget import Need
from lllms_core.pool.fleet import Kind

LOAD_START, LOAD_SPEED = 1.0, 2**30
"""The assumed time of a load that was never measured: seconds to start a worker, and bytes per second after that."""
MOST_SIZES = 64
"""Of one model: its automatic sizes may differ with each load. The one learnt least recently is forgotten first."""


@frozen
class Size:
    """What a need was found out for."""

    kind: Kind
    """Of places."""
    memory: int | None = None
    """The `ModelSpec.memory`, if it was given; None: automatic sizes were chosen."""


HERE = Size(LOCAL)
"""On this machine, without a placement."""


class KnownNeeds:
    """The needs of models, as far as they are known."""

    def __init__(self) -> None:
        self.needs: dict[str, dict[Size, Need]] = {}
        """By model, as estimated or configured, as far as known; without a memory limit nobody asks for them."""
        self.fixed: set[str] = set()
        """Models whose need is configured: whatever is measured, they count for that."""
        self.load_seconds: dict[str, float] = {}
        """By model: the time that its loads took."""
        self._learnt: dict[str, dict[int, int]] = {}
        """By model, and by what its instances are told to need: the private bytes that they are known to take."""

    def take(self, model: str, size: Size, need: Need, kinds: Collection[Kind]) -> None:
        """Record a need; those for kinds of places that there are no more are forgotten."""
        known = {one: other for one, other in self.needs.get(model, {}).items() if one.kind in kinds}
        self.needs[model] = {**known, size: need} if size.kind in kinds else known

    def need(self, model: str, size: Size = HERE) -> Need:
        """Return what an instance of this model counts for; nothing while unknown."""
        need = self.needs.get(model, {}).get(size, Need())
        learnt = self._learnt.get(model)
        if model in self.fixed or not learnt:
            return need
        smaller = tuple(one.raised(learnt.get(one.told, 0)) for one in need.smaller)
        return evolve(need.raised(learnt.get(need.told, 0)), smaller=smaller)

    def learn(self, model: str, told: int, private: int, load_seconds: float | None = None) -> None:
        """Count the next instances of a model that are `told` to need that much with what is known of earlier ones.

        What is learnt only raises a need.
        """
        known = self._learnt.setdefault(model, {})
        known[told] = max(private, known.pop(told, 0))
        if len(known) > MOST_SIZES:
            del known[next(iter(known))]
        if load_seconds is not None:
            self.load_seconds[model] = load_seconds

    def forget(self, model: str) -> None:
        """Forget a model's need: its files may have changed."""
        self.needs.pop(model, None)
        self._learnt.pop(model, None)
        self.load_seconds.pop(model, None)

    def reload_seconds(self, model: str, need: Need) -> float:
        """Return how long the load of an instance with this need will take."""
        return self.load_seconds.get(model, LOAD_START + need.total / LOAD_SPEED)
