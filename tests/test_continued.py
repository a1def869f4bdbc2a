"""One conversation through several APIs: each finds what was evaluated for the others in the cache."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
from stores_for_tests import TINY

from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

Turn = tuple[str, str]
"""A role and a text."""
SYSTEM = "You are a friendly bot who helps people, knows many colours, and answers in short sentences."
QUESTIONS = ("Hi!", "lets count to 10", "What is your name?", "Say banana", "Tell me a fun fact", "Thanks, bye!")
MOST = 24


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server({"tiny": {"engine": "llamacpp", "file": str(TINY), "options": {"threads": 1}}}) as url:
        yield url


def post(url: str, path: str, body: Mapping[str, object]) -> Any:
    return httpx.post(f"{url}{path}", json={"model": "tiny", **body}, timeout=60).raise_for_status().json()


def said(turns: list[Turn]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def openai(url: str, turns: list[Turn]) -> tuple[str, int, int]:
    answer = post(url, "/v1/chat/completions", {"messages": said(turns), "max_tokens": MOST, "temperature": 0})
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["message"]["content"], usage["prompt_tokens"], cached


def responses(url: str, turns: list[Turn]) -> tuple[str, int, int]:
    answer = post(url, "/v1/responses", {
        "instructions": turns[0][1], "input": said(turns[1:]), "max_output_tokens": MOST, "temperature": 0,
    })
    [item] = answer["output"]
    usage = answer["usage"]
    return item["content"][0]["text"], usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]


def anthropic(url: str, turns: list[Turn]) -> tuple[str, int, int]:
    answer = post(url, "/v1/messages", {
        "system": [{"type": "text", "text": turns[0][1], "cache_control": {"type": "ephemeral"}}],
        "messages": said(turns[1:]), "max_tokens": MOST, "temperature": 0,
    })
    [block] = answer["content"]
    cached = answer["usage"]["cache_read_input_tokens"]
    return block["text"], answer["usage"]["input_tokens"] + cached, cached


def ollama(url: str, turns: list[Turn]) -> tuple[str, int, None]:
    answer = post(url, "/api/chat", {
        "messages": said(turns), "stream": False, "options": {"num_predict": MOST, "temperature": 0},
    })
    return answer["message"]["content"], answer["prompt_eval_count"], None


Ask = Callable[[str, list[Turn]], tuple[str, int, int | None]]
APIS: tuple[Ask, ...] = (openai, responses, anthropic, ollama, openai, responses)


def test_a_conversation_continues_in_another_api(url: str) -> None:
    """Of a conversation that each turn continues in another API, all but the new question is in the cache.

    Ollama's API does not tell; the turn after its own finds its answer there.
    """
    turns: list[Turn] = [("system", SYSTEM)]
    before = 0
    for ask, question in zip(APIS, QUESTIONS, strict=True):
        turns.append(("user", question))
        text, prompt, cached = ask(url, turns)
        assert text
        assert prompt > before
        if before and cached is not None:
            assert before <= cached < prompt, ask
        turns.append(("assistant", text))
        before = prompt


def test_equal_conversations_have_equal_prompts(url: str) -> None:
    """Each API makes the same number of tokens, and the same answer, of the same conversation."""
    turns = [("system", SYSTEM), ("user", QUESTIONS[0]), ("assistant", "Hi!"), ("user", QUESTIONS[1])]
    assert len({ask(url, turns)[:2] for ask in APIS}) == 1
