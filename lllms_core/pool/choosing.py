"""Where the next instance of a model is loaded, and how large it is if its sizes are automatic; pure."""

from collections.abc import Sequence
from typing import Literal, Protocol

from attrs import frozen

from lllms_core.pool.budget import Admit, Decision, Evict, Need, Never, Shrink, Wait

_EFFORT: dict[type[Shrink | Evict | Wait], int] = {Shrink: 0, Evict: 1, Wait: 2}
"""Of what makes room in a bounded time; the least first."""
_WAITS: dict[Literal["closing", "loading", "busy", "machine"], int] = {"machine": 0, "loading": 1, "busy": 2}
"""Of what nobody bounds, the kind to report: memory that other programs hold must be looked for."""


class Option(Protocol):
    """A place at which an instance may be loaded."""

    @property
    def place(self) -> str:
        """Its id."""

    @property
    def needs(self) -> Sequence[Need]:
        """What an instance may need there: one, or several of automatic sizes, in descending order."""

    def decide(self, need: Need) -> Decision:
        """Decide about an instance there."""


@frozen
class PlaceChoice:
    """A decision about an instance, at a place."""

    place: str
    need: Need
    decision: Decision


def choose(options: Sequence[Option]) -> PlaceChoice:
    """Decide about an instance that needs one of the needs of one of the `options`, which are in order, best first.

    The largest needs go first, even if idle instances must be unloaded for one. A smaller one is taken rather than to
    wait for loading or busy instances, and rather than to give up. What only a wait can serve waits for the largest
    that can ever fit. Of the places the first with room is taken, or else the one where the least makes room.
    """
    waits: list[PlaceChoice] = []
    for rank in range(max(len(option.needs) for option in options)):
        bounded: list[tuple[int, PlaceChoice]] = []
        unbounded: list[tuple[int, PlaceChoice]] = []
        for option in [option for option in options if rank < len(option.needs)]:
            need = option.needs[rank]
            decision = option.decide(need)
            match decision:
                case Admit():
                    return PlaceChoice(option.place, need, decision)
                case Never():
                    continue
                case Wait(reason) if reason != "closing":
                    unbounded.append((_WAITS[reason], PlaceChoice(option.place, need, decision)))
                case _:
                    bounded.append((_EFFORT[type(decision)], PlaceChoice(option.place, need, decision)))
        if bounded:
            return min(bounded, key=_first)[1]
        if unbounded and not waits:
            waits.append(min(unbounded, key=_first)[1])
    first = options[0]
    return waits[0] if waits else PlaceChoice(first.place, first.needs[-1], first.decide(first.needs[-1]))


def _first(ranked: tuple[int, PlaceChoice]) -> int:
    return ranked[0]
