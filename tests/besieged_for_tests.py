"""A real server under attack, and witnesses (well-behaved clients) that notice whether anyone else is affected."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from hostile_for_tests import TINY, Input
from lines_for_tests import SECRET, get
from programs_for_tests import address as url_in
from programs_for_tests import environment
from witnesses_for_tests import GAP_SECONDS, Witness

HEALTH_SECONDS = 1.5
"""Limit for `/health`, which answers far sooner on an idle machine."""
QUIET_SECONDS = 8.0
"""Seconds after which all work for a client that has left must have stopped."""
LOG_OF_ONE, LONGEST_LINE = 20_000, 1000
"""Bytes that one input may add to the log."""
STOP_SECONDS = 12.0
"""From the signal to the end of the process: two seconds for running answers, and some to close."""

COUNTED = " ".join(f"word{number}" for number in range(30))
STORY = [
    {"role": "user", "content": "My name is Bob. The secret word is blimp. Do not forget it."},
    {"role": "assistant", "content": "Okay, Bob."}, {"role": "user", "content": "What is the secret word?"},
]

CONFIG = """
[server]
log_level = "debug"
log_format = "{style}"
shutdown_timeout = 2
concurrency = 16
[models.bot]
engine = "mock"
isolation = "process"
min_instances = 1
ttl = -1
[models.slow]
engine = "mock"
isolation = "process"
min_instances = 1
ttl = -1
options = {{ slots = 16, context_length = 100000, tokens_per_second = 30, script = [
    {{ replies = ["la"], tokens = 1000000 }} ] }}
[models.calm]
engine = "mock"
min_instances = 1
ttl = -1
options = {{ tokens_per_second = 30, script = [{{ replies = ["{counted}"] }}] }}
"""
ENGINE = """
[models.tiny]
engine = "llamacpp"
file = "{file}"
min_instances = 1
ttl = -1
options = {{ slots = 4, context_length = 512, threads = 1 }}
"""


class Wounded(AssertionError):
    """The attack hurt the server or another client."""


class Besieged:
    """The server, its witnesses, and its state before the attack."""

    def __init__(self, folder: Path, style: str = "console", *, file: Path | None = None) -> None:
        text = CONFIG.format(style=style, counted=COUNTED) + (ENGINE.format(file=file) if file else "")
        (folder / "lllms.toml").write_text(text)
        self._log = folder / "log"
        self._read = 0
        with self._log.open("wb") as log:
            argv = [sys.executable, "-m", "lllms_core", "serve", "--port", "0"]
            self.process = subprocess.Popen(
                argv, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=log, text=True,
            )
        self.whole = psutil.Process(self.process.pid)
        self.witnesses: list[Witness] = []
        try:
            self._begin(file)
        except BaseException:
            self.kill()
            raise

    def _begin(self, file: Path | None) -> None:
        """Wait until the server serves and the witnesses get their answers."""
        assert self.process.stdout is not None
        printed = [""]
        while not printed[-1].startswith("try: "):
            printed.append(self.process.stdout.readline().rstrip("\n"))
            assert printed[-1], self.log()
        place = urlsplit(url_in(printed))
        self.address = (place.hostname or "", place.port or 0)
        said = [{"role": "user", "content": "I am the witness"}]
        self.witnesses += [Witness(self.address, {"model": "calm", "messages": said}, COUNTED).start()]
        if file:
            sure = {"model": TINY, "messages": STORY, "temperature": 0, "max_tokens": 40}
            self.witnesses.append(Witness(self.address, sure, None, pause=0.6).start())
        until(lambda: all(one.answers for one in self.witnesses), f"the witnesses get answers; the log is {self._log}")
        if file:
            assert "blimp" in (self.witnesses[1].expected or "")
        self.pids = self.workers()
        self.before = self.uses()
        self._read = self._log.stat().st_size  # at debug, a load alone logs more than an input may

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def status(self) -> Any:
        return get(self.address, "/").json()

    def workers(self) -> dict[str, int | None]:
        """The process id of each model's worker; None for a model in the server's own process."""
        return {one["model"]: one["pid"] for one in self.status()["instances"]}

    def uses(self) -> dict[str, int]:
        """The server's descriptors, processes and memory, and its workers' memory."""
        memory = {"memory of the server": self.whole.memory_info().rss}
        for model, pid in self.workers().items():
            if pid is not None:
                memory[f"memory of {model}"] = psutil.Process(pid).memory_info().rss
        processes = len(self.whole.children(recursive=True))
        return {"descriptors": self.whole.num_fds(), "processes": processes, **memory}

    def look(self) -> None:
        """Raise `Wounded` if anything is wrong now, or has been since the last look."""
        try:
            health = get(self.address, "/health", within=HEALTH_SECONDS)
            _hurt(health.status != 200, f"/health is {health.status}")
            self._look_at_requests()
        except (OSError, ValueError) as error:
            raise Wounded(f"/health or /: {error!r}") from error
        for witness in self.witnesses:
            _hurt(bool(witness.problems), f"a witness: {witness.problems}")
            gap = witness.gap()
            _hurt(gap > GAP_SECONDS, f"a witness of {witness.request['model']} waited for {gap:.1f} s")
        self.look_into_log()

    def _look_at_requests(self) -> None:
        """Check that the model shared with the attackers is idle between two answers to its witness."""
        sharing = self.witnesses[1:]
        for witness in sharing:
            _hurt(not witness.asking.acquire(timeout=QUIET_SECONDS), "a witness gets no answer")
        try:
            last = self.status()
            until(lambda: self._quiet(last) or last.update(self.status()), "", QUIET_SECONDS)
        except AssertionError:
            requests = {one["model"]: one["running"] for one in last["instances"]}
            raise Wounded(f"work for who has left: {last['requests']}, {requests}") from None
        finally:
            for witness in sharing:
                witness.asking.release()
        pids = {one["model"]: one["pid"] for one in last["instances"]}
        _hurt(pids != self.pids, f"workers have died: {self.pids} were, {pids} are")

    def look_into_log(self) -> None:
        """Raise `Wounded` if the log has a secret, a traceback, or many lines beside one for each request."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        self._read += len(new)
        for word in (SECRET, "Traceback", "╭"):  # a box is how a traceback with locals looks
            at = new.find(word.encode())
            _hurt(at >= 0, f"the log has {word!r}: {new[max(0, at - 300) : at + 300].decode(errors='replace')}")
        of_requests = [line for line in new.splitlines() if b"lllms.requests" in line and b"no effect" not in line]
        longest = max(of_requests, key=len, default=b"")
        _hurt(len(longest) > LONGEST_LINE, f"a request's line of the log has {len(longest)} bytes: {longest[:300]!r}")
        rest = len(new) - sum(map(len, of_requests))
        _hurt(rest > LOG_OF_ONE, f"{rest} bytes of log, which begin {new[:300]!r}")

    def _quiet(self, status: dict[str, Any]) -> bool:
        """Whether the calm witness has the only running request."""
        running = sum(one["running"] for one in status["instances"] if one["model"] != "calm")
        requests = status["requests"]
        return running == 0 and requests["waiting"] == 0 and requests["running"] <= 1

    def suffer(self, one: Input) -> None:
        """Take one input. Raises `AssertionError` with what is wrong with its answers, or who was hurt by it."""
        wrong: Exception | None = None
        try:
            one.judge(one.act(self.address))
        except (AssertionError, OSError, ValueError) as error:
            wrong = error
        self.look()
        if wrong is not None:
            raise AssertionError(f"{type(wrong).__name__}: {wrong}") from wrong

    def stop(self) -> float:
        """Stop the server with a signal and return the seconds it took. Raises `Wounded` if it does not end."""
        for witness in self.witnesses:
            witness.stop()
        start = time.monotonic()
        children = self.whole.children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Wounded(f"SIGTERM does not end it within {STOP_SECONDS} s") from None
        finally:
            self.kill()
        _, alive = psutil.wait_procs(children, 5)
        _hurt(bool(alive), f"children are left: {alive}")
        return time.monotonic() - start

    def kill(self) -> None:
        """Kill the server, whatever its state."""
        for witness in self.witnesses:
            witness._stopped.set()
        with suppress(psutil.NoSuchProcess):
            for child in self.whole.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Siege:
    """A server that is replaced after an input has wounded it, so that the next input is judged on its own."""

    def __init__(self, make: Callable[[], Besieged]) -> None:
        self._make = make
        self._server: Besieged | None = None

    @property
    def server(self) -> Besieged:
        """A healthy server."""
        if self._server is None:
            self._server = self._make()
        return self._server

    def suffer(self, one: Input) -> None:
        """As `Besieged.suffer`."""
        try:
            self.server.suffer(one)
        except Wounded:
            self.end()
            raise

    def end(self) -> None:
        """Kill the server, if one runs, whatever its state."""
        if self._server is not None:
            self._server.kill()
            self._server = None


@contextmanager
def siege(make: Callable[[], Besieged]) -> Iterator[Siege]:
    """Yield a siege; its server is killed at the end."""
    made = Siege(make)
    try:
        yield made
    finally:
        made.end()


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it does not come to be that {what}"
        time.sleep(0.005)  # polls another process


def _hurt(is_so: bool, what: str) -> None:
    if is_so:
        raise Wounded(what)
