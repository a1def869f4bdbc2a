"""Bodies that are too deep, too many or too long, sent to a real server in its own process."""

import asyncio
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from programs_for_tests import address, serving
from test_bounds import nested
from waits_for_tests import GUARD
from werkzeug.datastructures import Headers

from lllms_core import Host, create_app, parse_config
from lllms_core.apis import bodies
from lllms_core.apis.bodies import LARGE
from lllms_core.builtin.openai import routes

pytestmark = pytest.mark.slow

CONFIG = """
[server]
log_level = "warning"
concurrency = 4
queue_size = 8
[models.bot]
engine = "mock"
isolation = "process"
options = { slots = 2, script = [{ replies = ["one two three"] }] }
"""
CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MESSAGES = [{"role": "user", "content": "Hi!"}]
MAX_BODY = 10 * 2**20
JSON = {"Content-Type": "application/json"}
WORD = "w" * 5_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "lllms.toml").write_text(CONFIG)
    with serving(folder) as (process, printed):
        yield process, address(printed)


@pytest.fixture
def http(server: tuple[subprocess.Popen[str], str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[1], timeout=GUARD) as client:
        yield client


@asynccontextmanager
async def many(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=GUARD, limits=httpx.Limits(max_connections=20)) as client:
        yield client


def answers(http: httpx.Client) -> None:
    """The model still answers."""
    answer = http.post(CHAT, json={"model": "bot", "messages": MESSAGES})
    assert answer.json()["choices"][0]["message"]["content"] == "one two three"


def deep(levels: int) -> str:
    """Stands for an object this deep, which Python may not be able to write."""
    return f"@{levels}@"


def written(fields: dict[str, Any]) -> bytes:
    text = json.dumps({"model": "bot", "messages": MESSAGES, **fields})
    return re.sub('"@([0-9]+)@"', lambda found: nested(int(found[1])), text).encode()


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[" * 990}}
DEEP: list[tuple[dict[str, Any], str]] = [
    *[({"tools": [{"type": "function", "function": {"name": "f", "parameters": deep(levels)}}]},
       "tools[0].function.parameters.a.a") for levels in (70, 400, 480, 900, 20_000)],
    *[({"chat_template_kwargs": {"x": deep(levels)}}, "chat_template_kwargs.x.a.a") for levels in (70, 480, 20_000)],
    *[({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": deep(levels)}}},
       "response_format.json_schema.schema.a.a") for levels in (70, 400, 20_000)],
    ({"json_schema": deep(100)}, "json_schema.a.a"), ({"metadata": deep(100)}, "metadata.a.a"),
    ({"prediction": deep(500)}, "prediction.a.a"), ({"messages": deep(500)}, "messages.a.a"),
    ({"nonsense": deep(500)}, "nonsense.a.a"), ({"logit_bias": deep(500)}, "logit_bias.a.a"),
    ({"messages": [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": "x"}]},
     "messages[0].tool_calls[0].function.arguments.[0][0]"),
    ({"grammar": {"syntax": "lark", "definition": f"start: x\nx: %json {nested(400)}"}}, "grammar"),
]


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("case", DEEP, ids=lambda case: case[1])
def test_deep_json_is_the_clients_fault(http: httpx.Client, case: tuple[dict[str, Any], str], size: int) -> None:
    """If JSON is nested too deeply, even in a string that is parsed as JSON, the answer is a 400 with the place."""
    fields, place = case
    answer = http.post(CHAT, content=written({**fields, "user": "x" * size}), headers=JSON)
    fault = answer.json()["error"]
    assert (answer.status_code, fault["param"][: len(place)]) == (400, place)
    assert (fault["code"] == "nested_too_deeply") is (place != "grammar") or fault["code"] == "unsupported_parameter"
    assert len(answer.content) < 1000


@pytest.mark.parametrize("path", [TEXT, EMBED, "/v1/rerank", "/api/v1/tokenize", "/api/v1/apply-template"])
def test_every_route_bounds_the_depth(http: httpx.Client, path: str) -> None:
    """The same holds for each route that takes JSON."""
    answer = http.post(path, content=f'{{"model": "bot", "x": {nested(900)}}}', headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "nested_too_deeply")


def test_deep_requests_leave_no_slot_taken_and_the_server_ends(tmp_path: Path) -> None:
    """After more deep requests than a model has slots and the server takes at once, all are served; SIGTERM ends it."""
    (tmp_path / "lllms.toml").write_text(CONFIG)
    with serving(tmp_path) as (process, printed), httpx.Client(base_url=address(printed), timeout=GUARD) as http:
        tools = [{"type": "function", "function": {"name": "f", "parameters": deep(480)}}]
        for _ in range(12):
            assert http.post(CHAT, content=written({"tools": tools}), headers=JSON).status_code == 400
        answers(http)
        report = http.get("/", headers={"Accept": "application/json"}).json()
        assert "error" not in report
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == 0


NAMES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"model": WORD}), (TEXT, {"model": WORD, "prompt": "x"}), (EMBED, {"model": WORD, "input": "x"}),
    (CHAT, {WORD: 1}), (CHAT, {"messages": [{"role": WORD, "content": "x"}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": WORD}]}]}),
    (CHAT, {"messages": [{"role": "tool", "content": "x", "tool_call_id": WORD}]}),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"type": WORD}]}]}),
    (CHAT, {"tools": [{"type": WORD}]}), (CHAT, {"tools": [{"type": "function", "function": {"name": WORD}}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f", WORD: 1}}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": WORD}}}),
    (CHAT, {"tool_choice": WORD}), (CHAT, {"tool_choice": {"type": WORD}}), (CHAT, {"tool_choice": {WORD: 1}}),
    (CHAT, {"response_format": {"type": WORD}}), (CHAT, {"response_format": {"type": [1] * 100_000}}),
    (CHAT, {"response_format": {"type": "text", WORD: 1}}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": WORD, "schema": {}}}}),
    (CHAT, {"grammar": {"syntax": WORD, "definition": "x"}}), (CHAT, {"reasoning_effort": WORD}),
    (CHAT, {"logit_bias": {WORD: 1}}), (CHAT, {"thinking": {WORD: "x"}}), (CHAT, {"stream_options": {WORD: 1}}),
    (CHAT, {"stream": True, "stream_options": {WORD: 1}}), (CHAT, {"temperature": WORD}), (CHAT, {"n": WORD}),
    (CHAT, {"keep_alive": WORD}), (CHAT, {"think": WORD}), (CHAT, {"structured_outputs": {WORD: 1}}),
    (CHAT, {"stop": [WORD, 1]}),
    (CHAT, {"model": "\N{GRINNING FACE}" * 500_000}), (CHAT, {"model": "\x01" * 500_000}),
    ("/v1/rerank", {"model": "bot", "query": "q", "documents": ["d"], WORD: 1}),
    ("/v1/rerank", {"model": "bot", "query": "q", "documents": [{WORD: 1}]}),
    ("/api/v1/tokenize", {"model": WORD, "text": "x"}), ("/api/v1/tokenize", {"model": "bot", "text": "x", WORD: 1}),
]


@pytest.mark.parametrize("name", range(len(NAMES)))
def test_long_names_are_cut(http: httpx.Client, name: int) -> None:
    """Whatever a client writes in place of a name or a value, an error repeats at most 200 characters of it."""
    path, fields = NAMES[name]
    answer = http.post(path, json={"model": "bot", "messages": MESSAGES, **fields} if path == CHAT else fields)
    assert 400 <= answer.status_code < 500
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "w" * 201 not in answer.text
    assert len(answer.content) < 2100


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", f"/{'w' * 10_000}", {}), ("GET", f"/v1/models/{'w' * 10_000}", {}),
        ("DELETE", f"{CHAT}?{'w' * 10_000}", {}), ("W" * 1000, CHAT, {}),
        ("POST", CHAT, {"Content-Type": "w" * 10_000}), ("POST", CHAT, {"Host": "w." * 5000}),
        ("GET", f"/api/v1/sessions?{'w' * 10_000}=1", {}), ("GET", f"/api/v1/sessions?model={'w' * 10_000}", {}),
        ("GET", f"/api/v1/sessions/x?text={'w' * 10_000}", {}), ("GET", f"/api/v1/sessions/{'w' * 10_000}", {}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_long_heads_are_cut(http: httpx.Client, method: str, path: str, headers: dict[str, str]) -> None:
    """The same holds for paths, queries, methods and headers."""
    answer = http.request(method, path, headers=headers)
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 2100


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [13, 700, 2048])
def test_any_number_of_prompts_is_served(http: httpx.Client, count: int, stream: bool) -> None:
    """More prompts than the queue holds (8 here) are each answered if no other client is waiting."""
    asked = {"model": "bot", "prompt": ["x"] * count, "max_tokens": 1, "stream": stream}
    answer = http.post(TEXT, json=asked)
    assert answer.status_code == 200
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
        assert not any("error" in event for event in events)
        ended = [one["index"] for event in events for one in event["choices"] if one["finish_reason"]]
        assert sorted(ended) == list(range(count))
    else:
        assert [one["index"] for one in answer.json()["choices"]] == list(range(count))
        assert {one["text"] for one in answer.json()["choices"]} == {"one"}


async def test_many_prompts_let_others_in(server: tuple[subprocess.Popen[str], str]) -> None:
    """While a request with 2,048 prompts is served, others find room in the queue and are answered before it ends."""
    async with many(server[1]) as http:
        large = asyncio.create_task(http.post(TEXT, json={"model": "bot", "prompt": ["x"] * 2048, "max_tokens": 1}))
        others = 0
        while not large.done():
            answer = await http.post(CHAT, json={"model": "bot", "messages": MESSAGES})
            assert answer.status_code == 200
            others += not large.done()
        assert (await large).status_code == 200
        assert others > 3


def filled(before: str, item: str, after: str, count: int | None = None) -> bytes:
    """A body with as many items as fit the byte limit."""
    room = (MAX_BODY - len(before) - len(after) - 10) // (len(item) + 1)
    return f"{before}{','.join([item] * (room if count is None else count))}{after}".encode()


NASTY = [
    (TEXT, filled('{"model":"bot","prompt":[', "1", "]}")), (TEXT, filled('{"model":"bot","prompt":[', "[]", "]}")),
    (TEXT, filled('{"model":"bot","prompt":[', "[[]]", "]}")), (TEXT, filled('{"model":"bot","prompt":[', "{}", "]}")),
    (TEXT, filled('{"model":"bot","x":[', '"ab"', "]}", 290_000)),
    (TEXT, filled('{"model":"bot","x":[', "1.5", "]}", 1_200_000)),
    (TEXT, filled('{"model":"bot","x":[', "1" * 4300, "]}")),
    (CHAT, filled('{"model":"none","messages":[', '{"role":"user","content":"x"}', "]}", 60_000)),
    (TEXT, b'{"model":"none","prompt":"' + b"\\u00e9" * 1_740_000 + b'"}'),
    (CHAT, b'{"model":"bot","x":{' + b",".join(b'"%d":1' % at for at in range(95_000)) + b"}}"),
]


async def test_health_answers_while_large_bodies_come(server: tuple[subprocess.Popen[str], str]) -> None:
    """Ten bodies of up to 10 MB, each the worst of its kind, are refused; `/health` always answers within a second."""
    async with many(server[1]) as http, many(server[1]) as other:
        posts = [asyncio.create_task(http.post(path, content=nasty, headers=JSON)) for path, nasty in NASTY]
        longest = 0.0
        while not all(post.done() for post in posts):
            start = time.perf_counter()
            assert (await other.get("/health")).status_code == 200
            longest = max(longest, time.perf_counter() - start)
        refused = [await post for post in posts]
        assert all(400 <= answer.status_code < 500 and len(answer.content) < 2100 for answer in refused)
        assert longest < 1.0


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (EMBED, filled('{"model":"bot","input":[', f"[{','.join(['9'] * 512)}]", "]}", 2048)),
        (CHAT, filled('{"model":"bot","messages":[', '{"role":"user","content":"Hi, {you}: [x]"}', "]}", 2000)),
        (CHAT, filled(
            '{"model":"bot","messages":[{"role":"user","content":"Hi!"}],"tools":[',
            '{"type":"function","function":{"name":"f%d","parameters":{"type":"object","properties":{'
            + ",".join(f'"p{at}":{{"type":"string","description":"It says what [x] is."}}' for at in range(9))
            + "}}}}", "]}", 1000)),
        ("/api/v1/tokenize", b'{"model":"bot","text":"' + b"a, [b] {c}: " * 20_000 + b'"}'),
    ],
    ids=["inputs", "messages", "tools", "text"],
)
def test_what_people_send_is_not_too_much(http: httpx.Client, path: str, data: bytes) -> None:
    """2,048 inputs of 512 tokens, 2,000 messages, 1,000 tools and long texts are read: the limits allow all of them."""
    answer = http.post(path, content=data, headers=JSON)
    if answer.status_code != 200:  # the mock is small and embeds texts only, and a request may have at most 128 tools
        assert answer.json()["error"]["code"] in {
            "invalid_request", "unsupported_parameter", "array_above_max_length", "context_length_exceeded",
        }


async def test_who_leaves_while_a_body_waits_for_the_reader_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a client leaves before its body's turn to be read, nothing more is spent: it is neither read nor served."""
    host = Host(parse_config({"models": {"bot": {"engine": "mock"}}}))
    submitted: list[object] = []
    monkeypatch.setattr(host, "submit_all", submitted.append)
    held = threading.Event()
    holding = bodies._READER.submit(held.wait, GUARD)
    read: list[bytes] = []
    monkeypatch.setattr(routes, "read_chat", lambda body, _: read.append(body))
    try:
        async with asyncio.timeout(GUARD), host:
            client = create_app(host, manage_host=False).test_client()
            headers = Headers({**JSON, "Host": "localhost"})
            async with client.request(CHAT, method="POST", headers=headers) as connection:
                await connection.send(b" " * (LARGE + 1))
                await connection.send_complete()
                while not bodies._READER._work_queue.qsize():  # noqa: ASYNC110  # a pool of threads has no event
                    await asyncio.sleep(0)
                await connection.disconnect()
            held.set()
            assert await asyncio.wrap_future(holding)
            await asyncio.wrap_future(bodies._READER.submit(int))
    finally:
        held.set()
    assert (read, submitted) == ([], [])


async def test_small_bodies_need_no_thread() -> None:
    """Small work is done at once, in the event loop's thread; large work runs in another one."""
    here = threading.get_ident()
    assert await bodies.work(LARGE, threading.get_ident) == here
    assert await bodies.work(LARGE + 1, threading.get_ident) != here
