"""How many tokens to draft for which answer, from what steps cost and how often drafts were right; pure.

A step that evaluates `n` drafted tokens beside its usual ones takes longer, and brings more tokens if they are right.
Costs are counted in usual steps, and learnt from the durations of steps; a `Purse` bounds what wrong drafts may lose.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

from attrs import Factory, define, frozen

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 31, 48, 64)
"""The numbers of drafted tokens of one step, in all its answers."""
MARGIN = 1.05
"""The expected gain must be at least this, or nothing is drafted."""
NEIGHBOURS = 2.0
"""The most that a step may take, in usual steps, while others only wait for their next token in it."""
SLOPE = 0.35
"""The cost of one more token in a step of one, until it is known: that of a small processor."""
HOPE = 0.7
"""An unknown cost beyond the known ones grows by this share of their slope, so that longer drafts are tried."""
SMOOTHING = 0.3
OUTLIER = 2.0
"""A step counts for at most so many times its expected cost: it may have been disturbed."""
OLD = 2000
"""A cost that was last measured so many steps ago is forgotten."""
REFRESH = 32
"""After so many steps with drafts, one without measures the usual step again."""
SHARE = 0.01
"""The share of all steps that wrong drafts may lose."""
FIRST, FULL = 2.0, 6.0
"""Steps that may be lost at first, and that may be saved up."""
PRIOR = 2.0
"""What is expected of a draft counts like so many drafted tokens."""
FADING = 0.85


@define
class Acceptance:
    """The share of drafted tokens that were right, the latest counting most."""

    expected: float
    """What to expect before anything is known."""
    right: float = 0.0
    tried: float = 0.0

    @property
    def rate(self) -> float:
        """The probability that the next drafted token is right, given that those before it were."""
        return min(0.995, (self.right + PRIOR * self.expected) / (self.tried + PRIOR))

    def learn(self, drafted: int, right: int) -> None:
        """Learn that the first `right` of `drafted` tokens were right, and the next one, if there was one, wrong."""
        self.right = self.right * FADING + right
        self.tried = self.tried * FADING + right + (right < drafted)


@define
class Costs:
    """The duration of steps, by the number of answers in them and of the tokens drafted for them."""

    steps: int = 0
    since_plain: int = 0
    """Steps with drafts since the last one without."""
    usual: dict[int, float] = Factory(dict)
    """Seconds of a step without drafts, by the number of answers."""
    _known: dict[int, dict[int, tuple[float, int]]] = Factory(dict)
    """By answers and drafted tokens (a number of `LADDER`): the cost in usual steps, and when it was measured."""

    @property
    def due(self) -> bool:
        """Whether the usual step should be measured again."""
        return self.since_plain >= REFRESH

    def learn(self, answers: int, drafted: int, seconds: float) -> float | None:
        """Learn from a step; return its cost in usual steps, None if those are unknown."""
        self.steps += 1
        usual = self.usual.get(answers)
        if not drafted:
            self.since_plain = 0
            known = seconds if usual is None else usual + SMOOTHING * (min(seconds, OUTLIER * usual) - usual)
            self.usual[answers] = known
            return 1.0
        self.since_plain += 1
        if usual is None:
            return None
        cost = min(seconds / max(usual, 1e-9), OUTLIER * self.cost(answers, drafted))
        rung = max(one for one in LADDER if one <= drafted)
        table = self._known.setdefault(answers, {})
        of_rung = 1 + (cost - 1) * rung / drafted
        # The first measurement may have been disturbed, like any other, so what was expected counts, too.
        old = self.cost(answers, rung)
        table[rung] = max(1.0, old + SMOOTHING * (of_rung - old)), self.steps
        return cost

    def cost(self, answers: int, drafted: int) -> float:
        """Return what a step with this many drafted tokens takes, in usual steps: measured, or guessed from those."""
        if not drafted:
            return 1.0
        table = self._known.get(answers, {})
        for rung in [one for one, (_, when) in table.items() if self.steps - when > OLD]:
            del table[rung]
        below, above = (0, 1.0), None
        slope = SLOPE / (1 + SLOPE * (answers - 1))
        for rung in sorted(table):
            cost = table[rung][0]
            if rung > drafted:
                above = rung, cost
                break
            if rung > below[0]:
                slope = HOPE * max(0.0, (cost - below[1]) / (rung - below[0]))
                below = rung, cost
        if above is not None:
            slope = (above[1] - below[1]) / (above[0] - below[0])
        return max(1.0, below[1] + slope * (drafted - below[0]))


@define
class Purse:
    """What drafts may still lose, in usual steps: a small share of all steps, and never more than was saved up."""

    left: float = FIRST

    @property
    def open(self) -> bool:
        """Whether anything may be risked."""
        return self.left > 0

    @property
    def full(self) -> bool:
        """Whether so much was saved up that a draft may be tried though it is not expected to pay."""
        return self.left >= FULL

    def pay(self, cost: float) -> None:
        """Count a step that took `cost` usual steps."""
        self.left = min(FULL, self.left + SHARE * cost - (cost - 1))

    def earn(self, gain: float) -> None:
        """Count the tokens that drafts have brought, in usual steps."""
        self.left = min(FULL, self.left + gain)


@frozen
class Chance:
    """An answer for which up to `most` tokens can be drafted.

    Each is right with probability `rate`, if those before it are.
    """

    rate: float
    most: int
    price: float = 0.0
    """What drafting one token takes, in usual steps."""


def allot(chances: Sequence[Chance], answers: int, room: int, cost: Callable[[int], float]) -> list[int]:
    """Return how many tokens to draft for each, so that the expected tokens per time are most; zeros if none gain.

    The step generates for `answers` answers, has room for `room` more tokens, and takes `cost(n)` usual steps with `n`
    drafted tokens.
    """
    # The likeliest tokens first: as each is less likely than the one before it, they are the beginnings of drafts.
    survivals = sorted(
        ((chance.rate ** (depth + 1), index, chance.price) for index, chance in enumerate(chances)
         for depth in range(min(chance.most, LADDER[-1]))),
        key=lambda one: (-one[0], one[1]),
    )[: max(0, room)]
    gains = [0.0, *accumulate(one[0] for one in survivals)]
    prices = [0.0, *accumulate(one[2] for one in survivals)]
    alone = answers <= len(chances)
    best, best_value = 0, MARGIN
    for count in {one for one in (*LADDER, len(survivals)) if 0 < one <= len(survivals)}:
        step = cost(count)
        if not alone and step > NEIGHBOURS:
            continue
        value = (answers + gains[count]) / (answers * (step + prices[count]))
        if value > best_value:
            best, best_value = count, value
    shares = [0] * len(chances)
    for _, index, _ in survivals[:best]:
        shares[index] += 1
    return shares
