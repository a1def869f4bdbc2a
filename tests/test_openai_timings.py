"""`timings` in a request: the answer tells how its time was spent."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
from serving_for_tests import serving
from waits_for_tests import GUARD

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
MODEL = {"engine": "llamacpp", "file": str(TINY), "isolation": "thread", "options": {"context_length": 512}}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASKED = {"model": "tiny", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
SAID = {"messages": [{"role": "user", "content": "Hi"}]}


def check(times: dict[str, Any], usage: dict[str, Any]) -> None:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert (times["cache_n"], times["prompt_n"], times["predicted_n"]) == (
        cached, usage["prompt_tokens"] - cached, usage["completion_tokens"],
    )
    assert times["prompt_ms"] > 0
    assert times["prompt_per_second"] == pytest.approx(1000 * times["prompt_n"] / times["prompt_ms"], rel=0.01)
    later = times["predicted_n"] - 1
    assert times["predicted_per_second"] == pytest.approx(1000 * later / times["predicted_ms"], rel=0.01)


async def test_answers_tell_their_timings_on_request() -> None:
    """Whole or streamed, of chats and texts, with the tokens of `usage`; nobody gets them who did not ask."""
    config = {"server": {"port": 0}, "models": {"tiny": MODEL}}
    async with asyncio.timeout(GUARD), serving(config) as url, httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        async def post(path: str, **more: object) -> httpx.Response:
            return await client.post(path, json={**ASKED, **more})

        whole = (await post(CHAT, **SAID, timings=True)).json()
        check(whole["timings"], whole["usage"])
        assert whole["timings"]["load_ms"] > 0
        assert list(whole) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage", "timings"]
        texts = (await post(TEXT, prompt=["one", "two"], timings=True)).json()
        assert texts["timings"]["predicted_n"] == texts["usage"]["completion_tokens"] == 12
        for more in ({}, {"timings": False}, {"timings": None}):
            assert "timings" not in (await post(CHAT, **SAID, **more)).json()
        streamed = await post(CHAT, **SAID, timings=True, stream=True, n=2, stream_options={"include_usage": True})
        chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
        *_, final, counts = chunks
        assert [chunk for chunk in chunks if "timings" in chunk] == [final]
        assert final["choices"][0]["finish_reason"] == "length"
        check(final["timings"], counts["usage"])
        wrong = await post(CHAT, **SAID, timings="yes")
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "timings")
