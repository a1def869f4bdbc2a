"""Chaos: many clients, each with its own secret, while workers are killed and stopped, engines raise and others attack.

`python tests/chaos.py --seconds 60 --seed 7` prints what it did, the longest waits and the seed, and exits with 1 if a
request got no answer, a wrong one or another's secret, or if anything is left at the end. All of it runs locally.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from asks_for_tests import ECHO, SCRIPTED, SECRET, Ask, plain
from attrs import define, field
from besieged_for_tests import until
from chaos_server_for_tests import running
from hostile_for_tests import BOT, TEXT, TINY, Input
from hostile_table_for_tests import ALL
from lines_for_tests import Address, Answer, Line, get, head, post

PATIENCE = 90.0
"""Limit for one request, in seconds; it may wait for several workers to be replaced."""
CALM_SECONDS = 45.0
"""Seconds in which everything returns to normal after the last fault."""
SLOWEST = 45.0
"""Seconds in which even a request that meets a stuck worker, or several dying ones, gets an answer or an error."""
FAULTS = (
    "fail", "raise", "exit", "kill", "segv", "refuse", "open refuse", "open raise", "open fail", "cancel raise", "hang",
)
WATCHDOG = 3.0
"""Seconds after which a stuck worker is killed."""


def config(rules: Path, style: str) -> dict[str, object]:
    """Three engines, with short limits."""
    models: dict[str, dict[str, object]] = {
        ECHO: {"engine": "mock", "max_instances": 2, "min_instances": 1,
               "options": {"tokens_per_second": 200, "rules": str(rules)}},
        BOT: {"engine": "mock", "max_instances": 1},
        SCRIPTED: {"engine": "scripted", "max_instances": 2},
    }
    with suppress(ImportError):
        import lllms_llamacpp

        file = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
        options = {"slots": 4, "context_length": 512, "threads": 1}
        models[TINY] = {"engine": "llamacpp", "file": str(file), "options": options}
    for model in models.values():
        model |= {"isolation": "process", "timeout": 20.0, "watchdog": WATCHDOG, "load_timeout": 30.0}
    server = {
        "port": 0, "concurrency": 16, "max_instances": 6, "shutdown_timeout": 2, "log_level": "debug",
        "log_format": style,
    }
    return {"server": server, "models": models}


@define
class Chaos:
    """One run."""

    seconds: float
    seed: int
    clients: int
    folder: Path
    style: str = "console"
    counts: Counter[str] = field(factory=Counter)
    wrong: list[str] = field(factory=list)
    longest: dict[str, float] = field(factory=dict)
    pids: set[int] = field(factory=set)
    """All workers ever seen."""
    address: Address = ("", 0)
    _over: threading.Event = field(factory=threading.Event)
    _lock: threading.Lock = field(factory=threading.Lock)

    def run(self) -> bool:
        """Run everything; returns whether nothing went wrong."""
        rules = self.folder / "echo.toml"
        rules.write_text('otherwise = ["I heard {text}"]\n')
        with running(config(rules, self.style), self.folder) as (process, url, log):
            self.address = (url.hostname or "", url.port or 0)
            server = psutil.Process(process.pid)
            self._rounds("first")
            before = server.num_fds()
            threads = [
                threading.Thread(target=self._guarded, args=(self._client, number)) for number in range(self.clients)
            ]
            threads.append(threading.Thread(target=self._guarded, args=(self._storm, 0)))
            for thread in threads:
                thread.start()
            self._over.wait(self.seconds)
            self._over.set()
            for thread in threads:
                thread.join(PATIENCE + CALM_SECONDS)
                self.expect(not thread.is_alive(), "a client still waits")
            self._after(server, before)
            children = server.children(recursive=True)
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            self.expect(process.poll() == 0, f"SIGTERM: the server's status is {process.poll()}")
            left = [child.pid for child in psutil.wait_procs(children, 5)[1]]
            left += [pid for pid in self.pids if psutil.pid_exists(pid)]
            self.expect(not left, f"processes are left: {left}")
            text = log.read_bytes()
            self.expect(SECRET.search(text) is None, "a secret is in the log")
            self.expect("╭" not in text.decode(errors="replace"), "a traceback with locals is in the log")
            self.counts["bytes of log"] = len(text)
        return not self.wrong

    def summary(self) -> str:
        """A readable summary of the run."""
        lines = [
            f"seed {self.seed}, {self.seconds:g} s, {self.clients} clients",
        ]
        lines += [f"{count:7} {what}" for what, count in sorted(self.counts.items())]
        lines += [f"{seconds:7.2f} s at most: {what}" for what, seconds in sorted(self.longest.items())]
        shown = Counter(self.wrong).most_common(20)
        return "\n".join([*lines, *(f"WRONG ({count}): {what}" for what, count in shown), f"wrong: {len(self.wrong)}"])

    def expect(self, is_so: bool, what: str) -> None:
        if not is_so:
            with self._lock:
                self.wrong.append(what)

    def count(self, what: str, seconds: float | None = None) -> None:
        with self._lock:
            self.counts[what] += 1
            if seconds is not None:
                self.longest[what] = max(self.longest.get(what, 0.0), seconds)
                if seconds > SLOWEST:
                    self.wrong.append(f"{what} took {seconds:.0f} s")

    def _guarded(self, work: Callable[[int, random.Random], None], number: int) -> None:
        try:
            work(number, random.Random(f"{self.seed} {work.__name__} {number}"))
        except Exception as error:  # noqa: BLE001  # any error that ends a client is a fault of the run
            self.expect(False, f"{work.__name__} ended: {error!r}")

    # Clients.

    def _client(self, number: int, chosen: random.Random) -> None:
        quick = [one for one in ALL if not one.heavy]
        while not self._over.is_set():
            kind = chosen.choices(("plain", "fault", "leave", "hostile"), (8, 1, 3, 2))[0]
            if kind == "hostile":
                self._attack(chosen.choice(quick))
                continue
            ask = self._any(number, chosen)
            if kind == "fault":
                data = {"model": SCRIPTED, "prompt": f"{chosen.choice(FAULTS)}", "max_tokens": 5}
                ask = Ask(TEXT, {**data, "timeout": 2}, None, b"-", stream=chosen.random() < 0.5)
            if kind == "leave":
                self._leave(ask, chosen)
            else:
                self._ask(ask, kind)

    def _any(self, number: int, chosen: random.Random) -> Ask:
        """A plain request to one of the models, and its expected answer."""
        secret = f"q{number}x{chosen.randbytes(6).hex()}"
        stream = chosen.random() < 0.5
        return chosen.choice(plain(number, secret, stream=stream))

    def _ask(self, ask: Ask, kind: str) -> int:
        """Send a request and judge the answer; returns the status, 0 without an answer."""
        start = time.monotonic()
        try:
            answers = post(self.address, ask.path, ask.data, within=PATIENCE)
        except (OSError, ValueError) as error:
            self.expect(False, f"{kind} {ask.model}: no answer: {error!r}")
            return 0
        took = time.monotonic() - start
        if not answers:
            self.expect(False, f"{kind} {ask.model}: the connection ended without an answer")
            return 0
        outcome, problem = ask.judge(answers[0])
        self.count(f"{kind}, {ask.model}: {outcome}", took)
        self.expect(not problem, f"{kind} {ask.model} stream {ask.stream}: {problem}")
        return answers[0].status

    def _leave(self, ask: Ask, chosen: random.Random) -> None:
        """Send all or part of a request, and leave at once or after a moment."""
        data = head("POST", ask.path, length=len(ask.data)) + ask.data
        with Line(self.address, PATIENCE) as line:
            line.send(data[: chosen.choice((10, 100, len(data) - 1, len(data), len(data)))])
            self._over.wait(chosen.choice((0, 0, 0.05, 0.3)))
            chosen.choice((Line.reset, Line.half_close))(line)
        self.count("left")

    def _attack(self, one: Input) -> None:
        """Send a hostile input; an answer may also report that a worker died meanwhile."""
        try:
            answers = one.act(self.address)
        except TimeoutError:
            answers = [] if one.may_end else [Answer(0)]
        except (OSError, ValueError, AssertionError):
            answers = []  # the stream that it was going to leave has already ended
        good = all(answer.status in one.right or answer.status in {404, 429, 500, 503, 504} for answer in answers)
        good &= not any(b"internal_error" in answer.body for answer in answers)
        self.count("hostile input")
        self.expect(good, f"hostile {one.name}: {[(answer.status, answer.body[:200]) for answer in answers]}")

    # Faults of the workers.

    def _storm(self, _: int, chosen: random.Random) -> None:
        stopped: dict[int, float] = {}
        while not self._over.wait(chosen.expovariate(1.5)):
            for pid in [pid for pid, until_ in stopped.items() if until_ < time.monotonic()]:
                _signal(pid, signal.SIGCONT)
                del stopped[pid]
            pids = sorted(self._look() - stopped.keys())
            if not pids:
                continue
            pid = chosen.choice(pids)
            what = chosen.choices(("kill", "stop for a while", "stop for ever"), (5, 3, 1))[0]
            _signal(pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            if what == "stop for a while":
                stopped[pid] = time.monotonic() + chosen.uniform(0.05, 1.5)
            self.count(f"workers: {what}")
        for pid in stopped:
            _signal(pid, signal.SIGCONT)

    def _look(self) -> set[int]:
        """The current workers."""
        with suppress(OSError, ValueError):
            found = {one["pid"] for one in get(self.address, "/", within=PATIENCE).json()["instances"]} - {None}
            self.pids |= found
            return found
        self.expect(False, "GET / is not answered")
        return set()

    # Before and after.

    def _rounds(self, kind: str) -> None:
        """Send each client's request to each model until all answers are right."""
        end = time.monotonic() + CALM_SECONDS
        for number in range(self.clients):
            for ask in plain(number, f"q{number}x{'0' * 11}{number % 10}", stream=bool(number % 2)):
                while self._ask(ask, kind) != 200 and time.monotonic() < end:
                    time.sleep(0.2)  # a model that has just died is reloaded after a pause
        self.expect(time.monotonic() < end, f"the {kind} round does not get its answers")

    def _after(self, server: psutil.Process, before: int) -> None:
        """Check that everything is as it was before."""
        def quiet() -> bool:
            requests = get(self.address, "/").json()["requests"]
            return requests["running"] == 0 and requests["waiting"] == 0

        try:
            until(quiet, "nobody is worked for", CALM_SECONDS)
        except (AssertionError, OSError) as error:
            self.expect(False, f"after the storm: {error}")
        self._rounds("last")
        with suppress(AssertionError):
            until(lambda: server.num_fds() <= before + 12, "descriptors are given back", 10)
        self.expect(server.num_fds() <= before + 12, f"{server.num_fds()} descriptors, {before} before")
        now = self._look()
        children = {one.pid for one in server.children()}
        self.expect(len(children - now) <= 1, f"{len(children - now)} children that are no instances; 1 is a spare")
        health = get(self.address, "/health")
        self.expect(health.status == 200, f"/health is {health.status}")


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--clients", type=int, default=14)
    parser.add_argument("--log-format", default="console", choices=["console", "json"])
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Chaos(told.seconds, told.seed, told.clients, Path(folder), told.log_format)
        print(f"chaos with seed {told.seed} for {told.seconds:g} s", flush=True)
        good = run.run()
        print(run.summary())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
