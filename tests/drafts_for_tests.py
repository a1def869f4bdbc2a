"""Speculation whose costs are given instead of measured, so that what it does is certain."""

from collections.abc import Sequence

from attrs import define

from lllms_core.engines import Drafter, DraftWish, Speculation
from lllms_core.engines.batching.drafting import Costs, Purse


class FreeCosts(Costs):
    """Drafted tokens cost nothing, so that as many as possible are drafted in each step."""

    due = False  # type: ignore[assignment]  # a constant instead of the property

    def __init__(self) -> None:
        super().__init__(usual=dict.fromkeys(range(1, 300), 1.0))

    def cost(self, answers: int, drafted: int) -> float:  # as the base
        return 1.0

    def learn(self, answers: int, drafted: int, seconds: float) -> float | None:  # as the base
        return None


@define
class FullPurse(Purse):
    """It never empties."""

    open = True  # type: ignore[assignment]  # a constant instead of the property


def free_drafts(drafter: Drafter | None = None, most: int = 12) -> Speculation:
    """Speculation that drafts whenever it can, up to `most` tokens per answer."""
    return Speculation(drafter, most, FreeCosts(), FullPurse())


@define
class Oracle:
    """Drafts what a function says comes next, with a wrong token at the end of each draft of a certain length."""

    following: object
    wrong_after: int
    asked: int = 0

    def draft(self, wishes: Sequence[DraftWish]) -> Sequence[Sequence[int]]:
        return [self._draft(wish) for wish in wishes]

    def _draft(self, wish: DraftWish) -> list[int]:
        self.asked += 1
        tokens = list(wish.tokens)
        for number in range(wish.count):
            assert callable(self.following)
            token = self.following(tokens)
            tokens.append(token + 1 if number == self.wrong_after else token)
        return tokens[len(wish.tokens) :]

    def forget(self, sequence: int) -> None:
        """Nothing is held."""
