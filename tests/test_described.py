"""The document of all APIs: programs can generate clients from it, and what our own routes answer fits it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from stores_for_tests import TINY

from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

MODELS: dict[str, Any] = {
    "mock": {"engine": "mock"},
    "tiny": {"engine": "llamacpp", "file": str(TINY), "options": {"threads": 1}},
}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(MODELS) as url:
        yield url


@pytest.fixture(scope="module")
def described(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def fits(operation: Any, status: int = 200, **asked: Any) -> Any:
    case = operation.Case(**asked)
    answer = case.call(timeout=60)
    assert answer.status_code == status, answer.text
    case.validate_response(answer, checks=[content_type_conformance, response_schema_conformance])
    return None if "event-stream" in answer.headers["content-type"][0] else answer.json()


def test_every_operation_has_a_name_of_its_own_and_schemas(url: str) -> None:
    """Each operation of every installed API has a unique `operationId` and tells the form of each of its answers."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    operations = {f"{method} {path}": one for path, methods in paths.items() for method, one in methods.items()}
    assert len(operations) > 30
    names = Counter(one.get("operationId") for one in operations.values())
    unnamed = [path for path, one in operations.items() if not one.get("operationId")]
    assert (unnamed, [name for name, count in names.items() if count > 1]) == ([], [])
    bare = [
        path for path, one in operations.items() for answer in one["responses"].values() if "content" in answer
        for kind, content in answer["content"].items()
        if kind == "application/json" and not content["schema"].keys() & {"properties", "anyOf", "items"}
    ]
    assert bare == []


@pytest.mark.parametrize(("path", "asked"), [
    ("/health", {}),
    ("/health", {"query": {"ready": "true"}}),
    ("/v1/models", {}),
    ("/v1/models/{model}", {"path_parameters": {"model": "tiny"}}),
    ("/api/v1/downloads", {}),
    ("/api/v1/requests", {}),
])
def test_what_is_listed_fits(described: Any, path: str, asked: dict[str, Any]) -> None:
    """The lists and the facts about one model have the described members."""
    fits(described[path]["GET"], **asked)


@pytest.mark.parametrize("stream", [False, True])
def test_a_load_and_an_unload_fit(described: Any, stream: bool) -> None:
    """The answers of both, and the content type of a streamed load, are as described."""
    model = {"path_parameters": {"name": "mock"}, "media_type": "application/json"}
    fits(described["/api/v1/models/{name}/load"]["POST"], body={"stream": stream}, **model)
    assert fits(described["/api/v1/models/{name}/unload"]["POST"], body={}, **model)["unloaded"]


def test_sessions_fit(url: str, described: Any) -> None:
    """A session is described alike in the list and alone, with its text if asked; a deletion lists ids."""
    httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60).raise_for_status()
    [one] = fits(described["/api/v1/sessions"]["GET"], query={"model": "tiny"})["data"]
    alone = {"path_parameters": {"id": one["id"]}}
    assert fits(described["/api/v1/sessions/{id}"]["GET"], query={"text": "true"}, **alone)["text"]
    assert fits(described["/api/v1/sessions/{id}"]["DELETE"], **alone)["deleted"]
    assert fits(described["/api/v1/sessions"]["DELETE"])["deleted"] == []


def test_scores_and_tools_fit(described: Any) -> None:
    """Log-probabilities and calls, which no random request brings, have the described members."""
    said = fits(described["/v1/chat/completions"]["POST"], media_type="application/json", body={
        **CHAT, "logprobs": True, "top_logprobs": 2,
    })
    assert said["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    said = fits(described["/v1/completions"]["POST"], media_type="application/json", body={
        "model": "tiny", "prompt": "Hi", "max_tokens": 3, "logprobs": 2, "echo": True,
    })
    assert said["choices"][0]["logprobs"]["top_logprobs"]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    said = fits(described["/v1/chat/completions"]["POST"], media_type="application/json", body={
        **CHAT, "max_tokens": 100, "tools": [tool], "tool_choice": "required",
    })
    assert said["choices"][0]["message"]["tool_calls"]
