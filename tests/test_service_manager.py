"""What a service manager is told by a real server, and the sockets that it passes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest
from programs_for_tests import environment
from waits_for_tests import GUARD

from lllms_core.errors import ConfigError
from lllms_core.machine import host_and_port, notify, passed_listener
from lllms_core.machine.service_manager import watchdog_seconds

pytestmark = pytest.mark.slow


PASS = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
    " os.execv(sys.argv[2], sys.argv[2:])"
)
"""A program that passes a descriptor on as a service manager does."""


class Manager:
    """The socket to which notifications are sent."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(GUARD)
        self.heard: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def hears(self, line: str) -> None:
        """Wait for a notification with this line."""
        while not any(line in one.split("\n") for one in self.heard):
            self.heard.append(self.socket.recv(4096).decode())

    def falls_silent(self) -> bool:
        """Wait until nothing more arrives."""
        try:
            while self.socket.recv(4096):
                pass
        except TimeoutError:
            return True
        return False


@contextmanager
def server(
    folder: Path, *arguments: str, passed: socket.socket | None = None, **variables: str,
) -> Iterator[subprocess.Popen[str]]:
    """Run `lllms serve` as a service manager does, with a socket as its descriptor 3."""
    argv = [sys.executable, "-m", "lllms_core", "serve", *arguments]
    numbers: tuple[int, ...] = ()
    if passed is not None:
        numbers = (passed.fileno(),)
        argv = [sys.executable, "-c", PASS, str(passed.fileno()), *argv]
    process = subprocess.Popen(
        argv, cwd=folder, env={**environment(folder), "LLLMS_PLUGINS": "mock,openai,status", **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=numbers,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=GUARD)


def test_a_manager_hears_when_the_server_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    """READY comes once requests are answered, with the address; STOPPING after the signal; nothing else before."""
    address = f"@lllms-test-{os.getpid()}"  # a name, not a file
    with Manager(address) as manager, server(tmp_path, "--port", "0", NOTIFY_SOCKET=address) as process:
        manager.hears("READY=1")
        assert len(manager.heard) == 1
        url = manager.heard[0].partition("STATUS=Listening on ")[2]
        assert httpx.get(f"{url}/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        manager.hears("STOPPING=1")
        assert process.wait(GUARD) == 0


def test_a_watchdog_hears_from_a_server_that_turns_and_not_from_one_that_hangs(tmp_path: Path) -> None:
    """With a watchdog of half a second the server reports within it; stopped, it is silent, and then goes on."""
    address = str(tmp_path / "notify")
    watched = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "500000"}
    with Manager(address) as manager, server(tmp_path, "--port", "0", **watched) as process:
        for _ in range(3):
            manager.hears("WATCHDOG=1")
            manager.heard.clear()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        manager.socket.settimeout(1)
        assert manager.falls_silent()
        process.send_signal(signal.SIGCONT)
        manager.socket.settimeout(GUARD)
        manager.hears("WATCHDOG=1")


def test_a_server_serves_the_socket_that_it_is_passed(tmp_path: Path) -> None:
    """The socket takes the place of --host and --port; a client that connected before is answered, workers lack it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with server(tmp_path, passed=listener) as process:  # the usual port may be taken
            answer = httpx.post(
                f"{url}/v1/chat/completions", timeout=GUARD,
                json={"model": "mock", "messages": [{"role": "user", "content": "Hello!"}]},
            )
            assert answer.status_code == 200
            assert process.stdout is not None
            assert f"listening on {url}\n" in iter(process.stdout.readline, "")


def test_a_passed_unix_socket_stays(tmp_path: Path) -> None:
    """The file of a passed socket belongs to the manager: it is there after the server has ended."""
    path = tmp_path / "lllms.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with (
            server(tmp_path, passed=listener),
            httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=GUARD) as client,
        ):
            assert client.get("http://localhost/health").json() == {"status": "ok"}
        assert path.is_socket()


def test_a_passed_socket_that_others_can_reach_needs_keys(tmp_path: Path) -> None:
    """A socket at all addresses is refused without keys, as `host = "0.0.0.0"` is."""
    with socket.create_server(("0.0.0.0", 0)) as listener, server(tmp_path, passed=listener) as process:
        _, errors = process.communicate(timeout=GUARD)
        assert process.returncode == 1, errors
        assert "other machines can reach '0.0.0.0', and there are no API keys" in errors


@contextmanager
def passed(monkeypatch: pytest.MonkeyPatch, *sockets: socket.socket) -> Iterator[None]:
    """Let this process be passed copies of these sockets."""
    numbers = [os.dup(one.fileno()) for one in sockets]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    monkeypatch.setattr("lllms_core.machine.service_manager.FIRST", numbers[0])
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(len(numbers)))
    yield


def test_sockets_of_no_use_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several sockets, and one that does not listen for streams, are errors that name the line of the socket unit."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        with passed(monkeypatch, one, two), pytest.raises(ConfigError, match=r"passes 2 sockets.*leave one ListenStr"):
            passed_listener()
        with passed(monkeypatch, one):
            found = passed_listener()
            assert found is not None
            with found:
                assert host_and_port(found) == {"host": "127.0.0.1", "port": one.getsockname()[1]}
                assert not found.get_inheritable()
        assert passed_listener() is None  # only the first call
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with datagrams, passed(monkeypatch, datagrams), pytest.raises(ConfigError, match="Accept=no"):
        passed_listener()


def test_nothing_is_taken_that_is_meant_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets for another process, and its watchdog, are ignored; without a manager notifications go nowhere."""
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert passed_listener() is None
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_seconds() is None
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_seconds() == 1.0
    for address in ("", "vsock:2:1234", "/nowhere/at/all"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")


def test_a_reload_is_told_with_its_time(tmp_path: Path) -> None:
    """SIGHUP is answered by RELOADING with the monotonic time, which systemd demands, and by READY at its end."""
    address = str(tmp_path / "notify")
    (tmp_path / "lllms.toml").write_text('[models.bot]\nengine = "mock"\n')
    with Manager(address) as manager, server(tmp_path, "--port", "0", NOTIFY_SOCKET=address) as process:
        manager.hears("READY=1")
        for text in ('[models.other]\nengine = "mock"\n', "[models"):  # a reload, and one that fails
            manager.heard.clear()
            (tmp_path / "lllms.toml").write_text(text)
            before = time.monotonic_ns() // 1000
            process.send_signal(signal.SIGHUP)
            manager.hears("RELOADING=1")
            micros = int(manager.heard[0].partition("MONOTONIC_USEC=")[2])
            assert before <= micros <= time.monotonic_ns() // 1000
            manager.hears("READY=1")
