"""The results of a comparison: pairs of figures taken in turns, with their ratios and the target."""

from collections.abc import Sequence
from statistics import median
from typing import Literal

from attrs import frozen

Wanted = Literal["at least", "at most"]


@frozen
class Comparison:
    """One figure measured against a reference, in several rounds of one run; machines drift, the ratios hold."""

    what: str
    unit: str
    ours: tuple[float, ...]
    """One figure for each round."""
    reference: tuple[float, ...]
    """The figure of the same round that it is divided by."""
    target: float | None = None
    wanted: Wanted = "at least"

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours divided by the reference, round by round; rounds without a reference figure are left out."""
        return tuple(ours / other for ours, other in zip(self.ours, self.reference, strict=True) if other)

    @property
    def ratio(self) -> float | None:
        """The median of the ratios; None if there are none."""
        return median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the median ratio meets the target; None if there is no target or no measurement."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target if self.wanted == "at least" else self.ratio <= self.target

    def as_dict(self) -> dict[str, object]:
        """Return all fields and results, for JSON."""
        return {
            "what": self.what, "unit": self.unit, "ours": list(self.ours), "reference": list(self.reference),
            "ratios": list(self.ratios), "ratio": self.ratio,
            "target": self.target, "wanted": self.wanted, "met": self.met,
        }


def best(candidates: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Return the candidate with the highest median: the best fixed setting, chosen once for all rounds."""
    return max(candidates, key=median)
