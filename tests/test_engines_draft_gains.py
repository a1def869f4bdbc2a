"""What speculation gains and loses, with steps whose durations are given: the clock is the test's."""

from collections.abc import Callable

import pytest
from attrs import define

from lllms_core.engines import BatchingModel, Speculation
from lllms_core.engines.batching import model as batching_model
from lllms_core.engines.batching import speculation as batching_speculation
from lllms_core.engines.batching.drafting import NEIGHBOURS
from lllms_core.types import TextRequest

SMALL, LARGE = 0.45, 0.02
"""The cost of one more row in a step, in steps of one: of a small processor, and of a machine with many."""
ANSWER = 1500
OTHER = 10_000
"""The first token of a prompt whose answer repeats nothing, whatever the script."""


class Clock:
    """The time, which only steps and drafts take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@define
class Scripted:
    """Chooses the tokens of a script, by their place."""

    model: "TimedModel"
    script: Callable[[int], int]

    def sample(self, row):
        return self.script(self.model.places[row])

    def close(self):
        pass


class TimedModel(BatchingModel):
    """Its answers are a script; a step takes as long as its rows say."""

    def __init__(self, clock, script, slope, speculation, slots=1):
        super().__init__(slots=slots, context_length=4000, kv_size=4000 * slots, logit_rows=32, speculation=speculation)
        self.clock, self.script, self.slope = clock, script, slope
        self.places: list[int] = []

    def tokenize(self, segments):
        return [1]

    def piece(self, token):
        return b"x"

    def is_end(self, token):
        return False

    def sampler(self, sampling, prompt):
        return Scripted(self, self.script if prompt[0] != OTHER else lambda at: OTHER + 1 + at)

    def decode(self, feeds):
        self.clock.now += 0.01 * (1 + self.slope * (sum(len(feed.tokens) for feed in feeds) - 1))
        self.places, last = [], []
        for feed in feeds:
            end = feed.position + len(feed.tokens)
            self.places += range(feed.position + 1 if feed.all_logits else end, end + 1)
            if feed.logits:
                last.append(len(self.places) - 1)
        return last

    def trim(self, sequence, length):
        return True

    def copy(self, source, target, length):
        pass


@define
class Small:
    """A draft model: a token takes so many seconds, and `right` says which places it guesses."""

    clock: Clock
    script: object
    right: object
    seconds: float = 0.001

    def draft(self, wishes):
        drafts = []
        for wish in wishes:
            start = len(wish.tokens)
            self.clock.now += self.seconds * wish.count
            places = range(start, start + wish.count)
            drafts.append([self.script(at) if self.right(at) else 0 for at in places])
        return drafts

    def forget(self, sequence):
        pass


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(batching_model, "perf_counter", clock)
    monkeypatch.setattr(batching_speculation, "perf_counter", clock)
    return clock


def seconds(clock, script, slope, speculation, clients=1):
    """How long answers take, in steps without drafts."""
    model = TimedModel(clock, script, slope, speculation, clients)
    for client in range(clients):
        prompt = tuple(range(1_000_000, 1_000_010))
        model.open(TextRequest(f"r{client}", "m", prompt, max_tokens=ANSWER, cache_prompt=False))
    model.step()  # the prompts
    begun = clock.now
    while not model.idle:
        model.step()
    return (clock.now - begun) / (0.01 * (1 + slope * (clients - 1)))


def fresh(at):
    """A script in which nothing repeats."""
    return 2 + at


def deceptive(at):
    """A script in which three tokens repeat, and what follows them never does."""
    return 2 + at % 4 if at % 4 < 3 else 1000 + at


def repeating(at):
    """A script that repeats 200 tokens."""
    return 2 + at % 200


@pytest.mark.parametrize("slope", [SMALL, LARGE])
@pytest.mark.parametrize("script", [fresh, deceptive], ids=["nothing repeats", "repetitions deceive"])
@pytest.mark.parametrize("clients", [1, 8])
def test_speculation_never_costs(clock, script, slope, clients):
    """If nothing can be drafted rightly, answers take at most two percent longer."""
    assert seconds(clock, script, slope, Speculation(), clients) < 1.02 * ANSWER


@pytest.mark.parametrize("slope", [SMALL, LARGE])
def test_a_wrong_draft_model_costs_little(clock, slope):
    """A draft model that is always wrong is hardly asked."""
    wrong = Small(clock, fresh, lambda _: False)
    assert seconds(clock, fresh, slope, Speculation(wrong)) < 1.02 * ANSWER


@pytest.mark.parametrize(("slope", "gain"), [(SMALL, 1.7), (LARGE, 8)])
def test_repetitions_pay(clock, slope, gain):
    """An answer that repeats itself takes a fraction of its time, the less the cheaper longer steps are."""
    assert seconds(clock, repeating, slope, Speculation()) < ANSWER / gain + 200


@pytest.mark.parametrize(("slope", "gain"), [(SMALL, 1.1), (LARGE, 2)])
def test_a_good_draft_model_pays(clock, slope, gain):
    """A draft model that is right four times in five makes answers faster."""
    good = Small(clock, fresh, lambda at: at % 5 > 0, seconds=0.0005)
    assert seconds(clock, fresh, slope, Speculation(good)) < ANSWER / gain


def test_drafts_return_when_they_pay_again(clock):
    """After a long stretch without right drafts, those that become right are found out, and used."""

    def script(at):
        return deceptive(at) if at < 900 else repeating(at - 900)

    taken = seconds(clock, script, LARGE, Speculation())
    assert taken < 1.02 * 900 + 250 + 350 / 3


@pytest.mark.parametrize("slope", [SMALL, LARGE])
def test_neighbours_are_not_held_up(clock, slope):
    """Beside answers of which nothing is drafted, steps are hardly longer, but for a few tries."""
    model = TimedModel(clock, repeating, slope, Speculation(), 4)
    for client, first in enumerate((2, OTHER, OTHER, OTHER)):
        prompt = tuple(range(first, first + 200))
        model.open(TextRequest(f"r{client}", "m", prompt, max_tokens=300, cache_prompt=False))
    steps = []
    while len(model._running) == 4 or not steps:
        before, writes = clock.now, bool(model._running) and all(run.writing for run in model._running)
        model.step()
        if writes:
            steps.append((clock.now - before) / (0.01 * (1 + slope * 3)))
    assert sum(step > NEIGHBOURS * 1.005 for step in steps) <= 4
    assert max(steps) < 2.5
    assert (len(steps) < 100) == (slope == LARGE)
