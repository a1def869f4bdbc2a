"""Paths of other APIs, and of base URLs that are not quite right: each 404 says what to change."""

import json
import re
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
import pytest_asyncio
from clients_for_tests import connect, head, read_until
from quart import Blueprint, Quart
from serving_for_tests import published

from lllms_core.apis import Api, Server
from lllms_core.apis.foreign_paths import TABLE, find_way_out
from lllms_core.app import create_app, mount
from lllms_core.config import parse_config
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "Hi"}]}
EXAMPLES = {
    # A base URL with /v1, and a client that appends another.
    "/v1/v1/chat/completions": "set the base URL to {base}$", "/v1/v1/models": "set the base URL to {base}$",
    "/openai/v1/v1/embeddings": "set the base URL to {base}$", "/v1/v1/messages": "set the base URL to {base}$",
    "/v1/v1": "set the base URL to {base}$",
    # A base URL that includes the route.
    "/v1/chat/completions/chat/completions": "set the base URL to {base}/v1$",
    "/v1/completions/chat/completions": "set the base URL to {base}/v1$",
    "/v1/embeddings/embeddings": "set the base URL to {base}/v1$",
    "/v1/chat/completions/v1/chat/completions": "set the base URL to {base}/v1$",
    "/v1/chat/completions/models": "set the base URL to {base}/v1$",
    # A base URL without /v1.
    "/chat/completions": "base URL to {base}/v1$", "/completions": "base URL to {base}/v1$",
    "/embeddings": "base URL to {base}/v1$", "/models": "base URL to {base}/v1$", "/models/tiny": "to {base}/v1$",
    "/openai/chat/completions": "base URL to {base}/v1$", "/api/chat/completions": "base URL to {base}/v1$",
    "/rerank": "base URL to {base}/v1$", "/audio/transcriptions": "base URL to {base}/v1$", "/api/models": "{base}/v1$",
    "/v1": "base URL for clients is {base}/v1", "/openai/v1": "base URL for clients is {base}/v1",
    "/openai/deployments/gpt-4o/chat/completions": "Azure.* base URL {base}/v1$",
    "/v1/engines/davinci/completions": "before 2023.* base URL {base}/v1$",
    # Other APIs.
    "/api/chat": "Ollama's API.* pip install lllms-ollama .* base URL {base}/v1$",
    "/api/generate": "Ollama's API.* base URL {base}/v1$",
    "/api/tags": "Ollama's API.* base URL {base}/v1$", "/api/version": "Ollama's API", "/api/show": "Ollama's API",
    "/api/blobs/sha256:12": "Ollama's API", "/ollama/api/tags": "Ollama's API",
    "/v1/api/chat": "Ollama's API below /v1.* base URL {base}/v1$",
    "/v1/api/tags": "Ollama's API below /v1.* base URL {base}/v1$",
    "/v1/messages": "Anthropic's API.* pip install lllms-anthropic .* base URL {base}/v1$",
    "/v1/messages/count_tokens": "Anthropic's API",
    "/messages": "Anthropic's API", "/v1/complete": "Anthropic's API",
    "/responses": "begins with /v1.*{base}/v1", "/api/responses/resp_1": "begins with /v1.*{base}/v1",
    "/v1/responses/resp_1/outputs": "nothing installed serves this part of OpenAI's API",
    "/v1beta/models/gemini-pro:generateContent": "Google's API.* base URL {base}/v1$",
    "/api/v0/models": "LM Studio's API.* pip install lllms-compat .* base URL {base}/v1$",
    "/api/v1/completions": "LM Studio's API",
    "/api/v1/models/load": "LM Studio's API", "/api/v1/generate": "KoboldCpp", "/api/extra/version": "KoboldCpp",
    "/generate_stream": "TGI.* base URL {base}/v1$",
    # llama-server's and vLLM's.
    "/completion": "{base}/v1/completions.* pip install lllms-compat ", "/infill": "{base}/v1/completions.* suffix",
    "/tokenize": "{base}/api/v1/tokenize", "/v1/apply-template": "{base}/api/v1/apply-template",
    "/embedding": "{base}/v1/embeddings", "/reranking": "{base}/v1/rerank$", "/v2/rerank": "{base}/v1/rerank$",
    "/v1/score": "{base}/v1/rerank$", "/props": "{base}/v1/models; or pip", "/slots": "{base}/ ",
    "/slots/0": "{base}/v1/models$", "/version": "{base}/v1/models$",
    # The rest of OpenAI's.
    "/v1/audio/transcriptions": "nothing installed serves this part of OpenAI's API; {base}/openapi.json",
    "/v1/audio/speech": "this part of OpenAI's API", "/v1/images/generations": "this part of OpenAI's API",
    "/v1/realtime": "this part of OpenAI's API", "/v1/moderations": "this part of OpenAI's API",
    "/openai/v1/files/file-1/content": "this part of OpenAI's API", "/v1/assistants": "this part of OpenAI's API",
    "/v1/chat/completions/chatcmpl-1/messages": "this part of OpenAI's API",
}
"""Each path with what its answer says."""


class Anthropic(Api):
    """A plugin that serves one of the foreign paths."""

    name = "messages"

    def blueprint(self, server: Server) -> Blueprint:
        routes = Blueprint("messages", __name__)

        @routes.post("/v1/messages")
        async def answer() -> str:
            return "served"

        @routes.post("/ends/with/")
        async def slash() -> str:
            return "served"

        return routes


class Extra:
    @hookimpl
    def lllms_apis(self) -> list[Api]:
        return [Anthropic()]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    config = parse_config({"plugins": {"disable": ["anthropic", "compat", "ollama"]}})
    async with Host(config) as host, published(host) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url) as client:
        yield client


async def told(answer: httpx.Response) -> str:
    """The message of a 404."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize("path", EXAMPLES)
async def test_known_foreign_paths_tell_the_way_out(http: httpx.AsyncClient, url: str, path: str) -> None:
    """A path of another server, or one made by a wrong base URL, is a 404 that says what to change, with real URLs."""
    expected = EXAMPLES[path].replace("{base}", re.escape(url))
    for answer in (await http.get(path), await http.post(path, json=CHAT), await http.post(f"{path}/", json=CHAT)):
        message = await told(answer)
        assert message.startswith(f"there is nothing at {path}: ")
        assert re.search(expected, message), message


async def test_each_line_of_the_table_is_needed() -> None:
    """Every line is the first match of one of the examples."""
    used = {find_way_out(path, "{base}") for path in EXAMPLES}
    assert used == {one.way_out for one in TABLE}


@pytest.mark.parametrize(("path", "api"), [
    ("/v1/api/chat", "ollama"), ("/ollama/api/tags", "ollama"), ("/messages", "anthropic"),
    *((f"/v1{path}", "llama-server") for path in ("/infill", "/completion", "/tokenize", "/props", "/slots")),
])
async def test_an_installed_api_is_no_longer_to_be_installed(path: str, api: str) -> None:
    """If the plugin that serves such paths is installed, only the base URL is wrong."""
    lacking, served = find_way_out(path, "http://h"), find_way_out(path, "http://h", {"openai", api})
    assert lacking is not None
    assert f"pip install lllms-{api.replace('llama-server', 'compat')}" in lacking
    assert served is not None
    assert served.endswith("set the client's base URL to http://h")
    assert "install" not in served


async def test_the_ways_out_lead_somewhere(http: httpx.AsyncClient, url: str) -> None:
    """Every URL that the table names is served, or is the base of URLs that are."""
    named = {address for one in TABLE for address in re.findall(r"\{base\}[\w/.-]*", one.way_out)}
    for address in sorted({one.replace("{base}", url).rstrip(".") for one in named} - {url, f"{url}/v1"}):
        assert (await http.get(address)).status_code in {200, 405}, address
    assert (await http.get(f"{url}/v1/models")).status_code == 200


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/chat", "/api/nothing", "/v1x/models", "/x" * 2000])
async def test_unknown_paths_are_told_as_before(http: httpx.AsyncClient, path: str) -> None:
    """Unknown paths are a 404 without advice."""
    shown = path if len(path) <= 200 else f"{path[:197]}..."
    assert await told(await http.get(path)) == f"there is nothing at {shown}"


async def test_wrong_methods_stay_405(http: httpx.AsyncClient) -> None:
    """A served route that takes another method says so, with `Allow`, also with a trailing slash."""
    for path in ("/v1/chat/completions", "/v1/chat/completions/"):
        answer = await http.get(path)
        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"
        assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "path", ["/v1/models/", "/v1/models//", "//v1//models", "/v1/models/mock/", "/openai/v1/models/", "/health/", "//",
             "/api/v1/sessions/", "/openapi.json/"],
)
async def test_slashes_too_many_do_not_matter(http: httpx.AsyncClient, url: str, path: str) -> None:
    """A path with a trailing or doubled slash is answered like the path without it; nothing is redirected."""
    answer = await http.get(f"{url}{path}")
    expected = await http.get("/" + "/".join(part for part in path.split("/") if part))
    told, wanted = answer.json(), expected.json()
    if path == "//":  # the status also has figures of this moment
        assert told.keys() == wanted.keys()
        told, wanted = told["models"], wanted["models"]
    assert (answer.status_code, told) == (200, wanted)


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1//chat//completions//"])
async def test_their_bodies_are_read(http: httpx.AsyncClient, url: str, path: str) -> None:
    """A POST to such a path is answered at once, whole or as a stream."""
    answer = await http.post(f"{url}{path}", json=CHAT)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert "[DONE]" in (await http.post(f"{url}{path}", json={**CHAT, "stream": True})).text


async def test_the_openai_client_may_have_such_a_base_url(url: str) -> None:
    """The official client works with a base URL of too many slashes; for a wrong one its error says what to change."""
    async with openai.AsyncOpenAI(base_url=f"{url}//v1//", api_key="none", max_retries=0) as client:
        assert "mock" in {model.id async for model in client.models.list()}
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match=f"set the client's base URL to {url}/v1"):
            await client.chat.completions.create(model="mock", messages=[{"role": "user", "content": "Hi"}])


async def test_a_plugin_that_serves_a_path_is_asked() -> None:
    """A plugin's route is answered by the plugin, whatever the table says; the rest of that API gets advice."""
    host = Host(parse_config({}), Plugins.discover(environ={"LLLMS_PLUGINS": "mock"}, extra={"extra": Extra()}))
    client = create_app(host).test_client()
    for path in ("/v1/messages", "/v1/messages/", "/ends/with", "/ends/with/"):
        answer = await client.post(path, json={})
        assert (answer.status_code, await answer.get_data(as_text=True)) == (200, "served")
    assert (await client.get("/v1/messages")).status_code == 405
    answer = await client.post("/v1/messages/count_tokens", json={})
    assert "Anthropic's API" in (await answer.get_json())["error"]["message"]


async def test_the_way_out_knows_where_the_application_is() -> None:
    """Below a proxy's root path, the URLs include it; paths may have extra slashes there, too."""
    host = Host(parse_config({}))
    client = create_app(host).test_client()
    answer = await client.get("/llm/chat/completions", root_path="/llm")
    assert "set the client's base URL to http://localhost/llm/v1" in (await answer.get_json())["error"]["message"]
    for path in ("/llm/v1/models/", "/llm//v1/models", "/llm/", "/llm"):
        assert (await client.get(path, root_path="/llm")).status_code == 200


async def test_an_application_of_ones_own_is_left_alone() -> None:
    """Mounted into another application, lllms answers its own paths; the others are the application's."""
    app = Quart("mine")
    mount(app, Host(parse_config({})), prefix="/llm")
    answer = await app.test_client().get("/chat/completions")
    assert answer.status_code == 404
    assert b"base URL" not in await answer.get_data()


async def test_a_websocket_is_told_too(url: str) -> None:
    """A WebSocket opened at a foreign path gets the same advice."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: c2VjcmV0")
    with connect(url) as client:
        client.sendall(head("GET", "/v1/realtime", *upgrade))
        answer = await read_until(client, b"}}")
    assert b" 404 " in answer.split(b"\r\n")[0]
    body = b"{" + answer.partition(b"{")[2].partition(b"\r\n")[0]
    assert "http://localhost/openapi.json" in json.loads(body)["error"]["message"]
