"""The number of threads for each decode, learnt from the durations of decodes.

ggml's threads meet at a barrier after every operation, so one thread that has to wait for a core stalls all of them. On
two cores, a second thread speeds up an idle machine by half or more; next to another program that runs a model, it
makes single steps ten to a hundred times slower. No fixed count is right, so each decode asks a `ThreadTuner`:

- Durations are compared per unit of work: a token costs more, the more cells its attention reads, so that the steps of
  a long prompt take longer and longer with any count.
- Batches of about the same size form a class. Each class is learnt separately for a calm machine and for a crowded one
  (others hold a good part of our cores), so that both answers are remembered.
- A class starts with the cores that others leave, and **probes** neighbouring counts: a few decodes, aborted once they
  can no longer win. Each failed probe makes the next one four times rarer, and all of them together may cost about
  one percent of the decoding time. The first decode after a pause, which somebody waits for, never probes a lower one.
- Whether it is crowded is **looked** at while decodes run. What others took while nothing was decoded says little about
  the present: after a pause the machine counts as crowded only if others want its cores at this very moment, too, and
  before a prompt only if they still do some milliseconds later.
- Between probes, a **debt** sums up the loss of the present count against the best lower one. When stalls exceed the
  gain of many good steps, the tuner **retreats** to that lower count at once; on a calm machine it soon returns.
"""

import os
import time
from collections.abc import Callable
from functools import cache
from typing import Protocol

from attrs import Factory, define, field

from lllms_core.machine import CpuWatch

_SHARE = 0.01  # of the decoding time may go into probes
_BUDGET = 0.2  # seconds of probing that may be saved up
_WORST = -0.6  # seconds; the cost of a probe beyond this is written off, or one stall would end all probing
_LOOK = 0.5  # seconds between looks at the machine; a look takes about 0.25 ms
_LOOK_AGAIN = 0.1  # seconds until the next try after a look without result
_OLD = 2.0  # seconds; a look over a longer time than this is outdated
_GLANCES, _BETWEEN = 16, 0.0005  # the most looks at this moment, and the seconds between them
_TOKENS_PER_GLANCE = 2  # a decode of few tokens takes too little time to wait long before it
_CROWDED, _CALM = 0.7, 0.5  # cores of our allowance that others hold: above is crowded, below is calm
_PROBE_STEPS = 4
_PROBE_SECONDS = 0.1  # a probe of slow decodes ends after this
_WIN = 0.97  # a probe wins with less than this share of the present count's time
_FIRST_WAIT, _LONGEST_WAIT, _WAIT_GROWTH = 4, 1024, 4  # decodes of a class between two probes of one count
_CLEAR, _PATIENCE = 1.5, 16  # a lower count that took so much longer than the present one is tried so much later
_PAUSE = 0.05  # seconds without a decode, after which the next one is slow for other reasons
_OUTLIER = 4.0  # times the usual pace: accepted for a first decode after a pause, and the most that one step counts
_MEMORY = 1 / 8  # weight of the newest decode in the pace
_SLACK = 4.0  # steps' worth of good times that a stall has to exceed before it counts


def limit_spinning() -> None:
    """Make OpenMP's threads sleep after a quarter of a millisecond of waiting; call it before importing llama_cpp.

    By default they spin for many milliseconds, so that two such programs starve each other for seconds before the tuner
    can retreat. Much less costs an idle machine some percent: threads fall asleep between ggml's operations. Settings
    in the user's environment take precedence.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"


@define
class _Probe:
    """A trial of another count."""

    count: int
    steps: int = 0
    seconds: float = 0.0
    expected: float = 0.0
    work: float = 0.0


@define
class _Class:
    """The measurements for batches of about one size, on a calm or on a crowded machine."""

    ladder: tuple[int, ...]
    count: int
    cautious: bool
    """Whether the machine is crowded, so that a higher count is likely to stall."""
    paces: dict[int, float] = Factory(dict)
    """Seconds per unit of work by thread count."""
    steps: int = 0
    arrived: int = 0
    waits: dict[int, int] = Factory(dict)
    due: dict[int, int] = Factory(dict)
    losses: dict[int, float] = Factory(dict)
    debt: float = 0.0
    fled: int = 0
    """The higher count that the last retreat left; 0 if none."""
    probe: _Probe | None = None

    def choose(self, work: float, budget: float, *, paused: bool) -> int:
        """Return the count for the next decode, given the seconds that probes may cost now.

        After a pause, somebody waits for the first token, and the duration says little about a lower count.
        """
        if self.probe is None and self.steps - self.arrived >= _FIRST_WAIT:
            self.probe = self._next_probe(work, budget)
        if self.probe is None or (paused and self.probe.count < self.count):
            return self.count
        return self.probe.count

    def observe(self, work: float, threads: int, seconds: float) -> float:
        """Learn from a decode with the chosen count; return the seconds that a probe or a retreat has cost."""
        self.steps += 1
        if self.probe is not None and threads == self.probe.count:
            return self._judge(self.probe, work, seconds)
        self._remember(work, seconds)
        rival = self._rival()
        usual = self.paces[rival] if rival in self.paces else self.paces[self.count] * self.count / rival
        usual *= work
        self.debt = max(self.debt + seconds - usual, -_SLACK * usual)
        if self.steps - self.arrived > 2 * self.waits.get(self.count, 0):
            self.waits.pop(self.count, None)
        if rival == self.count or self.debt <= usual:
            return 0.0
        cost, self.fled, self.probe = self.debt, self.count, None
        self.losses[self.count] = cost
        self._postpone(self.count)
        self._move(rival)
        return cost

    def slow(self, work: float, seconds: float) -> bool:
        """Whether a decode took a multiple of this class's usual time."""
        return self.count in self.paces and seconds > _OUTLIER * self.paces[self.count] * work

    def forgive(self) -> None:
        """Allow new probes, because the machine has changed."""
        self.waits.clear()
        self.due.clear()

    def _next_probe(self, work: float, budget: float) -> _Probe | None:
        rung = self.ladder.index(self.count)
        # On a crowded machine one thread is the safe choice, so measure it first.
        harbour = [1] if self.cautious and 1 not in self.paces else []
        near = self.ladder[rung + 1 : rung + 2] + self.ladder[max(0, rung - 1) : rung]
        for count in (*filter(None, [self.fled]), *harbour, *near):
            if count != self.count and self.steps >= self.due.get(count, 0) and budget >= self._price(count, work):
                return _Probe(count)
        return None

    def _price(self, count: int, work: float) -> float:
        """Return the seconds that must have been saved up to probe `count`: its expected loss."""
        if count > self.count:
            if not self.cautious:
                return min(self.losses.get(count, 0.0), _BUDGET) if count != self.fled else _WORST
            return min(self.losses.get(count, _BUDGET), _BUDGET)
        loss = _PROBE_STEPS * work * self.paces[self.count] * (1 - count / self.count)
        return min(self.losses.get(count, loss), _BUDGET / 2 if self.cautious else _BUDGET)

    def _judge(self, probe: _Probe, work: float, seconds: float) -> float:
        probe.steps += 1
        probe.seconds += seconds
        probe.work += work
        probe.expected += self.paces[self.count] * work
        self.paces[probe.count] = probe.seconds / probe.work
        ends = probe.steps == _PROBE_STEPS or probe.expected > _PROBE_SECONDS
        whole = probe.expected if ends else probe.expected * _PROBE_STEPS / probe.steps
        if not ends and probe.seconds <= _WIN * whole:
            return 0.0
        self.probe = None
        loss = max(0.0, probe.seconds - probe.expected)
        self.losses[probe.count] = loss
        if probe.seconds <= _WIN * probe.expected and ends:
            self._move(probe.count)
        else:
            lower = probe.count < self.count
            self._postpone(probe.count, clear=lower and probe.seconds > _CLEAR * probe.expected)
        return loss

    def _remember(self, work: float, seconds: float) -> None:
        pace = seconds / work
        old = self.paces.get(self.count, pace)
        self.paces[self.count] = old + _MEMORY * (min(pace, _OUTLIER * old) - old)

    def _rival(self) -> int:
        """Return the lower count to compare with: the fastest of those measured, else one thread."""
        known = [count for count in self.paces if count < self.count]
        return min(known, key=self.paces.__getitem__, default=1)

    def _postpone(self, count: int, *, clear: bool = False) -> None:
        wait = self.waits.get(count, _FIRST_WAIT)
        if clear:
            wait = min(wait * _PATIENCE, _LONGEST_WAIT)
        self.due[count] = self.steps + wait
        self.waits[count] = min(wait * _WAIT_GROWTH, _LONGEST_WAIT)

    def _move(self, count: int) -> None:
        if count >= self.fled:
            self.fled = 0
        self.count, self.arrived, self.debt = count, self.steps, 0.0


class Watch(Protocol):
    """How a tuner sees the machine: as a `CpuWatch` does."""

    def spare_cores(self) -> float | None:
        """Return the cores that others have left since the last result; None if unknown: measured times decide."""

    def spare_now(self) -> int | None:
        """Return the cores that nobody else wants at this moment; None if unknown."""


@define
class ThreadTuner:
    """Chooses the threads of each decode: the best count on an idle machine, and never a long stall on a busy one.

    Call `choose` before a decode, and `observe` after it; both take a few microseconds, and the first `choose` after a
    pause 0.3 ms, or a few milliseconds before a prompt if others compute. One thread calls all methods.
    """

    _allowance: int
    _clock: Callable[[], float] = field(default=time.perf_counter, kw_only=True)
    _watch: Watch = field(factory=CpuWatch, kw_only=True)
    _sleep: Callable[[float], None] = field(default=time.sleep, kw_only=True)
    _classes: dict[tuple[int, bool, int], _Class] = field(factory=dict, init=False)
    _current: _Class | None = field(default=None, init=False)
    _chosen: int = field(default=0, init=False)
    _spare: float | None = field(default=None, init=False)
    _crowded: bool = field(default=False, init=False)
    _looked_at: float = field(default=0.0, init=False)
    _look_at: float = field(default=0.0, init=False)
    _ended_at: float = field(default=0.0, init=False)
    _paused: bool = field(default=True, init=False)
    _budget: float = field(default=_BUDGET / 2, init=False)

    def __attrs_post_init__(self) -> None:
        self._looked_at = self._look_at = self._ended_at = self._clock()
        self.allow(self._allowance)

    def allow(self, count: int) -> None:
        """Use at most `count` threads from now on; the results for other allowances are kept for their return."""
        if count < 1:
            raise ValueError(f"the allowance is {count} threads; at least 1 is needed")
        self._allowance = count

    def choose(self, tokens: int, work: float | None = None) -> int:
        """Return the number of threads for a decode of `tokens` tokens: 1 up to the allowance.

        `work` is what it costs, in tokens at the beginning of a context; None: as many as it has.
        """
        now = self._clock()
        self._paused = now - self._ended_at > _PAUSE
        if self._paused or now >= self._look_at:
            self._look(now, tokens)
        self._current = self._class_of(tokens)
        self._chosen = self._current.choose(tokens if work is None else work, self._budget, paused=self._paused)
        return self._chosen

    def observe(self, work: float, threads: int, seconds: float) -> None:
        """Learn that the last chosen decode, of this much work with `threads` threads, took `seconds`."""
        self._ended_at = self._clock()
        self._budget = min(self._budget + _SHARE * seconds, _BUDGET)
        learnt, self._current = self._current, None
        if learnt is None or threads != self._chosen:
            return  # not the chosen decode: no comparison
        slow = learnt.slow(work, seconds)
        if slow:
            self._look_at = self._ended_at
        if self._paused and not slow and not learnt.fled:  # after a retreat it counts: there may be no others
            return
        cost = learnt.observe(work, threads, seconds)
        self._budget = max(self._budget - cost, _WORST)

    def _look(self, now: float, tokens: int) -> None:
        old = now - self._looked_at > _OLD and self._spare is not None
        spare = self._watch.spare_cores()
        crowded = self._crowded
        if spare is None or old:
            self._look_at = now + _LOOK_AGAIN
            self._looked_at = now if old else self._looked_at
        else:
            self._looked_at, self._look_at = now, now + _LOOK
            self._spare = spare
            crowded = self._holds(spare)
        if crowded and self._paused:
            crowded = self._is_crowded_now(tokens)
        if crowded != self._crowded:
            self._crowded = crowded
            for known in self._classes.values():
                known.forgive()

    def _is_crowded_now(self, tokens: int) -> bool:
        """Tell whether others want our cores at this moment, and the few after it if that delays nothing noticeably.

        The client and the server have just sent us the request and are about to rest, and so may be the program that
        has just answered another one: a prompt must not run at half speed because of them.
        """
        for glance in range(max(1, min(_GLANCES, tokens // _TOKENS_PER_GLANCE))):
            if glance:
                self._sleep(_BETWEEN)
            left = self._watch.spare_now()
            if left is None:
                return True
            if not self._holds(left):
                return False
        return True

    def _holds(self, spare: float) -> bool:
        """Tell whether others hold a good part of our cores if they leave so many."""
        return self._allowance - spare > (_CALM if self._crowded else _CROWDED)

    def _class_of(self, tokens: int) -> _Class:
        key = (self._allowance, self._crowded, tokens.bit_length())
        known = self._classes.get(key)
        if known is None:
            ladder = _ladder(self._allowance)
            spare = self._spare if self._crowded and self._spare is not None else float(self._allowance)
            start = max(count for count in ladder if count <= max(1.0, spare))
            known = self._classes[key] = _Class(ladder, start, cautious=self._crowded)
        return known


@cache
def _ladder(allowance: int) -> tuple[int, ...]:
    """Return the counts worth trying, rising by about a factor of 1.4: 1, 2, 3, 4, 6, 8 for an allowance of eight."""
    counts, count = {1}, float(allowance)
    while count > 1:
        counts.add(round(count))
        count /= 2**0.5
    return tuple(sorted(counts))
