"""How much memory instances count for: as told by estimates, and as learnt from earlier ones; pure."""

from attrs import evolve

from lllms_core.pool.budget import Need

LOAD_START, LOAD_SPEED = 1.0, 2**30
"""The assumed time of a load that was never measured: seconds to start a worker, and bytes per second after that."""
MOST_SIZES = 64
"""Of one model: its automatic sizes may differ with each load. The one learnt least recently is forgotten first."""


class KnownNeeds:
    """The needs of models, as far as they are known."""

    def __init__(self) -> None:
        self.needs: dict[str, Need] = {}
        """By model, as estimated or configured, as far as known; without a memory limit nobody asks for them."""
        self.fixed: set[str] = set()
        """Models whose need is configured: whatever is measured, they count for that."""
        self.load_seconds: dict[str, float] = {}
        """By model: the time that its loads took."""
        self._learnt: dict[str, dict[int, int]] = {}
        """By model, and by what its instances are told to need: the private bytes that they are known to take."""

    def need(self, model: str) -> Need:
        """Return what an instance of this model counts for; nothing while unknown."""
        need = self.needs.get(model, Need())
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
