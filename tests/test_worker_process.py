"""Worker processes that die, that are killed, and that do not outlive their server."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
from engines_for_tests import Options, RawEngine, ScriptedEngine, ShyEngine, StuckEngine, UnreadableError
from pools_for_tests import Pools, ask
from waits_for_tests import GUARD

from lllms_core.engines import Engine
from lllms_core.errors import EngineDied, ModelLoadFailed
from lllms_core.pool.state import PoolLimits
from lllms_core.types import Delta
from lllms_core.worker.handle import WorkerEvents
from lllms_core.worker.process import WIRE_OUT, _Pipes
from lllms_core.worker.wire import Deltas, FromWorker, encode

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent

# A server in another process: it prints the id of its worker, once that is as busy as it should be.
SERVER = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from engines_for_tests import Options
from pools_for_tests import Pools, ask

async def main():
    pools = Pools()
    options = Options(load={load!r}, gate={gate!r})
    pool = await pools.start(options, isolation="process")
    stream = pool.submit(ask({prompt!r}))
    if {prompt!r} == "hold-gil":
        await stream.take()
    [instance] = pool.status().instances
    while instance.pid is None or ({gate!r} and instance.progress < 0.9):
        await asyncio.sleep(0)
        [instance] = pool.status().instances
    print(instance.pid, flush=True)
    while True:
        await stream.take()

asyncio.run(main())
"""


def serve_elsewhere(prompt: str, load: str = "", gate: str = "") -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a server in a separate process; return it and its busy worker."""
    script = SERVER.format(tests=str(TESTS), prompt=prompt, load=load, gate=gate)
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, psutil.Process(int(server.stdout.readline()))


def kill_and_wait(server: subprocess.Popen[str], *workers: psutil.Process) -> None:
    """Kill the server as the kernel would, and assert that its workers are gone."""
    assert all(worker.is_running() for worker in workers)
    server.kill()
    server.communicate()
    _, alive = psutil.wait_procs(workers, timeout=GUARD)
    assert not alive


@pytest.mark.parametrize("prompt", ["count", "hold-gil"])
def test_busy_worker_dies_with_its_parent(prompt: str) -> None:
    """When the server is killed by SIGKILL, its worker is gone too, even if native code holds the interpreter in it."""
    kill_and_wait(*serve_elsewhere(prompt))


def test_loading_worker_dies_with_its_parent(gate: Path) -> None:
    """When the server is killed by SIGKILL, a worker in the middle of a load is gone too."""
    kill_and_wait(*serve_elsewhere("count", gate=str(gate)))


@pytest.mark.parametrize(("prompt", "reason"), [
    ("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "status 7"), ("raise", "ValueError"),
    ("unreadable", "unreadable"), ("open kill", "SIGKILL"), ("open segv", "SIGSEGV"), ("open raise", "ValueError"),
])
async def test_death_at_work(pools: Pools, prompt: str, reason: str) -> None:
    """A worker that dies fails its requests, gives the reason, affects no other instance, and is replaced on demand."""
    pool = await pools.start(isolation="process", models=("scripted", "other"), limits=PoolLimits(cores=2))
    async with asyncio.timeout(GUARD):
        bystander = pool.submit(ask("count", "other"))
        neighbour = pool.submit(ask("count"))
        await bystander.take()
        await neighbour.take()
        with pytest.raises(EngineDied, match=reason):
            await pool.submit(ask(prompt)).gather()
        with pytest.raises(EngineDied, match=reason):
            await neighbour.gather()
        assert (await pool.submit(ask("echo alive")).gather()).text == "alive"
        assert await bystander.take()
        assert len(pool.status().instances) == 2
        await bystander.aclose()


@pytest.mark.parametrize(("fault", "reason"), [
    ("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("exit", "status 7"), ("raise", "ValueError: the engine is broken"),
])
async def test_death_in_load(pools: Pools, fault: str, reason: str) -> None:
    """A worker that dies while it loads fails the waiting requests, with the reason, every time."""
    pool = await pools.start(Options(load=fault), isolation="process")  # type: ignore[arg-type]
    async with asyncio.timeout(GUARD):
        for _ in range(2):
            with pytest.raises(ModelLoadFailed, match=reason):
                await pool.submit(ask("count")).gather()
        assert pool.status().instances == ()


@pytest.mark.parametrize(("engine", "reason"), [
    (ShyEngine(), "the engine's library is missing"),
    (StuckEngine(), "cannot be sent to a worker process"),
    (type("Local", (RawEngine,), {"__module__": __name__})(), "define it at the top of a module"),
])
async def test_engine_that_cannot_travel(pools: Pools, engine: Engine, reason: str) -> None:
    """An engine that cannot be pickled, or not be created in the child, is a failed load that says so."""
    pool = await pools.start(engine=engine, isolation="process")
    async with asyncio.timeout(GUARD):
        with pytest.raises(ModelLoadFailed, match=reason):
            await pool.submit(ask("count")).gather()


async def test_grandchildren_die_too(pools: Pools) -> None:
    """A program started by an engine does not outlive its worker."""
    pool = await pools.start(isolation="process")
    async with asyncio.timeout(GUARD):
        stream = pool.submit(ask("child"))
        grandchild = psutil.Process(int((await stream.take())[0].text))
        await stream.aclose()
    await pool.close(grace=0)
    assert psutil.wait_procs([grandchild], timeout=GUARD)[1] == []


async def test_escaped_grandchild_holds_nobody_up(pools: Pools) -> None:
    """A program that has left the worker's group and holds its log open does not delay the report of its death."""
    pool = await pools.start(isolation="process")
    async with asyncio.timeout(GUARD):
        stream = pool.submit(ask("child daemon"))
        grandchild = psutil.Process(int((await stream.take())[0].text))
        [instance] = pool.status().instances
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await stream.gather()
    assert grandchild.is_running()
    grandchild.kill()


async def test_signals_for_the_server_are_not_the_workers(pools: Pools) -> None:
    """A SIGINT or SIGTERM that reaches a worker (a service manager sends it to all) does not end its requests."""
    pool = await pools.start(isolation="process")
    async with asyncio.timeout(GUARD), pool.submit(ask("count")) as stream:
        await stream.take()
        [instance] = pool.status().instances
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(instance.pid or 0, number)
        for _ in range(10):
            assert await stream.take()


async def test_no_file_descriptors_are_lost(pools: Pools) -> None:
    """Instances that come and go leave no descriptors behind, whether they end well or badly."""
    this, counts = psutil.Process(), []
    pool = await pools.start(isolation="process")
    async with asyncio.timeout(GUARD):
        for fault in ("exit", "kill", "raise", "exit"):
            with pytest.raises(EngineDied):
                await pool.submit(ask(fault)).gather()
            counts.append(this.num_fds())
    assert counts[0] == counts[-1]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script that defines an engine and runs it; it counts how often it is imported."""
    path = tmp_path / "script.py"
    path.write_text(f"""
import asyncio, sys
sys.path.insert(0, {str(TESTS)!r})
import pools_for_tests as tools
from lllms_core.engines import Engine, SerialModel
from lllms_core.errors import LllmsError

class Parrot(SerialModel):
    def complete(self, prompt, request):
        yield prompt

class ParrotEngine(Engine):
    name = "parrot"
    needs_file = False

    def load(self, spec, progress):
        return Parrot()

async def main():
    pools = tools.Pools()
    pool = await pools.start(engine=ParrotEngine(), isolation="process")
    try:
        print((await pool.submit(tools.ask("hello")).gather()).text)
    except LllmsError as error:
        sys.exit(error.message)
    finally:
        await pools.close()
""")
    return path


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python to its end."""
    arguments = [sys.executable, *command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=GUARD, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_engine_of_the_main_script(script: Path) -> None:
    """An engine defined in the script itself works, with the usual guard."""
    with script.open("a") as file:
        file.write('\nif __name__ == "__main__":\n    asyncio.run(main())\n')
    done = run(str(script))
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


def test_engine_of_a_main_module(script: Path) -> None:
    """The same holds for a module that is run by `python -m`."""
    with script.open("a") as file:
        file.write('\nif __name__ == "__main__":\n    asyncio.run(main())\n')
    done = run("-m", "script", cwd=script.parent)
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


def test_main_script_without_a_guard(script: Path) -> None:
    """A script that would start itself endlessly in each worker gets advice instead."""
    with script.open("a") as file:
        file.write("\nasyncio.run(main())\n")
    done = run(str(script))
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr


def test_engine_of_an_interactive_session(script: Path) -> None:
    """An engine defined where no worker can import it is a clear error."""
    done = run("-c", script.read_text() + "\nasyncio.run(main())\n")
    assert done.returncode == 1
    assert "it is defined in an interactive session" in done.stderr


def test_worker_finds_the_modules_of_its_parent(tmp_path: Path) -> None:
    """A worker imports the same modules as its parent: files in the working directory do not shadow them."""
    for name in ("queue", "attrs", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('the wrong module')")
    program = f"""
import sys
sys.path.remove("")
sys.path.insert(0, {str(TESTS)!r})
import asyncio
from pools_for_tests import Pools, ask
async def main():
    pools = Pools()
    pool = await pools.start(isolation="process")
    print((await pool.submit(ask("echo fine")).gather()).text)
    await pools.close()
asyncio.run(main())
"""
    done = run("-c", program, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


async def test_worker_that_cannot_start(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system refuses another process, the load fails with the system's reason."""
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: "/no/such/python")
    pool = await pools.start(isolation="process", engine=ScriptedEngine())
    async with asyncio.timeout(GUARD):
        with pytest.raises(ModelLoadFailed, match="No such file"):
            await pool.submit(ask("count")).gather()


async def test_nothing_counts_after_an_unreadable_message() -> None:
    """Pieces of an answer are in the unreadable message, too: what follows must not complete it without them."""
    told: list[FromWorker] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pipes = _Pipes("a model", cast(WorkerEvents, SimpleNamespace(message=told.append)), ours)
        pipes.connection_made(cast(asyncio.BaseTransport, SimpleNamespace(get_returncode=lambda: 0)))  # nothing to kill
        first, second, last = (Deltas((Delta("neighbour", text),)) for text in "abc")
        broken = Deltas((Delta("neighbour", "!"), Delta("other", error=UnreadableError("one", other="two"))))
        pipes.pipe_data_received(WIRE_OUT, encode(first) + encode(broken) + encode(second))
        pipes.pipe_data_received(WIRE_OUT, encode(last))
    assert told == [first]
