"""What clients send appears in no log and in no other client's answer, whatever fails."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from waits_for_tests import GUARD

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "leaks_for_tests.py"
WORDS = ("raise", "endless", "group", "exit", "fail", "abort")


class Server:
    """The program, and everything that it wrote."""

    def __init__(self, style: str, folder: Path) -> None:
        self.numbers = iter(range(10_000, 100_000))
        self.secrets: list[str] = []
        self.key = self.secret()
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), style, self.key], stdout=subprocess.PIPE, stderr=log, text=True,
                cwd=folder,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.log.read_text()
        self.client = httpx.Client(base_url=self.url, timeout=GUARD, headers={"X-Api-Key": self.key})

    def secret(self) -> str:
        """A text that occurs nowhere else."""
        self.secrets.append(f"sEcReT{next(self.numbers)}")
        return self.secrets[-1]

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        """Send a request with the server's key, and one of its own."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(
            path, content=content,
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.secret()}", **headers},
        )

    def end(self) -> str:
        """Stop it; returns everything that it wrote."""
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=GUARD)
        assert self.process.returncode == 0
        return rest + self.log.read_text(encoding="utf-8")


@pytest.fixture(params=["console", "json"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(request.param, tmp_path)
    yield server
    server.client.close()
    server.process.kill()
    server.process.communicate()


def refusals(server: Server) -> None:
    """Requests that are refused, each for a different reason, with secrets wherever there is room for them."""
    def messages(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    secret = server.secret
    server.post("/v1/chat/completions", b"{" + secret().encode())
    server.post("/v1/chat/completions", {"model": secret(), "messages": messages(secret())})
    server.post("/v1/chat/completions", {"model": "leaky", "messages": secret()})
    server.post("/v1/chat/completions", {"model": "leaky", "messages": messages(secret()), secret(): secret()})
    server.post("/v1/chat/completions", {"model": "leaky", "messages": messages("x"), "temperature": secret()})
    call = {"id": secret(), "type": "function", "function": {"name": secret(), "arguments": f'{{"{secret()}'}}
    said = [*messages("x"), {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": secret()}]
    server.post("/v1/chat/completions", {"model": "template", "messages": said})
    tools = [{"type": "function", "function": {"name": "run", "parameters": {"type": secret()}}}]
    server.post("/v1/chat/completions", {"model": "template", "messages": messages(secret()), "tools": tools})
    server.post("/v1/completions", {"model": "template", "prompt": secret(), "grammar": secret()})
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": secret()}}}
    server.post("/v1/chat/completions", {"model": "template", "messages": messages("x"), "response_format": schema})
    answer = server.post("/v1/chat/completions", {"model": "template", "messages": messages(secret())})
    assert "chat template cannot render" in answer.json()["error"]["message"]
    server.post("/v1/embeddings", {"model": "leaky", "input": secret()})
    items = [{"type": "message", "role": "user", "content": secret(), secret(): secret()}, {"id": secret()}]
    server.post("/v1/responses", {"model": "template", "input": items, "previous_response_id": secret()})
    server.post("/v1/responses", {"model": "template", "input": items, "tools": [{"type": secret()}]})
    server.post("/v1/responses", {"model": "template", "input": items[:1], "metadata": {secret(): secret()},
                                  "instructions": secret(), "background": True})
    server.client.get(f"/v1/responses/{secret()}", params={"include": secret()})
    server.client.delete(f"/v1/responses/{secret()}")
    server.client.get(f"/v1/models/{secret()}", params={"key": secret()})
    server.client.get(f"/{secret()}", headers={"Host": f"{secret()}.example", "Cookie": secret()})
    server.client.get("/v1/models", headers={"Host": f"{secret()}..{secret()}"})
    server.client.delete(f"/api/v1/sessions/{secret()}")
    refused = server.post(f"/v1/{secret()}", {"model": secret()}, **{"X-Api-Key": secret()})
    assert refused.status_code == 401
    assert not any(one in refused.text for one in server.secrets)
    server.client.get("/", headers={"Origin": f"https://{secret()}.example"})


def test_no_secret_leaves_a_request(server: Server) -> None:
    """A client's prompts, keys, arguments and names are in no line of the log, at level debug, and in no other's error.

    This includes refused requests, failures in an API, a task, a callback or a thread, and those that end an engine.
    """
    refusals(server)
    for word in ("raise", "key", "deep", "chain", "group", "note", "task", "callback", "thread"):
        answer = server.post(f"/broken/{word}", server.secret().encode())
        assert answer.status_code == (200 if word in {"task", "callback", "thread"} else 500)
        assert not any(secret in answer.text for secret in server.secrets)
    for word in WORDS:
        with server.client.stream("POST", "/v1/completions", json={
            "model": "leaky", "prompt": "wait", "max_tokens": 900_000, "stream": True,
        }) as neighbour:
            lines = neighbour.iter_lines()
            assert "begun" in next(line for line in lines if line.startswith("data"))
            prompt = f"{word} {server.secret()}"
            failed = server.post("/v1/completions", {"model": "leaky", "prompt": prompt, "max_tokens": 100})
            assert failed.status_code == 500
            if word == "fail":  # the request's own failure, which only its client sees
                assert server.secrets[-2] in failed.text
                continue
            assert not any(secret in failed.text for secret in server.secrets)
            rest = "\n".join(line for line in lines if '"text":"x"' not in line)
            assert "engine_died" in rest
            assert not any(secret in rest for secret in server.secrets)
    for path in ("/metrics", "/api/v1/requests", "/"):
        seen = server.client.get(path).text
        assert "leaky" in seen
        assert [secret for secret in server.secrets if secret in seen] == [], path
    for one in server.client.get("/api/v1/requests").json()["ended"]:
        seen = server.client.get(f"/api/v1/requests/{one['id']}").text
        assert [secret for secret in server.secrets if secret in seen] == [], seen
    written = server.end()
    assert [secret for secret in server.secrets if secret in written] == []
    # What helps to find the faults is in the log.
    for told in ("its engine raised ValueError", "its engine raised RecursionError", "KeyError", "because of:",
                 "Task exception was never retrieved", "Exception in callback", "a thread has failed",
                 "an exception was ignored", "in deeper", "leaks_for_tests.py", "lines that may quote requests",
                 "engine_died", "/v1/chat/completions", "submitted"):
        assert told in written, told
    assert len(written) < 60_000


def test_faults_are_counted(server: Server) -> None:
    """A fault that every request provokes costs one traceback a minute, and the log says how often it occurred."""
    for _ in range(50):
        assert server.post("/broken/deep", server.secret().encode()).status_code == 500
    every = server.end().splitlines(keepends=True)
    written = "".join(line for line in every if "lllms.requests" not in line)
    assert len(every) - len(written.splitlines()) == 50  # one line for each request
    assert written.count("Traceback") == 1
    assert re.search(r"unexpected error while a request was served: the same exception 49 more within", written)
    assert len(written.encode()) < 6000
