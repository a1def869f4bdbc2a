"""What a host offers to dialects besides answers: counts, times, loads, and parameters without effect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import lllms_llamacpp
import pytest
from gates_for_tests import Gate, gated
from waits_for_tests import GUARD, until

from lllms_core.answers import merge
from lllms_core.config import parse_config
from lllms_core.errors import InvalidRequest, ModelUnknown
from lllms_core.host import Host
from lllms_core.types import Message, Usage

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
HI = [Message("user", "Hi there, how are you?")]
MODELS = {
    "tiny": {"engine": "llamacpp", "file": str(TINY), "isolation": "thread", "options": {"context_length": 512}},
    "mock": {"engine": "mock", "options": {"script": [{"replies": ["one two three"]}]}},
    "apart": {"engine": "mock", "isolation": "process", "options": {"script": [{"replies": ["one two three"]}]}},
}


@asynccontextmanager
async def hosting(**changes: object) -> AsyncIterator[Host]:
    models = {name: {**model, **changes} for name, model in MODELS.items()}
    async with asyncio.timeout(GUARD), Host(parse_config({"models": models})) as host:
        yield host


@pytest.mark.parametrize("model", ["tiny", "mock"])
async def test_prompts_are_counted_before_they_run(model: str) -> None:
    """The count equals that of the answer's usage, to the token, for chats with tools and for texts."""
    async with hosting() as host:
        tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
        for request in (
            host.request(model, messages=HI, parameters={"max_tokens": 1}),
            host.request(model, messages=HI, parameters={"max_tokens": 1, "tools": [tool]}),
            host.request(model, prompt="Once upon a time", parameters={"max_tokens": 1}),
        ):
            counted = await host.count(request)
            async with host.submit(request) as stream:
                assert (await stream.gather()).finish.usage.prompt_tokens == counted > 0


@pytest.mark.parametrize("model", ["tiny", "mock", "apart"])
async def test_the_first_piece_tells_what_was_admitted(model: str) -> None:
    """One delta, the first, says how many tokens the prompt has and how many of them were cached."""
    async with hosting() as host:
        for n in (1, 2):
            request = host.request(model, messages=HI, parameters={"max_tokens": 3, "n": n, "temperature": 0})
            async with host.submit(request) as stream:
                deltas = [delta async for delta in stream]
            told = [(number, delta.admitted) for number, delta in enumerate(deltas) if delta.admitted is not None]
            assert stream.finish is not None
            used = stream.finish.usage
            assert told == [(0, Usage(used.prompt_tokens, 0, used.cached_tokens))]


@pytest.mark.parametrize("model", ["tiny", "mock", "apart"])
async def test_the_end_names_the_stop_string(model: str) -> None:
    """Of several stop strings, the end names the one that ended the answer, or none if the model ended it."""
    async with hosting() as host:
        parameters = {"temperature": 0, "max_tokens": 40}
        async with host.submit(host.request(model, messages=HI, parameters=parameters)) as stream:
            whole = await stream.gather()
        assert whole.finish.stop is None
        stop = whole.text[3:6]
        request = host.request(model, messages=HI, parameters={**parameters, "stop": ["@@@", stop]})
        async with host.submit(request) as stream:
            cut = await stream.gather()
        assert (cut.finish.reason, cut.finish.stop) == ("stop", stop)
        assert whole.text == cut.text + whole.text[len(cut.text):]


async def test_the_end_tells_where_the_time_went() -> None:
    """The load, the queue, the prompt and the answer each have their seconds, measured where they are visible."""
    gate = Gate()
    async with asyncio.timeout(GUARD), gated(gate, concurrency=1) as host:
        first, second = [host.submit(host.request("gate", messages=HI)) for _ in range(2)]
        await asyncio.sleep(0.2)
        opened = monotonic()
        gate.load.set()
        await until(lambda: host.status().running == 1)
        queued = monotonic() - opened
        await asyncio.sleep(0.2)
        gate.pieces.put("one")
        await first.wait()
        await asyncio.sleep(0.2)
        gate.pieces.put(None)
        times = (await first.gather()).finish.timings
        assert all(one >= 0.15 for one in (times.load, times.prompt, times.answer))
        assert times.queued <= queued
        gate.pieces.put("one")
        gate.pieces.put(None)
        times = (await second.gather()).finish.timings
        assert times.queued >= 0.3
        assert times.load >= 0.15


async def test_times_pass_through_the_wire_and_merges() -> None:
    """An answer from a process has timings, and so has one that was merged from several."""
    async with hosting() as host:
        requests = [host.request("apart", prompt=text) for text in ("one", "two")]
        stream = merge(host.submit_all(requests), 1)
        assert [delta async for delta in stream]
        assert stream.finish is not None
        times = stream.finish.timings
        assert times.load > 0
        assert times.prompt > 0


async def test_models_are_loaded_and_unloaded() -> None:
    """`load` returns when an instance is ready, without a request for text; `unload` when it is gone."""
    async with hosting() as host:
        for model in ("tiny", "mock"):
            await host.load(model)
            assert [one.model for one in host.status().instances] == [model]
            await host.unload(model)
            assert host.status().instances == ()
        with pytest.raises(ModelUnknown):
            await host.load("nobody")
        with pytest.raises(ModelUnknown):
            await host.unload("nobody")


async def test_a_model_at_work_is_unloaded_afterwards() -> None:
    """Its answer is completed undisturbed; kept instances stay."""
    gate = Gate()
    gate.load.set()
    async with asyncio.timeout(GUARD), gated(gate) as host:
        stream = host.submit(host.request("gate", messages=HI))
        gate.pieces.put("one")
        await stream.wait()
        await host.unload("gate")
        assert len(host.status().instances) == 1
        gate.pieces.put(None)
        assert (await stream.gather()).text == "one"
        await until(lambda: not host.status().instances)
    async with hosting(min_instances=1) as host:
        before = {one.id for one in host.status().instances}
        await host.unload("mock")
        assert {one.id for one in host.status().instances} == before


async def test_what_has_no_effect_is_named() -> None:
    """A request names parameters without effect, including those that its dialect left out, but not neutral values."""
    host = Host(parse_config({"models": MODELS}))
    parameters = {"temperature": 0, "user": "me", "frequency_penalty": 0, "seed": None}
    assert host.request("mock", messages=HI, parameters=parameters).unused == ("user",)
    request = host.request("mock", messages=HI, parameters=parameters, unused=["context"])
    assert request.unused == ("context", "user")
    assert host.request("mock", messages=HI).unused == ()


async def test_what_cannot_chat_counts_no_chat() -> None:
    """A model refuses to count the prompt of a task that it cannot do."""
    gate = Gate()
    gate.load.set()
    async with asyncio.timeout(GUARD), gated(gate) as host:
        with pytest.raises(InvalidRequest, match="cannot continue text"):
            await host.count(host.request("gate", prompt="Once"))


async def test_abilities_are_told_before_and_after_a_load() -> None:
    """Before a load, what the file and the engine declare; afterwards, what the model itself reports."""
    async with hosting() as host:
        before = await host.abilities("tiny")
        assert (before.context_length, before.thinks) == (512, None)
        assert (before.calls_tools, before.sees_images) == (True, False)
        assert before.details["architecture"]
        await host.load("tiny")
        after = await host.abilities("tiny")
        assert after.tasks is not None
        assert {"chat", "text"} <= after.tasks
        assert (after.context_length, after.thinks, after.calls_tools) == (512, False, True)
        assert before.tasks == after.tasks
        with pytest.raises(ModelUnknown):
            await host.abilities("nobody")
