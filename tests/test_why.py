"""Why a request waited, and where its prompt parts from what was cached: the routes, and `lllms why`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
from click.testing import CliRunner
from gates_for_tests import Gate, gated
from hypothesis import given
from hypothesis import strategies as st
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core.builtin.status.timelines import explanation, parting
from lllms_core.cli import cli
from lllms_core.config import parse_config
from lllms_core.engines.batching.cache import AROUND, SequenceCache
from lllms_core.host import Host
from lllms_core.types import Message, Reuse

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
SAID = [Message("user", "Hi")]
REQUESTS = "/api/v1/requests"


async def run_cli(*arguments: str) -> str:
    done = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


async def test_a_timeline_says_why_a_request_waited() -> None:
    """It waited for a place that another model held, which was unloaded for it, and then for the load of its own."""
    gate = Gate()
    gate.load.set()
    models = {name: {"engine": "gate"} for name in ("first", "second")}
    async with asyncio.timeout(GUARD), gated(gate, models=models, max_instances=1) as host, published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        before = host.submit(host.request("first", messages=SAID))
        await until(lambda: gate.answering)
        [held] = [one.id for one in host.status().instances]
        gate.load.clear()
        asked = host.submit(host.request("second", messages=SAID))
        await until(lambda: "all are taken" in str(host.find_request(asked.request.id)))
        running = (await client.get(f"{REQUESTS}/{asked.request.id}")).json()
        assert (running["state"], running["outcome"], running["timeline"][-1]["what"]) == (
            "running", None, "waits: queued",
        )
        gate.pieces.put(None)
        await before.gather()
        await until(lambda: [one.model for one in host.status().instances] == ["second"])
        gate.load.set()
        for piece in ("one", None):
            gate.pieces.put(piece)
        await asked.gather()
        [own] = [one.id for one in host.status().instances]
        told = (await client.get(f"{REQUESTS}/{asked.request.id}")).json()
        shown = await run_cli("why", asked.request.id, "--url", url)
        listed = await run_cli("why", "--url", url)
        ended = (await client.get(REQUESTS)).json()["ended"]
        missing = await client.get(f"{REQUESTS}/nobody")
    steps = [(one["what"], one["detail"]) for one in told["timeline"]]
    place = "its model needs one of 1 places (server.max_instances), and all are taken"
    assert steps == [
        ("submitted", ""), ("waits: queued", ""), ("waits: queued", place), ("evicting", held),
        ("waits: queued", "an instance is being unloaded to make room for its model"), ("loading", own),
        ("waits: loading", ""), ("loaded", own), ("assigned", own),
        ("answering", "0 of 1 prompt tokens were cached"), ("ended", "stop"),
    ]
    assert told["timings"]["queued"] + told["timings"]["load"] > 0
    assert f"evicting: {held}" in shown
    assert f"waits: queued: {place}" in shown
    assert listed.splitlines()[0].startswith(f"{asked.request.id}: chat for second, stop after ")
    assert [one["id"] for one in ended] == [asked.request.id, before.request.id]
    assert missing.status_code == 404


@asynccontextmanager
async def tiny() -> AsyncIterator[tuple[Host, httpx.AsyncClient]]:
    models = {"tiny": {"engine": "llamacpp", "file": str(TINY), "options": {"context_length": 512, "threads": 1}}}
    async with asyncio.timeout(GUARD), Host(parse_config({"models": models})) as host, published(host) as url, \
            httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        yield host, client


async def test_a_divergence_is_told_with_the_text_around_it() -> None:
    """The token index is where the two prompts differ; the texts are theirs, and only this machine gets them."""
    first = "The quick brown fox jumps over the lazy dog, and the cat sleeps."
    second = first.replace("lazy dog", "tall wall")
    async with tiny() as (host, client):
        async def ask(prompt: str) -> dict[str, Any]:
            body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
            answer = await client.post("/v1/completions", json=body)
            path = f"{REQUESTS}/{answer.headers['x-request-id']}"
            told: dict[str, Any] = (await client.get(path, params={"text": "true"})).json()
            return told

        empty, parted = await ask(first), await ask(second)
        whole = await ask(second)
        one, two = [(await host.tokenize("tiny", text, add_special=True)).ids for text in (first, second)]
        at = next(index for index, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
        path = f"{REQUESTS}/{parted['id']}"
        far = await client.get(path, params={"text": "true"}, headers={"X-Forwarded-For": "192.0.2.7"})
        plain = (await client.get(path)).json()
        shown = await run_cli("why", parted["id"], "--url", str(client.base_url))
    assert empty["cache"]["held_tokens"] == 0
    assert empty["text"] is None
    cache = parted["cache"]
    assert (cache["diverged_at"], cache["common_tokens"], parted["cached_tokens"]) == (at, at, at)
    assert cache["held_tokens"] >= len(one)
    text = parted["text"]
    assert second.startswith(text["before"][-20:] + text["prompt"][:9], second.index(text["before"][-20:]))
    assert first.find(text["before"][-10:] + text["cached"][:9]) > 0
    assert whole["cache"]["diverged_at"] is None
    assert whole["cached_tokens"] == len(two) - 1
    assert far.status_code == 403
    assert "text" not in plain
    assert "fox" not in str(plain)
    assert f"from token {at} on" in shown
    assert text["cached"][:5] in shown


@given(
    cached=st.integers(0, 40), common=st.integers(0, 40), more=st.integers(0, 40), prompt=st.integers(1, 80),
)
def test_each_case_has_a_sentence(cached: int, common: int, more: int, prompt: int) -> None:
    """Whatever the numbers, the explanation says how much was cached, and names no token that the prompt lacks."""
    common = min(common, prompt)
    parts = common < prompt and more > 0
    reuse = Reuse(common, common + more, 0, (1,) if parts else (), (2,) if parts else ())
    told = explanation(prompt, min(cached, prompt - 1, common), reuse)
    assert str(prompt) in told
    assert (f"from token {common} on" in told) == (parts and common > 0)
    assert (parting(reuse) is None) == (not parts)


class NoMemory:
    """Keeps no cells: the table of the sequences is enough here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: {"earliest_cut": 0, "trim": True}.get(name)


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=60)


@given(past=st.lists(TOKENS, min_size=1, max_size=4), prompt=TOKENS)
def test_the_nearest_conversation_is_compared(past: list[list[int]], prompt: list[int]) -> None:
    """The reported place is the end of the longest prefix that any conversation shares, with the tokens around it."""
    cache = SequenceCache(NoMemory(), 5, 1000, can_trim=True, can_trim_imported=True)  # type: ignore[arg-type]  # a fake
    held: list[list[int]] = []
    for tokens in past:
        admission = cache.admit([*tokens, 9], len(tokens) + 1, None, None)
        assert admission is not None
        cache.table.extend(admission.sequence, [*tokens, 9][admission.keep:])
        cache.release(admission.sequence)
        held = [[*cache.table.tokens(one)] for one in range(5)]
    admission = cache.admit(prompt, len(prompt), None, None)
    assert admission is not None
    assert admission.reuse is not None
    found = admission.reuse
    shared = [next((n for n, (a, b) in enumerate(zip(one, prompt, strict=False)) if a != b), min(len(one), len(prompt)))
              for one in held]
    assert found.common == max(shared)
    assert found.held in {len(one) for one, same in zip(held, shared, strict=True) if same == found.common}
    if found.prompt:
        assert list(found.prompt) == prompt[found.start : found.common + AROUND]
        index = found.common - found.start
        assert found.prompt[:index] == found.past[:index]
        assert found.prompt[index] != found.past[index]
    else:
        assert found.common >= min(found.held, len(prompt) - 1)
