"""Whatever is sent to the native chat is answered as its description says, or refused with a reason."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from test_openai_choices import running

from lllms_core.builtin.chat.openapi import DATA
from lllms_core.client.event_lines import EventLines

pytestmark = pytest.mark.slow

CHAT, ONE, LIST = "/api/v1/chat", "/api/v1/chat/{id}", "/api/v1/conversations"
KEPT = f"{LIST}/{{id}}"
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
NAMES = {
    "createChat", "resumeChat", "stopChat", "listConversations", "getConversation", "deleteConversation",
    "get_client_script", "get_react_script",
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"server": {"port": 0}, "models": {"eliza": {"engine": "mock", "timeout": 1}}}) as address:
        yield address


@pytest.fixture(scope="module")
def described(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(("path", "method", "examples", "mode"), [
    (CHAT, "POST", 12, POSITIVE), (CHAT, "POST", 12, NEGATIVE), (ONE, "GET", 2, POSITIVE), (ONE, "DELETE", 2, POSITIVE),
    (LIST, "GET", 1, POSITIVE), (KEPT, "GET", 2, POSITIVE), (KEPT, "DELETE", 2, POSITIVE),
    ("/api/v1/client.js", "GET", 1, POSITIVE), ("/api/v1/react.js", "GET", 1, POSITIVE),
])
def test_answers_are_as_described(
    url: str, described: Any, path: str, method: str, examples: int, mode: GenerationMode,
) -> None:
    """Each answer fits the schema of its status, and each event that of its name."""
    statuses = set()

    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described[path][method].as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        if path in {ONE, KEPT}:
            asked = {"model": "eliza", "message": "Hi", "conversation": "mine"}
            events = EventLines().read(httpx.post(f"{url}{CHAT}", json=asked).content)
            case.path_parameters = {"id": "mine" if path == KEPT else events[0].id.rpartition("-")[0]}
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (case.body, answer.text)
        if answer.headers["content-type"][0].startswith("text/event-stream"):
            for event in EventLines().read(answer.content):
                jsonschema.validate(json.loads(event.data), DATA[event.name])
        else:
            case.validate_response(answer, checks=[
                content_type_conformance, response_schema_conformance, status_code_conformance,
            ])

    for _ in range(10):  # chance may produce only requests that are refused for their meaning
        fuzz()
        if mode is NEGATIVE or 200 in statuses:
            break
    else:
        pytest.fail("nothing was answered")


def test_every_operation_has_a_name(url: str) -> None:
    """The operations have names, from which programs make clients."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    named = {one["operationId"] for methods in paths.values() for one in methods.values() if "operationId" in one}
    assert named >= NAMES
