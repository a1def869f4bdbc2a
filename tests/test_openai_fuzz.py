"""Whatever is sent to the API, following its own description or not, is never a fault of the server."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from test_openai_choices import running

from lllms_core.builtin.openai.openapi import PATHS, REQUIRED, describe
from lllms_core.parameters import ROUTES

pytestmark = pytest.mark.slow

MODELS: dict[str, Any] = {
    "eliza": {"engine": "mock", "timeout": 1},
    "bytes": {"engine": "mock", "options": {"tokenizer": "bytes", "context_length": 64}, "timeout": 1},
}
OTHERS = {
    "/v1/rerank": {"query", "documents", "top_n", "return_documents"},
    "/api/v1/tokenize": {"text", "add_special"},
    "/api/v1/detokenize": {"tokens"},
    "/api/v1/apply-template": {"messages", "tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"},
}
"""Routes whose parameters are not in the table, with their parameters besides the model."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"server": {"port": 0}, "models": MODELS}) as address:
        yield address


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", [*(f"/v1{path}" for path in PATHS.values()), *OTHERS])
def test_no_request_is_a_fault_of_the_server(url: str, path: str, mode: GenerationMode) -> None:
    """Requests that fit the description, and others, are answered as it says, or refused with a reason."""
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["POST"]
    statuses = set()

    @settings(
        max_examples=10 if path in OTHERS else 40, deadline=None, database=None,
        phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (case.body, answer.text)
        case.validate_response(answer, checks=[content_type_conformance, response_schema_conformance])
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    wanted = {200} if mode is GenerationMode.POSITIVE else {400}
    fuzz()
    if path not in OTHERS:  # these models do not rank, and have no templates
        for _ in range(9):  # chance may produce only requests that are refused for their meaning
            if not wanted <= statuses:
                fuzz()
        assert wanted <= statuses, "nothing was answered, or nothing refused"


def test_the_description_has_every_parameter() -> None:
    """Each parameter that has an effect is described, with its range, and the required ones are marked."""
    paths: Any = describe(["tiny"], ["top_p"])
    for route, path in PATHS.items():
        schema = paths[f"/v1{path}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"].keys() == {name for name, line in ROUTES[route].items() if line.own}
        assert schema["required"] == list(REQUIRED[route])
        assert schema["properties"]["model"]["enum"] == ["tiny"]
    chat = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert chat["properties"]["top_p"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 1}


def test_what_nobody_does_is_described_as_such() -> None:
    """If no model here honours a parameter, the description lists only the values that ask for nothing."""
    paths: Any = describe(["tiny"], ["top_p"])
    chat = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert chat["frequency_penalty"] == {"anyOf": [{"enum": [0.0]}, {"type": "null"}]}
    assert chat["audio"] == {"type": "null"}
    assert "string" in chat["user"]["anyOf"][0]["type"]
    assert chat.keys().isdisjoint({"num_ctx", "repetition_penalty"})


def test_the_other_routes_are_described(url: str) -> None:
    """Ranking and the native API are described as well, with their parameters."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    for path, properties in OTHERS.items():
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"].keys() == {"model", *properties}
        assert schema["required"][0] == "model"


def test_the_description_is_served(url: str) -> None:
    """`GET /openapi.json` is JSON in OpenAPI's form, with the models of this server."""
    answer = httpx.get(f"{url}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    described = json.loads(answer.text)
    assert described["openapi"].startswith("3.1")
    schema = described["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["model"]["enum"] == list(MODELS)
