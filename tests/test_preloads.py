"""Messages, tools and texts that are evaluated once for all conversations that begin with them."""

import pytest
from test_sessions import SECRETS, Store, cached, serving, tell, unload

from lllms_core.config import parse_config
from lllms_core.errors import ConfigError, ModelLoadFailed
from lllms_core.host import Host
from lllms_core.types import Message

pytestmark = pytest.mark.slow

SYSTEM = {"role": "system", "content": "You are Bob, a friendly assistant."}
EXAMPLES = [{"role": "user", "content": "in: red out:"}, {"role": "assistant", "content": "<red>"}]


async def chat(host, *messages, **parameters):
    """The answer to messages given as tables."""
    parameters = {"temperature": 0, "max_tokens": 20, **parameters}
    given = [Message(**message) for message in messages]
    async with host.submit(host.request("tiny", messages=given, parameters=parameters)) as stream:
        return await stream.gather()


@pytest.mark.parametrize("store", ["none", "memory"])
async def test_preload_is_kept(store):
    """A conversation that begins with the preload evaluates only the rest, even after others, which are unaffected."""
    preload = [SYSTEM, *EXAMPLES]
    question = {"role": "user", "content": "Who are you?"}
    async with serving(store, model={"preload": {"messages": preload}}, slots=1) as host:
        plain = await chat(host, question)
        assert (plain.text, cached(plain) < 10) == ("I am Tiny.", True)
        for secret in SECRETS[:4]:
            await tell(host, secret)
        served = await chat(host, *preload, question)
        assert served.finish.usage.prompt_tokens - cached(served) <= 15
        assert cached(served) > 30
        assert served.text == (await chat(host, *preload, question, cache_prompt=False)).text
        if store == "memory":
            await unload(host)
            assert cached(await chat(host, *preload, question)) == cached(served)
            assert (await chat(host, question)).text == "I am Tiny."


async def test_preload_is_restored_and_can_be_answered_for():
    """The next instance finds the preload in the store; a started message of the assistant is continued, warm."""
    store = Store()
    preload = [SYSTEM, *EXAMPLES * 6]
    question = {"role": "user", "content": "Who are you?"}
    async with serving(store, model={"preload": {"messages": preload}}, slots=1) as host:
        await chat(host, *preload, question)
        await unload(host)
        before = store.gets
        begun = await chat(host, *preload, question, {"role": "assistant", "content": "I am"}, max_tokens=4)
        assert store.gets > before
        assert cached(begun) > 64
        whole = await chat(host, *preload, question, cache_prompt=False, max_tokens=6)
        assert ("I am" + begun.text).startswith(whole.text[:8])


async def test_prefix_of_a_text_is_kept():
    """A preloaded text is shared by all prompts that begin with it."""
    prefix = "The Secret is koalabear! I continuously remind myself of it, again and again -"

    async def complete(host, prompt):
        given = host.request("tiny", prompt=prompt, parameters={"temperature": 0, "max_tokens": 8})
        async with host.submit(given) as stream:
            return await stream.gather()

    async with serving("none", model={"preload": {"prefix": prefix}}) as host:
        first = await complete(host, prefix + ' It is really "')
        assert first.finish.usage.prompt_tokens - cached(first) <= 12
        assert "koalabear" not in (await complete(host, 'It is really "')).text


async def test_tools_are_preloaded():
    """The description of tools is part of the preload."""
    tool = {"name": "add", "description": "Adds two numbers.", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    }}
    function = {"type": "function", "function": tool}
    question = {"role": "user", "content": "What is 3 plus 4?"}
    async with serving("none", model={"preload": {"messages": [SYSTEM], "tools": [tool]}}) as host:
        answer = await chat(host, SYSTEM, question, tools=[function])
        assert answer.finish.usage.prompt_tokens - cached(answer) <= 20
        assert cached(answer) > 40


async def test_long_preload_has_its_own_room():
    """A preload takes no room from the requests; one that no request could begin with is refused."""
    long = [{"role": "user", "content": "word " * 400}]
    async with serving("none", model={"preload": {"messages": long}}, slots=1) as host:
        assert "Bob" in (await chat(host, SYSTEM, {"role": "user", "content": "Who are you?"})).text
        assert host.pool.status().instances[0].info.context_length == 512
        full = await chat(host, {"role": "user", "content": "ball " * 140}, cache_prompt=False)
        assert full.finish.usage.prompt_tokens > 400
    longer = [{"role": "user", "content": "word " * 600}]
    async with serving("none", model={"preload": {"messages": longer}}) as host:
        with pytest.raises(ModelLoadFailed, match="no request may hold more than 512"):
            await chat(host, SYSTEM)


def test_engine_that_keeps_nothing_refuses_a_preload():
    """An engine that cannot keep a preload refuses its configuration."""
    models = {"m": {"engine": "mock", "preload": {"prefix": "a"}}}
    with pytest.raises(ConfigError, match=r"models\.m\.preload: engine 'mock' cannot preload"):
        Host(parse_config({"models": models}))
