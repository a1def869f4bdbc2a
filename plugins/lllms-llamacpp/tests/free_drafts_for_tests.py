"""Lets a loaded model draft whenever it can, whatever that costs."""

from typing import Any

from lllms_core.engines.batching.drafting import Costs, Purse


class NoCosts(Costs):
    """A step takes equally long with any number of drafted tokens."""

    due = False  # type: ignore[assignment]  # a constant instead of the property

    def __init__(self) -> None:
        super().__init__(usual=dict.fromkeys(range(1, 300), 1.0))

    def cost(self, answers: int, drafted: int) -> float:  # as the base
        return 1.0

    def learn(self, answers: int, drafted: int, seconds: float) -> float | None:  # as the base
        return None


class Endless(Purse):
    """A purse that never empties."""

    open = True  # type: ignore[assignment]  # a constant instead of the property


def draft_freely(model: Any) -> Any:
    """Make a model draft whenever it can; return it."""
    model._drafts._costs = NoCosts()
    model._drafts._purse = Endless()
    return model
