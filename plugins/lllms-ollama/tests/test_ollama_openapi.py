"""The routes keep to their own description: requests that fit it, and others, get answers that fit it."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from lllms_ollama.openapi import describe
from schemathesis import GenerationMode

from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

PATHS: Any = describe(["mock"])
POSTS = [path for path, methods in PATHS.items() if "post" in methods]
GETS = [path for path, methods in PATHS.items() if "get" in methods]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server({"mock": {"engine": "mock", "timeout": 1}}) as url:
        yield url


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", POSTS)
def test_answers_fit_the_description(url: str, path: str, mode: GenerationMode) -> None:
    """What fits the description is answered as described, or refused for its meaning; what does not is refused."""
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["POST"]
    statuses = set()

    @settings(
        max_examples=5, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        answer = case.call()
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (case.body, answer.text)
        operation.validate_response(answer)
        if answer.status_code >= 400:
            assert answer.json().keys() == {"error"}

    fuzz()
    wanted = 200 if mode is GenerationMode.POSITIVE else 400
    for _ in range(9):  # chance may produce only requests that are refused for their meaning
        if wanted not in statuses:
            fuzz()
    assert wanted in statuses


@pytest.mark.parametrize("path", GETS)
def test_lists_fit_the_description(url: str, path: str) -> None:
    """What is listed has the described members."""
    httpx.post(f"{url}/api/generate", json={"model": "mock"})
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["GET"]
    operation.validate_response(operation.Case().call())


def test_every_operation_has_an_id(url: str) -> None:
    """Programs that generate clients from the description name their functions by it."""
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    ids = [method["operationId"] for path in PATHS for method in paths[path].values()]
    assert len(set(ids)) == len(PATHS) == len(ids)
