"""A real server under attack, and witnesses beside it who see whether anybody else is hurt."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from attrs import define, field, frozen
from hostile_for_tests import BOT, CHAT, TINY, Input
from lines_for_tests import SECRET, Address, Line, get, head
from programs_for_tests import address as url_in
from programs_for_tests import environment

HEALTH_SECONDS = 3.0
"""`/health` answers within this; far below on an idle machine."""
GAP_SECONDS = 5.0
"""Between two pieces of a stream, or before its first; what is wrong takes far longer."""
QUIET_SECONDS = 8.0
"""After which nobody works any longer for a client that has left."""
LOG_OF_ONE = 20_000
"""Bytes of log that one input may cause."""
STOP_SECONDS = 12.0
"""From the signal to the end of the process: two seconds for answers, and some to close."""

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


@frozen
class Wounded(AssertionError):
    """The server, or somebody beside the attacker, was hurt."""

    what: str

    def __str__(self) -> str:
        return self.what


@define
class Witness:
    """A client that asks for the same answer again and again, as a stream, and notes whatever is unusual."""

    address: Address
    request: dict[str, object]
    expected: str | None
    """The answer; None: the first one is what all others must be."""
    pause: float = 0.0
    answers: int = 0
    longest: float = 0.0
    """The longest gap since it was last looked at."""
    asking: threading.Lock = field(factory=threading.Lock)
    """Held while it is answered."""
    problems: list[str] = field(factory=list)
    _last: float = field(factory=time.monotonic)
    _stopped: threading.Event = field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End with the answer that is coming."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(GAP_SECONDS * 4)

    def gap(self) -> float:
        """The longest gap since the last look, also one that has not ended."""
        now = time.monotonic() - self._last if self.asking.locked() else 0.0
        longest, self.longest = max(self.longest, now), 0.0
        return longest

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self.asking:
                    self._last = time.monotonic()
                    text = self._ask()
            except (OSError, ValueError, KeyError) as error:
                self.problems.append(f"{type(error).__name__}: {error}")
                self._stopped.wait(0.2)
                continue
            if self.expected is None:
                self.expected = text
            if text != self.expected:
                self.problems.append(f"got {text!r}")
            self.answers += 1
            self._stopped.wait(self.pause)

    def _ask(self) -> str:
        """Read one answer, event by event."""
        data = json.dumps({**self.request, "stream": True}).encode()
        text, got = "", b""
        with Line(self.address, GAP_SECONDS * 12) as line:
            line.send(head("POST", CHAT, length=len(data)).replace(SECRET.encode(), b"witness"), data)
            while part := line.socket.recv(1 << 16):
                now = time.monotonic()
                self.longest, self._last = max(self.longest, now - self._last), now
                got += part
        assert_head(got)
        for event in re.findall(rb"data: (\{.*\})", got):
            told = json.loads(event)
            if "error" in told:
                raise ValueError(told["error"])
            for choice in told["choices"]:
                text += choice["delta"].get("content") or ""
        return text


def assert_head(got: bytes) -> None:
    if not got.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"the witness got {got[:500]!r}")


class Besieged:
    """The server, its witnesses, and what is known of it from before."""

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
        """Wait until it serves, and the witnesses get their answers."""
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
            self.witnesses.append(Witness(self.address, sure, None, pause=0.2).start())
        until(lambda: all(one.answers for one in self.witnesses), f"the witnesses get answers; the log is {self._log}")
        if file:
            assert "blimp" in (self.witnesses[1].expected or "")
        self.pids = self.workers()
        self.before = self.uses()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def status(self) -> Any:
        return get(self.address, "/").json()

    def workers(self) -> dict[str, int | None]:
        """The process of each model; None for one that lives in the server's."""
        return {one["model"]: one["pid"] for one in self.status()["instances"]}

    def uses(self) -> dict[str, int]:
        """What the server holds, and what its workers have of memory."""
        memory = {"memory of the server": self.whole.memory_info().rss}
        for model, pid in self.workers().items():
            if pid is not None:
                memory[f"memory of {model}"] = psutil.Process(pid).memory_info().rss
        processes = len(self.whole.children(recursive=True))
        return {"descriptors": self.whole.num_fds(), "processes": processes, **memory}

    def look(self) -> None:
        """Raise `Wounded` if something is wrong now, or was since the last look."""
        start = time.monotonic()
        try:
            health = get(self.address, "/health", within=HEALTH_SECONDS)
        except OSError as error:
            raise Wounded(f"/health: {error!r}") from error
        took = time.monotonic() - start
        _hurt(health.status != 200 or took > HEALTH_SECONDS, f"/health is {health.status} after {took:.1f} s")
        self._look_at_requests()
        for witness in self.witnesses:
            _hurt(bool(witness.problems), f"a witness: {witness.problems}")
            gap = witness.gap()
            _hurt(gap > GAP_SECONDS, f"a witness of {witness.request['model']} waited for {gap:.1f} s")
        self.look_into_log()

    def _look_at_requests(self) -> None:
        """Between two answers of the witness who shares its model with the attackers, nobody is worked for there."""
        sharing = self.witnesses[1:]
        for witness in sharing:
            _hurt(not witness.asking.acquire(timeout=QUIET_SECONDS), "a witness gets no answer")
        last: dict[str, Any] = {}
        try:
            until(lambda: last.update(self.status()) or self._quiet(last), "", QUIET_SECONDS)
        except AssertionError:
            requests = {one["model"]: one["running"] for one in last["instances"]}
            raise Wounded(f"work for who has left: {last['requests']}, {requests}") from None
        finally:
            for witness in sharing:
                witness.asking.release()
        pids = {one["model"]: one["pid"] for one in last["instances"]}
        _hurt(pids != self.pids, f"workers have died: {self.pids} were, {pids} are")

    def look_into_log(self) -> None:
        """Raise `Wounded` if what the log has got is more than a few lines, or what nobody may read."""
        new = self._log.read_bytes()[self._read :]
        self._read += len(new)
        for word in (SECRET, "Traceback", "╭", "BEGIN PROMPT"):  # a box is how a traceback with locals looks
            at = new.find(word.encode())
            _hurt(at >= 0, f"the log has {word!r}: {new[max(0, at - 300) : at + 300].decode(errors='replace')}")
        _hurt(len(new) > LOG_OF_ONE, f"{len(new)} bytes of log, which begin {new[:300]!r}")

    def _quiet(self, status: dict[str, Any]) -> bool:
        """Whether only the calm witness is worked for."""
        running = sum(one["running"] for one in status["instances"] if one["model"] != "calm")
        requests = status["requests"]
        return running == 0 and requests["waiting"] == 0 and requests["running"] <= 1

    def suffer(self, one: Input) -> None:
        """Take one input. Raises `AssertionError` that says what is wrong with its answers, or who was hurt by it."""
        wrong: Exception | None = None
        try:
            one.judge(one.act(self.address))
        except (AssertionError, OSError, ValueError) as error:
            wrong = error
        self.look()
        if wrong is not None:
            raise AssertionError(f"{type(wrong).__name__}: {wrong}") from wrong

    def stop(self) -> float:
        """End it with a signal; returns how long that took. Raises `Wounded` if it does not end."""
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
        """End it whatever it does."""
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
    """A server that is replaced when an input has wounded it, so that the next one is judged by itself."""

    def __init__(self, make: Callable[[], Besieged]) -> None:
        self._make = make
        self.server = make()
        self.wounds = 0

    def suffer(self, one: Input) -> None:
        """As `Besieged.suffer`."""
        if self.server.process.poll() is not None:
            self.server = self._make()
        try:
            self.server.suffer(one)
        except Wounded:
            self.wounds += 1
            self.server.kill()
            raise


@contextmanager
def siege(make: Callable[[], Besieged]) -> Iterator[Siege]:
    """Such a server, which is gone in the end."""
    made = Siege(make)
    try:
        yield made
    finally:
        made.server.kill()


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it does not come to be that {what}"
        time.sleep(0.005)  # between two looks at another process


def _hurt(is_so: bool, what: str) -> None:
    if is_so:
        raise Wounded(what)


__all__ = ["BOT", "Besieged", "Siege", "Wounded", "siege", "until"]
