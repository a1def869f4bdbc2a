"""Drafts of the tokens that answers may continue with; the model verifies them together with its next token."""

from collections.abc import Sequence
from time import perf_counter

from attrs import Factory, define, field, frozen

from lllms_core.engines.batching.drafting import LADDER, Acceptance, Chance, Costs, Purse, allot
from lllms_core.engines.batching.lookup import Lookup
from lllms_core.engines.batching.plan import smooth
from lllms_core.engines.batching.run import Run
from lllms_core.engines.drafter import Drafter, DraftWish
from lllms_core.engines.tokens import Feed

EXPECTED = {"new": 0.5, "short": 0.7, "long": 0.9, "predicted": 0.8, "model": 0.7}
"""The acceptance that is expected of each kind of draft at first."""
SHORT, LONG = 8, 24
"""So many equal tokens before a place that was found make its continuation likely, and very likely."""
PROBE = 3
"""The length of a draft that only finds out whether drafts pay by now."""
BY_MODEL = 16
"""The most tokens that a draft model writes at once."""
_MODEL_PRICE = 0.2
"""The cost of one token of a draft model, in usual steps, until it is known."""


@frozen
class _Offer:
    """A draft that could be verified: `tokens` that were found, or, if there are none, what the draft model writes."""

    run: Run
    kind: str
    tokens: Sequence[int]
    chance: Chance


@define
class Guesses:
    """The drafts of one answer: where they come from, and how often they were right."""

    lookup: Lookup
    acceptance: dict[str, Acceptance]


@define(eq=False)
class Speculation:
    """Decides, for all answers of a model, what is drafted in each step, and learns from it."""

    drafter: Drafter | None = None
    """A smaller model that drafts where nothing is found."""
    most: int = LADDER[-1]
    """The most drafted tokens of one answer in a step."""
    _costs: Costs = Factory(Costs)
    _purse: Purse = Factory(Purse)
    _overall: dict[str, Acceptance] = field(factory=lambda: {kind: Acceptance(rate) for kind, rate in EXPECTED.items()})
    """The acceptance in all answers, from which new ones start."""
    _drafts: dict[int, _Offer] = field(factory=dict, init=False)
    """The drafts of the step that is being taken, by their sequences."""
    _answers: int = field(default=0, init=False)
    """The number of answers in that step."""
    _price: float | None = None
    """Seconds of the draft model per token."""

    def admit(self, run: Run) -> None:
        """Follow an answer from here on, if it may have several tokens."""
        if run.limit - len(run.tokens) > 1:
            acceptance = {kind: Acceptance(one.rate) for kind, one in self._overall.items()}
            run.guesses = Guesses(Lookup(run.tokens, run.prediction), acceptance)

    def leave(self, run: Run) -> None:
        """Forget an answer that has ended, or lost its sequence."""
        if self.drafter is not None:
            self.drafter.forget(run.sequence)

    def widen(self, fed: list[tuple[Run, Feed]], most: int) -> list[tuple[Run, Feed]]:
        """Return the step with drafts, up to `most` tokens in all, if that is likely to pay."""
        self._drafts.clear()
        answers, room = len(fed), most - sum(len(feed.tokens) for _, feed in fed)
        self._answers = answers
        # A step that reads prompts is long already, and says nothing about the usual one.
        if room <= 0 or not self._purse.open or self._costs.due or not all(run.writing for run, _ in fed):
            return fed
        offers = [offer for run, feed in fed if (offer := self._offer(run, feed)) is not None]
        if not offers or answers not in self._costs.usual:
            return fed
        shares = allot(
            [offer.chance for offer in offers], answers, room, lambda drafted: self._costs.cost(answers, drafted),
        )
        if not any(shares) and self._purse.full:
            best = max(range(len(offers)), key=lambda index: offers[index].chance.rate)
            shares[best] = min(PROBE, offers[best].chance.most, room)
        drafts = self._write(offers, shares)
        if not drafts:
            return fed
        return [(run, run.feed_draft(draft) if (draft := drafts.get(run.sequence)) else feed) for run, feed in fed]

    def learn(self, fed: Sequence[tuple[Run, Feed]], seconds: float) -> None:
        """Learn from the duration of a step, before its drafts are compared."""
        drafted = 0
        for run, feed in fed:
            if len(feed.tokens) > 1:
                if run.sequence not in self._drafts:
                    return  # part of a prompt, or what a grammar has forced
                drafted += len(feed.tokens) - 1
        cost = self._costs.learn(len(fed), drafted, seconds)
        if cost is not None:
            self._purse.pay(cost)

    def settle(self, run: Run, drafted: int, right: int) -> None:
        """Learn how many of the tokens drafted for an answer were right."""
        offer, guesses = self._drafts[run.sequence], run.guesses
        assert guesses is not None  # noqa: S101  # only followed answers have drafts
        guesses.acceptance[offer.kind].learn(drafted, right)
        self._overall[offer.kind].learn(drafted, right)
        self._purse.earn(right / self._answers)

    # -- how it works -------------------------------------------------------------------------------------------------

    def _offer(self, run: Run, feed: Feed) -> _Offer | None:
        guesses = run.guesses
        # The model's own next token needs room, too; and it comes after the drafted ones.
        most = min(self.most, run.limit - len(run.tokens) - 1)
        if guesses is None or most < 1 or len(feed.tokens) != 1:
            return None
        lookup = guesses.lookup
        tokens = lookup.find(most)
        if tokens:
            kind = "predicted" if lookup.begins else _kind(lookup.alike)
            return _Offer(run, kind, tokens, Chance(guesses.acceptance[kind].rate, len(tokens)))
        if self.drafter is None:
            return None
        usual = min(self._costs.usual.values(), key=float, default=None)
        price = _MODEL_PRICE if self._price is None or not usual else self._price / usual
        return _Offer(run, "model", (), Chance(guesses.acceptance["model"].rate, min(most, BY_MODEL), price))

    def _write(self, offers: Sequence[_Offer], shares: Sequence[int]) -> dict[int, Sequence[int]]:
        """Return the drafts of these lengths, by their sequences."""
        chosen = [(offer, share) for offer, share in zip(offers, shares, strict=True) if share]
        drafts = {offer.run.sequence: offer.tokens[:share] for offer, share in chosen if offer.tokens}
        wanted = [(offer, share) for offer, share in chosen if not offer.tokens]
        if wanted and self.drafter is not None:
            started = perf_counter()
            wishes = [DraftWish(offer.run.sequence, offer.run.tokens, share) for offer, share in wanted]
            written = self.drafter.draft(wishes)
            drafts |= {offer.run.sequence: tokens for (offer, _), tokens in zip(wanted, written, strict=True) if tokens}
            count = sum(map(len, written))
            if all(written):  # the others are still being read
                self._price = smooth(self._price, (perf_counter() - started) / count)
        self._drafts = {offer.run.sequence: offer for offer, _ in chosen if offer.run.sequence in drafts}
        return drafts


def _kind(alike: int) -> str:
    if alike < SHORT:
        return "new"
    return "short" if alike < LONG else "long"
