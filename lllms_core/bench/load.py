"""A load test of any OpenAI server: N clients at once, each of which sends its next request after each answer."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from random import Random

from attrs import evolve, frozen

from lllms_core.bench.random_model import SYLLABLES
from lllms_core.bench.timeline import Timeline
from lllms_core.bench.traffic import ServerSilent, completion, get_json


@frozen
class LoadTest:
    """The parameters of a load test."""

    base_url: str
    """Up to and including `/v1`."""
    model: str
    requests: int = 4
    """Per client."""
    max_tokens: int = 64
    prompt_tokens: int = 128
    """Approximate; the report uses the server's own count."""
    shared_prefix: int = 0
    """The number of these that are the same in every prompt; the others never are."""
    turns: int = 1
    """Requests of one conversation: each asks for the next turn, after the conversation so far."""
    chat: bool = True
    """Whether to use /chat/completions, not /completions."""
    api_key: str | None = None


@frozen
class Measured:
    """One request of a load test and its timeline."""

    turn: int
    timeline: Timeline


def words(count: int, random: Random) -> str:
    """Return `count` made-up words; no two of these texts are alike, so no cache can answer them."""
    return "".join(f" {random.choice(SYLLABLES)}{random.choice(SYLLABLES)}" for _ in range(count))


def prompts(count: int, shared: int, seed: int) -> Iterator[str]:
    """Yield endless prompts of `count` words: `shared` words that are always the same, then words that never repeat."""
    random = Random(seed)  # noqa: S311  # no secrets here
    prefix = words(shared, Random(0))  # noqa: S311
    while True:
        yield prefix + words(max(1, count - shared), random)


async def first_model(base_url: str, api_key: str | None = None) -> str:
    """Return the name of the first model that a server lists."""
    listed = await get_json(base_url, "/models", api_key)
    models = listed.get("data") if isinstance(listed, Mapping) else None
    if not models:
        raise ServerSilent(f"{base_url}/models lists no model; name one with --model")
    return str(models[0]["id"])


async def calibrate(load: LoadTest) -> float:
    """Return the server's number of tokens per word; this request also warms it up."""
    sample = 64
    timeline = await ask(evolve(load, max_tokens=2), [next(prompts(sample, 0, seed=-1))])
    if timeline.error is not None:
        raise ServerSilent(f"model '{load.model}' at {load.base_url} does not answer: {timeline.error}")
    return max(1.0, timeline.prompt_tokens / sample)


async def ask(load: LoadTest, turns: list[str]) -> Timeline:
    """Request the next turn of a conversation: `turns` alternates user and model, the user first and last."""
    body: dict[str, object] = {"model": load.model, "max_tokens": load.max_tokens, "temperature": 0}
    if load.chat:
        body["messages"] = [
            {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(turns)
        ]
    else:
        body["prompt"] = "".join(turns)
    return await completion(load.base_url, body, api_key=load.api_key)


async def run(load: LoadTest, clients: int, seed: int, told: Callable[[], None] = lambda: None) -> list[Measured]:
    """Run the requests of `clients` clients at once; `told` is called after each. No two seeds share a prompt."""
    per_word = await calibrate(load)
    size, shared = round(load.prompt_tokens / per_word), round(load.shared_prefix / per_word)
    asked: list[Measured] = []

    async def client(number: int) -> None:
        texts = prompts(size, shared, seed * 1000 + number)
        for _ in range(load.requests):
            said: list[str] = []
            for turn in range(load.turns):
                said.append(next(texts) if turn == 0 else words(max(1, size // 8), Random(seed + turn)))  # noqa: S311
                timeline = await ask(load, said)
                asked.append(Measured(turn, timeline))
                said.append(timeline.text)
                told()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return asked
