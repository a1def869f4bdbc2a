"""`prediction`: what a client expects of an answer makes it faster, and its usage tells how much of it came true."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import openai
import pytest

from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

TINY = str(Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf")
OPTIONS = {"threads": 1, "context_length": 512}
MODELS: dict[str, Any] = {
    "tiny": {"engine": "llamacpp", "file": TINY, "options": OPTIONS},
    "bot": {"engine": "mock"},
}
ASKED: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "user", "content": "Count to 20."}], "temperature": 0, "max_tokens": 80,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(MODELS) as url:
        yield url


def test_a_prediction_that_comes_true_is_counted(url: str) -> None:
    """The answer is the same; usage, timings and metrics tell the tokens that were drafted, streamed or whole."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        plain = client.chat.completions.create(**ASKED).choices[0].message.content
        assert plain
        accepted = rejected = 0
        parts = [{"type": "text", "text": plain[:30]}, {"type": "text", "text": plain[30:]}]
        for attempt in range(60):  # a machine at work may make a draft look too dear for a while
            predicted: Any = {"type": "content", "content": parts if attempt % 2 else plain}
            answer = client.chat.completions.create(**ASKED, prediction=predicted, extra_body={"timings": True})
            assert answer.choices[0].message.content == plain
            details: Any = answer.usage.completion_tokens_details  # type: ignore[union-attr]
            told = answer.model_extra["timings"]  # type: ignore[index]
            assert told.get("draft_n_accepted", 0) == details.accepted_prediction_tokens
            assert told.get("draft_n", 0) == details.accepted_prediction_tokens + details.rejected_prediction_tokens
            accepted += details.accepted_prediction_tokens
            rejected += details.rejected_prediction_tokens
            if accepted > 5:
                break
        assert accepted > 5
        streamed = list(client.chat.completions.create(
            **ASKED, prediction={"type": "content", "content": plain}, stream=True,
            stream_options={"include_usage": True},
        ))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == plain
    details = streamed[-1].usage.completion_tokens_details
    accepted, rejected = accepted + details.accepted_prediction_tokens, rejected + details.rejected_prediction_tokens
    metrics = httpx.get(f"{url}/metrics").text.splitlines()
    counts = {line.split(" ")[0]: float(line.split(" ")[1]) for line in metrics if "drafted_tokens_total{" in line}
    assert counts.get('lllms_drafted_tokens_total{model="tiny",verdict="accepted"}', 0) >= accepted
    assert counts.get('lllms_drafted_tokens_total{model="tiny",verdict="rejected"}', 0) >= rejected


@pytest.mark.parametrize(("prediction", "param"), [
    ("x", "prediction"), ({"type": "content"}, "prediction.content"), ({"content": "x"}, "prediction.type"),
    ({"type": "text", "content": "x"}, "prediction.type"), ({"type": "content", "content": 7}, "prediction.content"),
    ({"type": "content", "content": ["x"]}, "prediction.content[0]"),
    ({"type": "content", "content": [{"type": "image", "text": "x"}]}, "prediction.content[0].type"),
    ({"type": "content", "content": [{"type": "text"}]}, "prediction.content[0].text"),
    ({"type": "content", "content": [{"type": "text", "text": 1}]}, "prediction.content[0].text"),
])
@pytest.mark.parametrize("model", ["tiny", "bot"])
def test_other_predictions_are_refused(url: str, model: str, prediction: object, param: str) -> None:
    """A prediction is a text, or parts of text; what is wrong with another one is named."""
    answer = httpx.post(f"{url}/v1/chat/completions", json={**ASKED, "model": model, "prediction": prediction})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_engines_that_draft_nothing_name_it(url: str) -> None:
    """The answer of an engine that makes no use of a prediction says so in its header."""
    predicted = {"type": "content", "content": "x"}
    for model, header in (("bot", "prediction"), ("tiny", None)):
        answer = httpx.post(f"{url}/v1/chat/completions", json={**ASKED, "model": model, "prediction": predicted})
        assert answer.status_code == 200
        assert answer.headers.get("x-lllms-ignored") == header
