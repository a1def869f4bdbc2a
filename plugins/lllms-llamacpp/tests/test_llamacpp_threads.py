"""The thread tuner on a simulated machine with quiet, crowded and changing cores, on a virtual clock."""

import os
import random
from collections.abc import Callable
from math import ceil
from types import SimpleNamespace

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from lllms_llamacpp.threads import ThreadTuner, limit_spinning


@define
class Machine:
    """A machine of `cores` cores with a virtual clock; times as measured for a 160M model on two cores."""

    cores: int = 2
    others: float = 0.0
    """Cores that other programs want now. Above half a core, several threads stall, as beside spinning neighbours."""
    before: float = 0.0
    """Cores that others held while nothing was decoded."""
    rest_at: float = 0.0
    """Until then, these others still run."""
    first: float = 0.010
    """Seconds that one thread needs for any decode."""
    each: float = 0.006
    """Additional seconds per token."""
    shared: float = 0.85
    """The fraction of the work that threads share."""
    hiccups: float = 0.0
    """The fraction of decodes that take 60 ms longer."""
    growth: float = 0.0
    """The fraction by which each decode is slower than the one before, as a context fills."""
    stall: tuple[float, float] = (0.08, 1.0)
    tells: bool = True
    now: float = 0.0
    decoded: int = 0
    looked_at: float = 0.0
    noise: random.Random = field(factory=lambda: random.Random(7))

    def clock(self) -> float:
        return self.now

    def spare_cores(self) -> float | None:
        if not self.tells or self.now - self.looked_at < 0.1:
            return None
        self.looked_at = self.now
        others = max(self.others, self.before)
        return self.cores - min(others, self.cores * 0.67) + self.noise.uniform(-0.1, 0.1)

    def spare_now(self) -> int | None:
        others = max(self.others, self.before if self.now < self.rest_at else 0.0)
        return max(0, self.cores - ceil(others)) if self.tells else None

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def decode(self, tokens: int, threads: int) -> float:
        alone = (self.first + self.each * tokens) * (1 + self.growth * self.decoded)
        seconds = alone * (1 - self.shared + self.shared / threads) * self.noise.uniform(0.9, 1.15)
        if self.others > 0.5:
            free = max(0.6, self.cores - self.others)
            seconds = alone * 1.4 if threads <= free or threads == 1 else self.noise.uniform(*self.stall)
        elif self.noise.random() < self.others + self.hiccups:
            seconds += 0.06 if self.noise.random() < self.hiccups else 0.002
        self.now += seconds
        self.decoded += 1
        return seconds

    def tuner(self, allowance: int | None = None) -> ThreadTuner:
        return ThreadTuner(allowance or self.cores, clock=self.clock, watch=self, sleep=self.sleep)


def rate(machine: Machine, choose: Callable[[int], int], seconds: float, tokens: int = 1,
         observe: Callable[[int, int, float], None] = lambda *_: None) -> float:
    """Decodes per second over `seconds` of virtual time, with half a millisecond between two decodes."""
    start, decodes = machine.now, 0
    while machine.now - start < seconds:
        threads = choose(tokens)
        observe(tokens, threads, machine.decode(tokens, threads))
        machine.now += 0.0005
        decodes += 1
    return decodes / (machine.now - start)


def against_best(seconds: float = 20.0, tokens: int = 1, **machine: object) -> float:
    """The tuner's rate as a share of the best fixed count's on the same machine."""
    cores = Machine(**machine).cores
    fixed = [rate(Machine(**machine), lambda _, n=n: n, seconds, tokens) for n in range(1, cores + 1)]
    tuned = Machine(**machine)
    tuner = tuned.tuner()
    return rate(tuned, tuner.choose, seconds, tokens, tuner.observe) / max(fixed)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("tokens", [1, 8, 200])
def test_a_quiet_machine_gets_nearly_the_best_fixed_count(tokens: int, tells: bool):
    """Probing and mistakes together cost less than three percent, with or without information about the load."""
    assert against_best(40, tokens, tells=tells) > 0.97


@pytest.mark.parametrize("cores", [4, 16])
def test_more_cores_are_found_to_be_better_too(cores: int):
    """Trying more thread counts costs no more than that on larger machines."""
    assert against_best(tokens=8, cores=cores) > 0.97


@pytest.mark.parametrize("tokens", [1, 8])
@pytest.mark.parametrize(("tells", "least"), [(True, 0.95), (False, 0.8)])
def test_beside_a_program_that_stalls_threads_one_thread_wins(tokens: int, tells: bool, least: float):
    """A fixed two threads would run at a tenth or less; the tuner keeps nearly the full speed of one thread."""
    assert against_best(seconds=60, tokens=tokens, others=2.0, tells=tells) > least


def test_a_crowded_machine_is_recognised_before_the_first_stall():
    """The load during loading decides the thread count of the first decode."""
    machine = Machine(others=2.0)
    tuner = machine.tuner()
    machine.now = 1.0
    assert tuner.choose(1) == 1


def test_crowded_cores_that_do_not_stall_are_used_all_the_same():
    """Measured times decide, not the load: here two threads are faster although other programs run."""
    machine = Machine(others=2.0, stall=(0.008, 0.009))
    tuner = machine.tuner()
    machine.now = 1.0
    rate(machine, tuner.choose, 20, 1, tuner.observe)
    assert tuner.choose(1) == 2


@pytest.mark.parametrize("tells", [True, False])
def test_contention_that_starts_and_ends_is_followed(tells: bool):
    """With quiet and crowded phases of eight seconds each, the rate is nearly that of the best count in each."""
    best = 0.0
    machine = Machine(tells=tells)
    tuner = machine.tuner()
    reached = 0.0
    for turn in range(8):
        machine.others = 2.0 * (turn % 2)
        fixed = Machine(others=machine.others)
        best += rate(fixed, lambda _, n=2 - turn % 2: n, 8)
        reached += rate(machine, tuner.choose, 8, 1, tuner.observe)
    assert reached / best > (0.9 if tells else 0.75)


def test_the_first_stall_ends_the_use_of_several_threads():
    """Contention may start at any moment: the decode after a stall of half a second uses one thread."""
    machine = Machine(tells=False)
    tuner = machine.tuner()
    rate(machine, tuner.choose, 5, 1, tuner.observe)
    assert tuner.choose(1) == 2
    machine.now += 0.5
    tuner.observe(1, 2, 0.5)
    assert tuner.choose(1) == 1


@pytest.mark.parametrize("others", [0.05, 0.15, 0.3])
@pytest.mark.parametrize("tokens", [1, 8])
def test_a_light_load_does_not_scare(others: float, tokens: int):
    """The server and its clients use a little of the same cores; several threads remain the better choice."""
    assert against_best(tokens=tokens, others=others, hiccups=0.01) > 0.95


@pytest.mark.parametrize("tells", [True, False])
def test_a_tiny_model_runs_with_one_thread(tells: bool):
    """If more threads only cost time, the tuner settles on one."""
    assert against_best(first=0.0004, each=0.0002, shared=-0.5, tells=tells, seconds=5) > 0.95


def test_a_filling_context_is_no_contention():
    """Decodes that slow down gradually, by up to a factor of three, do not end the use of two threads."""
    assert against_best(growth=0.001, seconds=40) > 0.95


def test_a_long_prompt_keeps_its_threads():
    """Its last steps take 20 times as long as its first: counts are compared by the work, in later prompts, too."""
    machine = Machine()
    tuner = machine.tuner()
    chosen = []
    for step in range(4 * 60):
        slower = 1 + step % 60 / 3
        threads = tuner.choose(512, 512 * slower)
        seconds = 0.3 * slower * (1 - machine.shared + machine.shared / threads) * machine.noise.uniform(0.9, 1.15)
        machine.now += seconds + 0.0005
        tuner.observe(512 * slower, threads, seconds)
        chosen.append(threads)
    assert chosen.count(2) >= 0.97 * len(chosen)


def test_a_count_that_lost_clearly_is_tried_rarely():
    """Each trial makes those that generate wait: one thread, half as fast as two, gets two trials of three decodes."""
    machine = Machine()
    tuner = machine.tuner()
    chosen = []
    for _ in range(1000):
        chosen.append(tuner.choose(6))
        tuner.observe(6, chosen[-1], machine.decode(6, chosen[-1]))
    assert 1 <= chosen.count(1) <= 6


def test_a_slow_decode_after_a_pause_is_forgiven():
    """After a pause caches are cold and cores asleep, which says nothing about the thread count."""
    machine = Machine()
    tuner = machine.tuner()
    rate(machine, tuner.choose, 5, 1, tuner.observe)
    for _ in range(50):
        machine.now += 1.0
        assert tuner.choose(1) == 2
        tuner.observe(1, 2, 0.03)


def test_the_first_decode_after_a_pause_tries_no_lower_count():
    """Somebody waits for it: a trial that began in between waits, too, and lasts no longer than its few decodes."""
    machine = Machine()
    tuner = machine.tuner()
    chosen = []
    for number in range(200):
        paused = number % 10 != 0
        machine.now += 1.0 if paused else 0.001
        threads = tuner.choose(10)
        tuner.observe(10, threads, machine.decode(10, threads))
        chosen.append((paused, threads))
    assert (True, 1) not in chosen
    assert 1 <= chosen.count((False, 1)) <= 4


def test_a_stall_after_a_pause_slows_only_a_few_decodes():
    """Prompts that all come after pauses: once one was slow, the fewer threads of the retreat do not stay for good."""
    machine = Machine()
    tuner = machine.tuner()
    rate(machine, tuner.choose, 2, 10, tuner.observe)
    machine.now += 1.0
    tuner.observe(10, tuner.choose(10), 3.0)
    chosen = []
    for _ in range(30):
        machine.now += 1.0
        chosen.append(tuner.choose(10))
        tuner.observe(10, chosen[-1], machine.decode(10, chosen[-1]))
    assert chosen[0] == 1
    assert chosen.count(1) <= 6
    assert chosen[-1] == 2


def test_a_stall_after_a_pause_ends_a_trial_that_waits():
    """Prompts after pauses leave the trial of one thread waiting; the retreat to one thread makes it pointless."""
    machine = Machine()
    tuner = machine.tuner()
    rate(machine, tuner.choose, 0.16, 10, tuner.observe)
    machine.now += 1.0
    assert tuner.choose(10) == 2
    [known] = tuner._classes.values()
    assert known.probe is not None
    assert known.probe.steps == 0
    tuner.observe(10, 2, 3.0)
    assert known.probe is None
    for pause in (1.0, 0.001, 0.001, 1.0):
        machine.now += pause
        threads = tuner.choose(10)
        assert threads == 1
        tuner.observe(10, threads, machine.decode(10, threads))


def test_the_work_of_others_during_a_pause_does_not_count():
    """Servers that work in turns: each finds the machine quiet, so all threads begin, the first decode included."""
    machine = Machine()
    tuner = machine.tuner()
    for turn in range(20):
        machine.before = 2.0
        machine.now += 0.3 + 0.4 * (turn % 4)
        threads = tuner.choose(200)
        assert threads == 2, turn
        tuner.observe(200, threads, machine.decode(200, threads))
        machine.before = 0.0
        rate(machine, tuner.choose, 0.3, 1, tuner.observe)


def test_a_prompt_does_not_run_on_one_thread_because_others_are_about_to_rest():
    """A program that has just answered another request still runs for a moment, and so does our own server."""
    machine = Machine()
    tuner = machine.tuner()
    rate(machine, tuner.choose, 1, 1, tuner.observe)
    machine.before = 2.0
    machine.now += 0.5
    machine.rest_at = machine.now + 0.005
    assert tuner.choose(300) == 2
    rate(machine, tuner.choose, 0.5, 1, tuner.observe)
    machine.now += 0.5
    machine.rest_at = machine.now + 0.0015
    assert tuner.choose(10) == 2


def test_a_prompt_beside_others_waits_only_a_moment():
    """Others that stay are there at every look: a prompt begins within some milliseconds, and a token at once."""
    machine = Machine(others=2.0)
    tuner = machine.tuner()
    for tokens, most in ((300, 0.008), (10, 0.003), (1, 0.0)):
        machine.now += 1.0
        begin = machine.now
        assert tuner.choose(tokens) == 1
        assert machine.now - begin <= most


@pytest.mark.parametrize("pause", [0.2, 1.0, 5.0])
def test_others_that_still_work_after_a_pause_count(pause: float):
    """A neighbour that was there before and is there now: the first decode after a pause uses one thread."""
    machine = Machine(others=2.0)
    tuner = machine.tuner()
    machine.now = 1.0
    rate(machine, tuner.choose, 3, 1, tuner.observe)
    machine.now += pause
    assert tuner.choose(1) == 1
    machine.others = 0.0
    machine.now += pause
    assert tuner.choose(1) == 2


def test_sizes_of_batches_are_judged_apart():
    """Single tokens use one thread and large batches both, if that is fastest."""
    machine = Machine(first=0.002, each=0.0)
    tuner = machine.tuner()
    for _ in range(2000):
        for tokens in (1, 64):
            threads = tuner.choose(tokens)
            seconds = 0.02 / threads if tokens == 64 else 0.001 * threads
            machine.now += seconds
            tuner.observe(tokens, threads, seconds)
    assert (tuner.choose(1), tuner.choose(64)) == (1, 2)


def test_the_allowance_is_never_exceeded_and_may_change_at_any_time():
    """Two busy models share the cores; the tuner follows the pool's allowance at once."""
    machine = Machine(cores=4)
    tuner = machine.tuner()
    rate(machine, tuner.choose, 5, 8, tuner.observe)
    assert tuner.choose(8) == 4
    tuner.allow(1)
    assert tuner.choose(8) == 1
    tuner.observe(8, 1, 0.05)
    tuner.allow(4)
    assert tuner.choose(8) == 4
    with pytest.raises(ValueError, match="at least 1"):
        tuner.allow(0)


@define
class Turn:
    """One decode of a random history."""

    tokens: int
    seconds: float
    spare: float
    pause: float
    allowed: int


turns = st.builds(
    Turn, st.integers(1, 600), st.floats(1e-5, 3.0), st.floats(0, 12), st.just(0.0) | st.floats(0, 3),
    st.integers(1, 12),
)


@given(st.integers(1, 12), st.lists(turns, max_size=200))
def test_any_history_leaves_the_choice_within_the_allowance(allowance: int, history: list[Turn]):
    """For any decode times and load, the count is at least 1 and at most the current allowance."""
    now, spare = 0.0, 0.0
    watch = SimpleNamespace(spare_cores=lambda: spare, spare_now=lambda: int(spare) if spare < 6 else None)
    tuner = ThreadTuner(allowance, clock=lambda: now, watch=watch, sleep=lambda _: None)
    for turn in history:
        spare = turn.spare
        now += turn.pause
        threads = tuner.choose(turn.tokens)
        assert 1 <= threads <= allowance
        now += turn.seconds
        tuner.observe(turn.tokens, threads, turn.seconds)
        if turn.seconds > 1:
            allowance = turn.allowed
            tuner.allow(allowance)


@pytest.mark.parametrize("seed", range(300))
def test_any_day_of_a_machine_leaves_the_choice_within_the_allowance(seed: int):
    """Steps, pauses, stalls, neighbours, decodes that fail, and new allowances, in any order."""
    day = random.Random(seed)
    cores = day.choice([1, 2, 3, 4, 8, 16])
    machine = Machine(cores=cores)
    tuner, allowance = machine.tuner(), cores
    for _ in range(150):
        machine.now += day.choice([0.0005, 0.0005, 0.0005, 0.06, 1.0, 5.0])
        if day.random() < 0.1:
            machine.others = day.choice([0.0, 0.0, 0.0, 1.0, 2.0])
        if day.random() < 0.02:
            allowance = day.randint(1, cores)
            tuner.allow(allowance)
        tokens = day.choice([1, 1, 10, 10, 200])
        threads = tuner.choose(tokens)
        assert 1 <= threads <= allowance
        seconds = machine.decode(tokens, threads)
        if day.random() < 0.05:
            stall = day.choice([0.5, 3.0, 20.0])
            seconds, machine.now = stall, machine.now + stall
        if day.random() < 0.95:
            tuner.observe(tokens, threads, seconds)


def test_equal_histories_lead_to_equal_choices():
    """Decisions depend only on the clock, the load signal and the measured times."""
    def choices() -> list[int]:
        machine = Machine(hiccups=0.05)
        tuner = machine.tuner()
        chosen = []
        for turn in range(2000):
            machine.others = 2.0 * (turn // 400 % 2)
            chosen.append(tuner.choose(1))
            tuner.observe(1, chosen[-1], machine.decode(1, chosen[-1]))
        return chosen

    assert choices() == choices()


@pytest.mark.parametrize(
    ("given_by_user", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_the_users_openmp_settings_stay(monkeypatch: pytest.MonkeyPatch, given_by_user: dict[str, str],
                                        expected: str | None):
    """The limit on spinning is a default; a setting in the environment takes precedence."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given_by_user.items():
        monkeypatch.setenv(name, value)
    limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
