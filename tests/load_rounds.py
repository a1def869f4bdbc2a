"""Loads and unloads models over and over by the server's routes, and looks for what is left of them.

`python tests/load_rounds.py` runs 1,000 rounds of the mock and 100 of tiny-chat, prints the server's memory,
descriptors and children on the way, and exits with 1 if the memory has grown by more than 5 % since the warm-up, or
anything else at all. `--spares 0` does it without spare workers, `--isolation thread` with the mock in a thread.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult

import psutil
from attrs import define, field, frozen
from besieged_for_tests import until
from chaos_server_for_tests import HELD, TINY_FILE, running
from held_memory_for_tests import ask_held
from lines_for_tests import Address, get, post

GROWTH = 1.05
"""How much of the memory after the warm-up the server may use at the end."""
PATIENCE = 120.0
MOCK, TINY = "mock", "tiny"
TOLD = 10
"""The number of lines about a model's rounds."""


@frozen
class Use:
    """What a server's process has at one moment."""

    rss: int
    """In bytes."""
    descriptors: int
    children: int
    threads: int

    @classmethod
    def of(cls, server: psutil.Process) -> "Use":
        """Look at a process."""
        return cls(server.memory_info().rss, server.num_fds(), len(server.children()), server.num_threads())

    def __str__(self) -> str:
        return (
            f"{self.rss / 2**20:6.1f} MiB, {self.descriptors} descriptors, {self.children} children, "
            f"{self.threads} threads"
        )


def has_connections(server: psutil.Process) -> bool:
    """Tell whether a client, such as the one that has just looked at the server, is still connected."""
    return any(one.status != psutil.CONN_LISTEN for one in server.net_connections(kind="tcp"))


@define
class Rounds:
    """Rounds of one server."""

    server: psutil.Process
    address: Address
    held: Path
    """The file in which the server tells what it holds."""
    tell: Callable[[str], object] = print
    wrong: list[str] = field(factory=list)

    def run(self, model: str, rounds: int, warm_up: int) -> None:
        """Load, use and unload a model; the uses after `warm_up` rounds and after all of them are compared."""
        began = time.monotonic()
        before = first = None
        for number in range(warm_up + rounds):
            if number == warm_up:
                before, first = self._calm(), ask_held(self.server, self.held)
                self.tell(f"{model} after the warm-up of {warm_up}: {before}, {first}")
            self._round(model, number)
            done = number - warm_up + 1
            if done > 0 and done % max(1, rounds // TOLD) == 0 and done < rounds:
                self.tell(f"{model} {done:5}: {Use.of(self.server)}")
        after = self._calm(before)
        seconds = (time.monotonic() - began) / (rounds + warm_up)
        self.tell(f"{model} {rounds:5}: {after}; {seconds * 1000:.0f} ms a round")
        if before is not None and first is not None:
            self._compare(model, before, after)
            last = ask_held(self.server, self.held, first)
            self.tell(f"{model} now: {last}")
            threads = last.more_threads(first)
            if threads:
                self.wrong.append(f"{model}: threads are left: {threads}")

    def _round(self, model: str, number: int) -> None:
        loaded = self._post(f"/api/v1/models/{model}/load")
        if number % 5 == 0:  # a model that is used has more to leave behind
            body = b'{"model": "%s", "prompt": "Hi", "max_tokens": 2}' % model.encode()
            self._post("/v1/completions", body)
        unloaded = self._post(f"/api/v1/models/{model}/unload")
        if loaded and unloaded and unloaded["unloaded"] != [loaded["instance"]]:
            self.wrong.append(f"{model} {number}: {loaded} was loaded, {unloaded} unloaded")

    def _post(self, path: str, body: bytes = b"{}") -> Mapping[str, object]:
        [answer] = post(self.address, path, body, within=PATIENCE)
        if answer.status != 200:
            self.wrong.append(f"{path}: {answer.status} {answer.body[:200]!r}")
            return {}
        told: Mapping[str, object] = answer.json()
        return told

    def _calm(self, like: Use | None = None) -> Use:
        """Wait until no instance is left, closed connections are gone and the spare is ready, as far as they come."""
        def calm() -> bool:
            pool = get(self.address, "/").json()
            if pool["instances"]:
                return False
            now = Use.of(self.server)
            return like is None or (now.descriptors <= like.descriptors and now.children <= like.children)

        end = time.monotonic() + 20
        until(lambda: calm() or time.monotonic() > end, "the server is calm")
        until(lambda: not has_connections(self.server), "our own connections are closed")
        return Use.of(self.server)

    def _compare(self, model: str, before: Use, after: Use) -> None:
        if after.rss > before.rss * GROWTH:
            self.wrong.append(f"{model}: {before.rss} bytes before, {after.rss} after: more than {GROWTH:.0%}")
        for what in ("descriptors", "children"):
            was, is_ = getattr(before, what), getattr(after, what)
            if is_ > was:
                self.wrong.append(f"{model}: {was} {what} before, {is_} after")


@contextmanager
def started(
    folder: Path, spares: int, tell: Callable[[str], object] = print, isolation: str = "process",
) -> Iterator[Rounds]:
    """Run a server with a mock and, if its plugin is installed, tiny-chat, which is in a process."""
    models: dict[str, object] = {MOCK: {"engine": "mock", "isolation": isolation}}
    if TINY_FILE is not None:
        options = {"slots": 2, "context_length": 256, "threads": 1}
        models[TINY] = {"engine": "llamacpp", "file": str(TINY_FILE), "options": options}
    server = {"port": 0, "spare_workers": spares, "shutdown_timeout": 2}
    with running({"server": server, "models": models}, folder) as (process, url, _):
        yield Rounds(psutil.Process(process.pid), _address(url), folder / HELD, tell)


def _address(url: SplitResult) -> Address:
    return url.hostname or "", url.port or 0


def main() -> int:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mock", type=int, default=1000, help="rounds of the mock")
    parser.add_argument("--tiny", type=int, default=100, help="rounds of tiny-chat")
    parser.add_argument("--warm-up", type=int, default=20, help="rounds of each before the first look")
    parser.add_argument("--spares", type=int, default=1, help="spare workers")
    parser.add_argument("--isolation", default="process", choices=["process", "thread"], help="of the mock")
    told = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        started(Path(folder), told.spares, isolation=told.isolation) as rounds,
    ):
        rounds.run(MOCK, told.mock, told.warm_up)
        if TINY_FILE is not None:
            rounds.run(TINY, told.tiny, told.warm_up)
    for one in rounds.wrong[:20]:
        print(f"WRONG: {one}")
    print(f"wrong: {len(rounds.wrong)}")
    return 1 if rounds.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
