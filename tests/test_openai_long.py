"""Long conversations with the trained model, over real HTTP with the official client."""

import asyncio
from random import Random
from typing import Any

import openai
import pytest
from test_openai_http import serving

pytestmark = pytest.mark.slow

pytest.importorskip("lllms_llamacpp")

TURNS = 50
NAMES = ("Xerxo", "Anna", "Bob", "Maria", "Peter")


def question(turn: int, name: str) -> str:
    """The message of a turn: the name twice, and now and then a question for it."""
    if turn in (1, 26):
        return f"My name is {name}."
    if turn % 10 == 0:
        return "What is my name?"
    return "Say pong." if turn % 7 == 0 else "ping"


async def converse(client: openai.AsyncOpenAI, name: str, chance: Random) -> list[Any]:
    """Hold a conversation, streamed at random; the answers to questions for the name, with their cached tokens."""
    messages: list[Any] = []
    found = []
    for turn in range(1, TURNS + 1):
        messages.append({"role": "user", "content": question(turn, name)})
        arguments: Any = {"model": "tiny", "messages": messages, "temperature": 0}
        if chance.random() < 0.5:
            async with client.chat.completions.stream(**arguments, stream_options={"include_usage": True}) as stream:
                answer = await stream.get_final_completion()
        else:
            answer = await client.chat.completions.create(**arguments)
        text = answer.choices[0].message.content
        messages.append({"role": "assistant", "content": text})
        if turn % 10 == 0:
            found.append((turn, text, answer.usage.prompt_tokens_details.cached_tokens))
    return found


async def test_fifty_turns_keep_their_facts_apart() -> None:
    """Five conversations of fifty turns, interleaved over two slots: each gets its own name, and no other."""
    from lllms_llamacpp import lllms_models

    [offer] = lllms_models()
    options = {"slots": 2, "threads": 1, "kv_size": 2048}
    config = {
        "server": {"port": 0}, "sessions": {"min_tokens": 32},
        "models": {"tiny": {"engine": "llamacpp", "file": str(offer.file), "options": options}},
    }
    async with serving(config) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=300) as client:
        talks = [converse(client, name, Random(number)) for number, name in enumerate(NAMES)]
        found = await asyncio.gather(*talks)
    for name, answers in zip(NAMES, found, strict=True):
        assert [(turn, text) for turn, text, _ in answers] == [
            (turn, f"Your name is {name}.") for turn in range(10, TURNS + 1, 10)
        ]
        assert sum(cached for _, _, cached in answers) > 0
