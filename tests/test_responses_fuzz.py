"""Whatever is sent to the routes of responses is answered as their description says, or refused with a reason."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from test_openai_choices import running

pytestmark = pytest.mark.slow

MODELS: dict[str, Any] = {"eliza": {"engine": "mock", "timeout": 1}}
CREATE, COUNT, ONE = "/v1/responses", "/v1/responses/input_tokens", "/v1/responses/{response_id}"
OPERATIONS = [(CREATE, "POST", 12), (COUNT, "POST", 5), (ONE, "GET", 5), (f"{ONE}/input_items", "GET", 5)]
ONLY_AN_ID = [(ONE, "DELETE", 3), (f"{ONE}/cancel", "POST", 3)]
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
NAMES = {"createResponse", "countInputTokens", "getResponse", "deleteResponse", "cancelResponse", "listInputItems"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running({"server": {"port": 0}, "models": MODELS}) as address:
        yield address


@pytest.fixture(scope="module")
def described(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(("path", "method", "examples", "mode"), [
    *((*one, mode) for one in OPERATIONS for mode in (POSITIVE, NEGATIVE)), *((*one, POSITIVE) for one in ONLY_AN_ID),
])
def test_answers_are_as_described(
    url: str, described: Any, path: str, method: str, examples: int, mode: GenerationMode,
) -> None:
    """Each answer fits the schema of its status; with the id of a kept response, the others say what they should."""
    statuses = set()

    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described[path][method].as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        if mode is POSITIVE and "{response_id}" in path:
            made = httpx.post(f"{url}{CREATE}", json={"model": "eliza", "input": "Hi"}).json()
            case.path_parameters = {"response_id": made["id"]}
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (case.body, answer.text)
        case.validate_response(answer, checks=[content_type_conformance, response_schema_conformance])

    for _ in range(10):  # chance may produce only requests that are refused for their meaning
        fuzz()
        if mode is NEGATIVE or 200 in statuses or path.endswith("/cancel"):
            break
    else:
        pytest.fail("nothing was answered")


def test_every_operation_has_a_name(url: str) -> None:
    """The operations have OpenAI's names, from which programs make clients."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    found = [
        one["operationId"] for path, methods in paths.items() if path.startswith(CREATE) for one in methods.values()
    ]
    assert sorted(found) == sorted(NAMES)
