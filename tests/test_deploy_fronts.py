"""Two real servers behind nginx and HAProxy: what belongs together stays together, and moves when its server ends."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
import trustme
from attrs import define, field
from programs_for_tests import environment
from programs_for_tests import serving as program
from test_deploy_proxies import DEPLOY, NAME, free_port
from waits_for_tests import GUARD, poll

pytestmark = pytest.mark.deploy

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
KEY, OTHER_KEY = "sk-behind-fronts", "sk-of-somebody-else"
SESSIONS = [f"conversation {number}" for number in range(24)]
FRONTS = """
[server]
allowed_hosts = ["{name}"]
api_keys = ["alice: {key}", "bob: {other}"]
log_level = "warning"
shutdown_timeout = 60

[models.bot]
engine = "mock"
isolation = "thread"

[[models.bot.options.script]]
replies = ["front {number}"]

[models.slow]
engine = "mock"
isolation = "thread"

[models.slow.options]
tokens_per_second = 8

[[models.slow.options.script]]
replies = ["front {number},{long}"]
"""
TINY_FRONTS = """
[server]
allowed_hosts = ["{name}"]
api_keys = ["{key}"]
log_level = "warning"

[sessions]
store = "disk"
min_tokens = 8

[sessions.options]
folder = "{shared}"

[models.tiny]
engine = "llamacpp"
file = "{file}"

[models.tiny.options]
context_length = 1024
threads = 1
"""


@define(eq=False)
class Front:
    """A server with a fixed port."""

    folder: Path
    port: int = field(factory=free_port)
    process: subprocess.Popen[str] | None = None
    _open: contextlib.ExitStack = field(factory=contextlib.ExitStack)

    def start(self) -> None:
        """Serve."""
        self.process, _ = self._open.enter_context(program(self.folder, "--port", str(self.port)))

    def kill(self) -> None:
        """Die at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Be told to end, or have ended."""
        self._open.close()

    def running(self) -> int:
        """The number of requests that it runs."""
        told = httpx.get(
            f"http://127.0.0.1:{self.port}/", headers={"Authorization": f"Bearer {KEY}", "Accept": "application/json"},
        ).json()
        count: int = told["requests"]["running"]
        return count


def nginx(folder: Path, fronts: list[Front], port: int) -> list[str]:
    """The command of an nginx with the example; only its addresses and certificates are others."""
    text = (DEPLOY / "nginx-fronts.conf").read_text()
    for number, front in enumerate(fronts, 1):
        text = replaced(text, f"server 10.0.0.1{number}:3000", f"server 127.0.0.1:{front.port}")
    text = replaced(text, "listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;")
    text = text.replace("/etc/ssl/lllms/", f"{folder}/")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; {'user root;' if os.geteuid() == 0 else ''} pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{text}}}\n",
    )
    (folder / "logs").mkdir()
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, fronts: list[Front], port: int) -> list[str]:
    """The command of a HAProxy with the example; only its addresses and certificate are others."""
    text = (DEPLOY / "haproxy.cfg").read_text()
    for number, front in enumerate(fronts, 1):
        text = replaced(text, f"10.0.0.1{number}:3000", f"127.0.0.1:{front.port}")
    text = replaced(text, "bind :443", f"bind 127.0.0.1:{port}")
    text = replaced(text, "/etc/ssl/lllms/lllms.pem", f"{folder}/lllms.pem")
    (folder / "lllms.pem").write_bytes((folder / "certificate.pem").read_bytes() + (folder / "key.pem").read_bytes())
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


BALANCERS: Mapping[str, Callable[[Path, list[Front], int], list[str]]] = {"nginx": nginx, "haproxy": haproxy}


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


class Clients:
    """Clients of the balancer."""

    def __init__(self, port: int, trust: Any) -> None:
        self.http = httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, timeout=GUARD)

    def ask(self, session: str | None = None, *, key: str = KEY, model: str = "bot", **more: object) -> httpx.Response:
        """Send a request for an answer."""
        named = {} if session is None else {"X-Session-Id": session}
        body = {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], **more}
        return self.http.post(
            "/v1/chat/completions", json=body, extensions={"sni_hostname": NAME},
            headers={"Host": NAME, "Authorization": f"Bearer {key}", **named},
        )

    def front(self, session: str | None = None, *, key: str = KEY, model: str = "bot") -> int:
        """Return the number of the front that answers."""
        answer = self.ask(session, key=key, model=model, max_tokens=10)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["choices"][0]["message"]["content"].split(",")[0].removeprefix("front "))

    def fronts(self) -> dict[str, int]:
        """Return the front of each conversation."""
        return {session: self.front(session) for session in SESSIONS}

    def ready(self) -> bool:
        """Whether the balancer reaches a front."""
        try:
            answer = self.http.get("/health", headers={"Host": NAME}, extensions={"sni_hostname": NAME})
        except httpx.TransportError:
            return False
        return answer.status_code == 200


@contextlib.contextmanager
def balanced(balancer: str, folder: Path, config: str, **values: object) -> Iterator[tuple[Clients, list[Front]]]:
    """Two fronts behind a balancer."""
    if shutil.which(balancer) is None:
        pytest.skip(f"{balancer} is not installed: make deploy")
    fronts = []
    for number in (1, 2):
        own = folder / f"front{number}"
        own.mkdir()
        values |= {"name": NAME, "key": KEY, "other": OTHER_KEY, "number": number, "long": " la" * 40}
        (own / "lllms.toml").write_text(config.format(**values))
        fronts.append(Front(own))
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for part in certificate.cert_chain_pems:
        part.write_to_path(folder / "certificate.pem", append=True)
    trust = httpx.create_ssl_context(verify=False)
    authority.configure_trust(trust)
    port = free_port()
    with contextlib.ExitStack() as stack, (folder / "said").open("w") as said:
        starting = [threading.Thread(target=front.start) for front in fronts]
        for one in starting:
            one.start()
        for one in starting:
            one.join()
        for front in fronts:
            stack.callback(front.stop)
        argv = BALANCERS[balancer](folder, fronts, port)
        process = subprocess.Popen(argv, env=environment(folder), stdout=said, stderr=said)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        clients = Clients(port, trust)
        stack.callback(clients.http.close)

        def answers() -> bool:
            assert process.poll() is None, (folder / "said").read_text()
            return clients.ready()

        poll(answers, 0.05)
        yield clients, fronts


@pytest.mark.parametrize("balancer", ["nginx", "haproxy"])
def test_a_conversation_stays_at_its_front(balancer: str, tmp_path: Path) -> None:
    """Conversations spread over the fronts, and each stays at its own; one that has no name stays with its key.

    When a front dies its conversations go to the other one, a request that had no answer yet included, and those of
    the other one stay. When it is back, so are its conversations.
    """
    with balanced(balancer, tmp_path, FRONTS) as (clients, fronts):
        before = clients.fronts()
        assert {*before.values()} == {1, 2}
        assert clients.fronts() == before
        assert clients.front(SESSIONS[0], key=OTHER_KEY) == before[SESSIONS[0]]
        for key in (KEY, OTHER_KEY):
            assert len({clients.front(key=key) for _ in range(6)}) == 1

        gone = before[SESSIONS[0]]
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(clients.front(SESSIONS[0], model="slow")))
        waiting.start()
        poll(fronts[gone - 1].running)
        fronts[gone - 1].kill()
        waiting.join(GUARD)
        other = 3 - gone
        assert answers == [other]
        assert clients.fronts() == dict.fromkeys(SESSIONS, other)

        fronts[gone - 1].start()
        poll(lambda: clients.fronts() == before, 0.2)


@pytest.mark.parametrize("balancer", ["nginx", "haproxy"])
def test_a_front_that_stops_finishes_its_answers(balancer: str, tmp_path: Path) -> None:
    """While a front that was told to end finishes an answer, its other requests are answered by the other front."""
    with balanced(balancer, tmp_path, FRONTS) as (clients, fronts):
        session = SESSIONS[0]
        own = clients.front(session)
        front, texts = fronts[own - 1], list[str]()

        def read() -> None:
            texts.append(clients.ask(session, model="slow", stream=True).text)

        reading = threading.Thread(target=read)
        reading.start()
        poll(front.running)
        assert front.process is not None
        front.process.send_signal(signal.SIGTERM)
        if balancer == "haproxy":  # until its health check has seen it
            poll(lambda: clients.ask(session).status_code == 200, 0.1)
        assert clients.front(session) == 3 - own
        reading.join(GUARD)
        [text] = texts
        assert text.rstrip().endswith("data: [DONE]")
        assert '"finish_reason":"stop"' in text


def test_a_conversation_is_resumed_by_another_front(tmp_path: Path) -> None:
    """With a session store that both share, the other front resumes a conversation whose front was told to end."""
    shared = tmp_path / "shared"
    with balanced("nginx", tmp_path, TINY_FRONTS, shared=shared, file=TINY) as (clients, fronts):
        told = "Tell me of the sea, of ships and of harbours. " * 4
        first = [{"role": "user", "content": told}]
        answer = clients.ask("sea", model="tiny", messages=first, max_tokens=8).json()
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        [own] = [front for front in fronts if _served(front)]
        own.stop()
        turns = [*first, answer["choices"][0]["message"], {"role": "user", "content": "And then?"}]
        more = clients.ask("sea", model="tiny", messages=turns, max_tokens=8).json()
        cached = more["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= answer["usage"]["prompt_tokens"]


def _served(front: Front) -> int:
    headers = {"Authorization": f"Bearer {KEY}"}
    return len(httpx.get(f"http://127.0.0.1:{front.port}/api/v1/requests", headers=headers).json()["ended"])
