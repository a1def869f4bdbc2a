"""Chaos: many clients, each with its own secret, while all that can fail below, in and around the server does.

`python tests/chaos.py --seconds 60 --seed 7` prints what it did, the longest waits and the seed, and exits with 1 if a
request got no answer, a wrong one or another's secret, or if anything is left at the end. All of it runs locally.

A seed decides on all requests of each client, and on all faults and their times. What they hit is decided by the
server's moment.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
from asks_for_tests import CAUSES, ECHO, SCRIPTED, SECOND, SECRET, Ask, ask, plain
from attrs import define, field
from besieged_for_tests import until
from chaos_server_for_tests import FULL, HELD, SCRATCH, TINY_FILE, running
from dialects_for_tests import COMPLETIONS
from held_memory_for_tests import Held, ask_held
from hostile_for_tests import BOT, TINY, Input
from hostile_table_for_tests import ALL
from lines_for_tests import Address, Answer, Line, get, head, post
from load_rounds import Use, has_connections
from storm_for_tests import Storm, schedule, session_files

PATIENCE = 90.0
"""Limit for one request, in seconds; it may wait for several workers to be replaced."""
CALM_SECONDS = 90.0
"""Seconds in which everything returns to normal after the last fault."""
SLOWEST = 60.0
"""Seconds in which even a request that meets a stuck worker, or several dying ones, gets an answer or an error."""
FAULTS = (
    "fail", "raise", "exit", "kill", "segv", "abort", "sys-exit", "refuse", "hang", "unreadable", "no-memory",
    "bad-alloc", "take 60", "open refuse", "open raise", "open fail", "open no-memory", "cancel raise",
)
"""Prompts that make the tests' engine fail, use up memory, or send what cannot be read."""
WATCHDOG = 3.0
"""Seconds after which a stuck worker is killed."""
FAULT = "fault: "
"""Begins the names of counts that are faults."""
HELD_BLOCKS, HELD_BYTES = 40_000, 2 << 20
"""By how much the memory in use may have grown, in small objects of Python and in bytes of larger ones: the server
keeps the timelines of its last requests, caches of compiled patterns, and the like."""
LEFT_BYTES = 32 << 20
"""By how much the resident memory may have grown: pages that hostile inputs of megabytes took, of which small parts are
in use. `HELD_BYTES` limits what is in use."""
QUICK = tuple(one for one in ALL if not one.heavy)
DOING = {"plain": 8.0, "engine": 2.0, "leave": 3.0, "hostile": 2.0, "cancel": 1.0, "load": 0.5, "unload": 0.5}
"""What clients do, and how often."""


@define
class Chaos:
    """One run."""

    seconds: float
    seed: int
    clients: int
    folder: Path
    style: str = "console"
    faults: int = 0
    """It lasts until there were so many faults, up to three times as long as `seconds`."""
    pause: float = 0.0
    """The mean of each client's pauses, in seconds."""
    storms: float = 3.0
    """The mean number of faults in a second."""
    counts: Counter[str] = field(factory=Counter)
    wrong: list[str] = field(factory=list)
    longest: dict[str, float] = field(factory=dict)
    looks: list[str] = field(factory=list)
    """What the server's process had, in the course of the run."""
    held: list[Held] = field(factory=list)
    """What the server's process held, before and after."""
    pids: set[int] = field(factory=set)
    """All workers ever seen."""
    address: Address = ("", 0)
    _models: list[str] = field(factory=list)
    _files: dict[Path, Path] = field(factory=dict)
    _over: threading.Event = field(factory=threading.Event)
    _lock: threading.Lock = field(factory=threading.Lock)

    def run(self) -> bool:
        """Run everything; returns whether nothing went wrong."""
        with running(self._config(), self.folder) as (process, url, log):
            self.address = (url.hostname or "", url.port or 0)
            server = psutil.Process(process.pid)
            self._rounds("first")
            before = self._calm(server)
            self.held.append(ask_held(server, self.folder / HELD))
            self._tell("before", before)
            storm = Storm(server, self._files, self._sessions, self.folder, self._look, self.pids)
            works: list[tuple[Callable[..., None], tuple[object, ...]]] = [
                (self._client, (number,)) for number in range(self.clients)
            ]
            threads = [
                threading.Thread(target=self._guarded, args=(work, *arguments))
                for work, arguments in [*works, (self._storm, (storm,))]
            ]
            for thread in threads:
                thread.start()
            self._watch(server)
            for thread in threads:
                thread.join(PATIENCE + CALM_SECONDS)
                self.expect(not thread.is_alive(), "a client still waits")
            storm.mend(everything=True)
            self._after(server, before)
            self._end(process, server, log)
        return not self.wrong

    @property
    def struck(self) -> int:
        """The number of faults up to now."""
        with self._lock:
            return sum(count for what, count in self.counts.items() if what.startswith(FAULT))

    def summary(self) -> str:
        """A readable summary of the run."""
        lines = [f"seed {self.seed}, {self.seconds:g} s, {self.clients} clients, {self.struck} faults"]
        lines += [f"{count:7} {what}" for what, count in sorted(self.counts.items())]
        lines += [f"{seconds:7.2f} s at most: {what}" for what, seconds in sorted(self.longest.items())]
        lines += self.looks
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

    # The server.

    @property
    def _sessions(self) -> Path:
        return self.folder / "sessions"

    def _config(self) -> dict[str, object]:
        """Four engines, with short limits, and sessions on a disk."""
        rules = self.folder / "echo.toml"
        rules.write_text('otherwise = ["I heard {text}"]\n')
        models: dict[str, dict[str, object]] = {
            ECHO: {"engine": "mock", "max_instances": 2, "min_instances": 1,
                   "options": {"tokens_per_second": 200, "rules": str(rules)}},
            BOT: {"engine": "mock", "max_instances": 1},
            SCRIPTED: {"engine": "scripted", "max_instances": 2},
        }
        if TINY_FILE is not None:
            models[TINY] = {"engine": "llamacpp", "options": {"slots": 4, "context_length": 512, "threads": 1}}
            if find_spec("lllms_gpt4all") is not None:
                models[SECOND] = {"engine": "gpt4all", "options": {"context_length": 512}}
        for name, model in models.items():
            model |= {"isolation": "process", "timeout": 20.0, "watchdog": WATCHDOG, "load_timeout": 15.0}
            if name in {TINY, SECOND} and TINY_FILE is not None:
                file = self.folder / f"{name}.gguf"
                shutil.copyfile(TINY_FILE, file)
                model["file"] = str(file)
                self._files[file] = TINY_FILE
        self._models = [*models]
        server = {
            "port": 0, "concurrency": 16, "max_instances": 6, "shutdown_timeout": 2, "log_level": "debug",
            "log_format": self.style, "min_residency": 0.5, "max_wait_before_swap": 3.0,
        }
        sessions = {"store": "disk", "min_tokens": 8, "options": {"folder": str(self._sessions)}}
        return {"server": server, "sessions": sessions, "models": models}

    def _watch(self, server: psutil.Process) -> None:
        """Wait until there was enough chaos; look at the server's process four times."""
        began = time.monotonic()
        for quarter in range(1, 5):
            self._over.wait(max(0.0, began + self.seconds * quarter / 4 - time.monotonic()))
            self._tell(f"{quarter}/4 of the time", Use.of(server))
        while self.struck < self.faults and time.monotonic() < began + 3 * self.seconds:
            self._over.wait(0.1)
        self._over.set()
        self.expect(self.struck >= self.faults, f"{self.struck} faults, not {self.faults}")

    def _tell(self, when: str, use: Use) -> None:
        self.looks.append(f"{when}: {use}, {self.struck} faults")

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001  # any error that ends a client is a fault of the run
            self.expect(False, f"{work.__name__} ended: {error!r}")

    # Clients.

    def _client(self, number: int) -> None:
        chosen = random.Random(f"{self.seed} client {number}")
        while not self._over.is_set():
            if self.pause:
                self._over.wait(chosen.expovariate(1 / self.pause))
            match chosen.choices([*DOING], [*DOING.values()])[0]:
                case "plain":
                    self._ask(self._any(number, chosen), "plain")
                case "engine":
                    what, stream = chosen.choice(FAULTS), chosen.random() < 0.5
                    self.count(f"{FAULT}engine: {what}")
                    self._ask(
                        ask(COMPLETIONS, SCRIPTED, what, None, b"-", stream=stream, most=5, timeout=2), "faulty",
                    )
                case "leave":
                    self._leave(self._any(number, chosen), chosen)
                case "hostile":
                    self._attack(chosen.choice(QUICK))
                case "cancel":
                    self._cancel(chosen.randrange(1 << 30))
                case how:
                    self._move(how, chosen.choice(self._models))

    def _any(self, number: int, chosen: random.Random) -> Ask:
        """A plain request to one of the models in one of the dialects, and its expected answer."""
        secret = f"q{number}x{chosen.randbytes(6).hex()}"
        stream = chosen.random() < 0.5
        return chosen.choice(plain(number, secret, stream=stream, chat=chosen.randrange(1 << 30)))

    def _ask(self, one: Ask, kind: str) -> int:
        """Send a request and judge the answer; returns the status, 0 without an answer."""
        start = time.monotonic()
        about = f"{kind} {one.model} {one.path} stream {one.stream}"
        try:
            answers = post(self.address, one.path, one.data, within=PATIENCE)
        except (OSError, ValueError) as error:
            self.expect(False, f"{about}: no answer: {error!r}")
            return 0
        took = time.monotonic() - start
        if not answers:
            self.expect(False, f"{about}: the connection ended without an answer")
            return 0
        outcome, problem = one.judge(answers[0])
        self.count(f"{kind}, {one.model}: {outcome}", took)
        self.expect(not problem, f"{about}: {problem}")
        return answers[0].status if outcome == "right" else 0

    def _leave(self, one: Ask, chosen: random.Random) -> None:
        """Send all or part of a request, and leave at once or after a moment."""
        data = head("POST", one.path, length=len(one.data)) + one.data
        part = chosen.choice((10, 100, len(data) - 1, len(data), len(data)))
        stay, how = chosen.choice((0, 0, 0.05, 0.3)), chosen.choice((Line.reset, Line.half_close))
        with Line(self.address, PATIENCE) as line:
            line.send(data[:part])
            self._over.wait(stay)
            how(line)
        self.count(f"{FAULT}client: {'leaves' if part == len(data) else 'sends a part'}")

    def _attack(self, one: Input) -> None:
        """Send a hostile input; an answer may also report that a worker died meanwhile."""
        try:
            answers = one.act(self.address)
        except TimeoutError:
            answers = [] if one.may_end else [Answer(0)]
        except (OSError, ValueError, AssertionError):
            answers = []  # the stream that it was going to leave has already ended
        meanwhile = {404, 429, 499, 500, 503, 504, 529}
        good = all(answer.status in one.right or answer.status in meanwhile for answer in answers)
        good &= not any(b"internal_error" in answer.body or b"internal error" in answer.body for answer in answers)
        self.count(f"{FAULT}client: hostile")
        self.expect(good, f"hostile {one.name}: {[(answer.status, answer.body[:200]) for answer in answers]}")

    def _cancel(self, place: int) -> None:
        """Cancel any request, whoever sent it."""
        listed = [one["id"] for one in get(self.address, "/api/v1/requests", within=PATIENCE).json()["data"]]
        if not listed:
            return
        path = f"/api/v1/requests/{listed[place % len(listed)]}"
        status = get(self.address, path, method="DELETE", within=PATIENCE).status
        self.expect(status in {200, 404}, f"DELETE {path}: {status}")
        self.count(f"{FAULT}client: cancels a request" if status == 200 else "a request ended before its cancellation")

    def _move(self, how: str, model: str) -> None:
        """Load or unload a model by its route."""
        start = time.monotonic()
        answers = post(self.address, f"/api/v1/models/{model}/{how}", b"{}", within=PATIENCE)
        if not answers:
            self.expect(False, f"{how} {model}: no answer")
            return
        told = answers[0].json()
        code = told["error"]["code"] if "error" in told else "done"
        self.count(f"{how}, {model}: {code}", time.monotonic() - start)
        self.expect(code == "done" or code in CAUSES, f"{how} {model}: {told}")

    # Faults of the machine.

    def _storm(self, storm: Storm) -> None:
        for fault in schedule(self.seed, self.storms):
            end = time.monotonic() + fault.after
            while not self._over.wait(min(0.05, max(0.0, end - time.monotonic()))) and time.monotonic() < end:
                storm.mend()
            if self._over.is_set():
                return
            storm.mend()
            if storm.strike(fault):
                self.count(f"{FAULT}machine: {fault.kind}")

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
        for number in range(self.clients):
            secret = f"q{number}x{'0' * 11}{number % 10}"
            for one in plain(number, secret, stream=bool(number % 2), chat=number // 2):
                end = time.monotonic() + CALM_SECONDS
                while (status := self._ask(one, kind)) != 200 and time.monotonic() < end:
                    time.sleep(0.2)  # a model that has just died is reloaded after a pause
                self.expect(status == 200, f"{kind} round: {one.model} does not answer")

    def _calm(self, server: psutil.Process) -> Use:
        """Unload all that may be unloaded, and return what is left, as few as it becomes."""
        def calm() -> bool:
            for name in self._models:
                post(self.address, f"/api/v1/models/{name}/unload", b"{}", within=PATIENCE)
            instances = get(self.address, "/").json()["instances"]
            now = Use.of(server)
            # One is kept, and a spare beside it.
            return [one["state"] for one in instances] == ["ready"] and now.children == 2

        with suppress(AssertionError):
            until(calm, "only what is kept is left", CALM_SECONDS)
            until(lambda: not has_connections(server), "our own connections are closed")
        return Use.of(server)

    def _after(self, server: psutil.Process, before: Use) -> None:
        """Check that everything is as it was before."""
        def quiet() -> bool:
            told = get(self.address, "/").json()
            busy = sum(one["running"] for one in told["instances"])
            return told["requests"]["running"] == told["requests"]["waiting"] == busy == 0

        try:
            until(quiet, "nobody is worked for", CALM_SECONDS)
        except (AssertionError, OSError) as error:
            self.expect(False, f"after the storm: {error}")
        self._rounds("last")
        self._look()
        after = self._calm(server)
        self._tell("after", after)
        for what in ("descriptors", "children"):
            was, is_ = getattr(before, what), getattr(after, what)
            self.expect(is_ <= was, f"{is_} {what}, {was} before")
        first = self.held[0]
        last = ask_held(server, self.folder / HELD, first)
        self.held.append(last)
        self.expect(not last.more_threads(first), f"threads: {last.more_threads(first)} more than before")
        blocks, size = last.blocks - first.blocks, last.bytes - first.bytes
        self.looks.append(f"in use: {blocks:+d} blocks, {size / 2**20:+.1f} MiB")
        self.expect(blocks <= HELD_BLOCKS and size <= HELD_BYTES, f"the server holds {last}, {first} before")
        grown = after.rss - before.rss
        self.expect(grown <= LEFT_BYTES, f"the server has grown by {grown / 2**20:.1f} MiB")
        health = get(self.address, "/health")
        self.expect(health.status == 200, f"/health is {health.status}")

    def _end(self, process: subprocess.Popen[str], server: psutil.Process, log: Path) -> None:
        """Stop the server, and look for what it leaves: processes, files, and secrets in its log."""
        children = server.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        self.expect(process.poll() == 0, f"SIGTERM: the server's status is {process.poll()}")
        left = [child.pid for child in psutil.wait_procs(children, 5)[1]]
        left += [pid for pid in self.pids if psutil.pid_exists(pid)]
        self.expect(not left, f"processes are left: {left}")
        scratch = [file.name for file in (self.folder / SCRATCH).rglob("*")]
        self.expect(not scratch, f"temporary files are left: {scratch[:5]}")
        names = [file.name for file in session_files(self._sessions)]
        parts = [name for name in names if not name.endswith((".session", ".document"))]
        self.expect(not parts, f"parts of sessions are left: {parts[:5]}")
        self.expect(not (self.folder / FULL).exists(), "the disk is still full")
        text = log.read_bytes()
        self.expect(SECRET.search(text) is None, "a secret is in the log")
        self.expect("╭" not in text.decode(errors="replace"), "a traceback with locals is in the log")
        self.counts["bytes of log"] = len(text)
        if kept := os.environ.get("CHAOS_LOG"):
            shutil.copyfile(log, kept)


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--faults", type=int, default=0, help="go on until there were so many")
    parser.add_argument("--pause", type=float, default=0.0, help="mean of each client's pauses, in seconds")
    parser.add_argument("--storms", type=float, default=3.0, help="mean of the machine's faults in a second")
    parser.add_argument("--log-format", default="console", choices=["console", "json"])
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Chaos(
            told.seconds, told.seed, told.clients, Path(folder), told.log_format, told.faults, told.pause, told.storms,
        )
        print(f"chaos with seed {told.seed} for {told.seconds:g} s", flush=True)
        good = run.run()
        print(run.summary())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
