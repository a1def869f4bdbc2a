"""Tools through the official client: the mock follows its script, tiny-chat decides for itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import langchain_core.tools
import langchain_openai
import lllms_llamacpp
import more_templates
import openai
import pydantic
import pytest
import pytest_asyncio
from serving_for_tests import serving

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"


def tool(name: str, *keys: str, kind: str = "string", **fields: object) -> Any:
    schema = {"type": "object", "properties": {key: {"type": kind} for key in keys}, "required": list(keys)}
    return {"type": "function", "function": {"name": name, "parameters": schema, **fields}}


WEATHER = tool("get_weather", "city", description="Get the weather in a city.")
ADD = tool("add", "a", "b", kind="number", description="Add two numbers.")
CALLS = [{"name": "get_weather", "arguments": {"city": "Zürich \"\n"}}, {"name": "add", "arguments": {"a": 1}}]
SCRIPT = [
    {"when": "both", "calls": CALLS, "replies": ["It is sunny."], "thinks": "Two calls."},
    {"when": "broken", "replies": ['Let me see. <tool_call>{"name": "add", "arguments": {"a": 1,, }}</tool_call>']},
    {"when": "mended", "replies": [
        r'<tool_call>{"name": "get_weather", "parameters": {"city": "C:\Users\a b"}}</tool_call>',
    ]},
    {"when": "stranger", "replies": ['<tool_call>{"name": "W-get_it", "arguments": {"city": "Paris"}}</tool_call>']},
    {"when": "think", "replies": ["Yes."], "thinks": "Is it so?"},
]
MODELS: dict[str, Any] = {
    "tiny": {"engine": "llamacpp", "file": str(TINY), "min_instances": 1, "options": {"threads": 1}},
    "channels": {
        "engine": "llamacpp", "file": str(TINY), "options": {"threads": 1, "chat_template": more_templates.CHANNELS},
    },
    "mock": {"engine": "mock", "options": {"script": SCRIPT}},
    "bytes": {"engine": "mock", "options": {"script": SCRIPT, "tokenizer": "bytes"}},
}

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    async with serving({"server": {"port": 0}, "models": MODELS}) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def ask(client: openai.AsyncOpenAI, text: Any, model: str = "mock", **fields: Any) -> Any:
    """The whole answer's choice, after a check that the streamed one, joined by the client, is the same."""
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    asked = {"model": model, "messages": messages, "tools": [WEATHER, ADD], "temperature": 0, **fields}
    if asked["tools"] is None:
        del asked["tools"]
    whole = (await client.chat.completions.create(**asked)).choices[0]
    async with client.chat.completions.stream(**asked) as stream:
        async for _ in stream:
            pass
        streamed = (await stream.get_final_completion()).choices[0]
    assert shown(whole) == shown(streamed)
    assert whole.finish_reason == streamed.finish_reason
    return whole


def shown(choice: Any) -> list[object]:
    message = choice.message
    return [message.content, getattr(message, "reasoning_content", None), *made(choice)]


def made(choice: Any) -> list[tuple[str, object]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or ()]


async def test_calls_reach_the_client(client: openai.AsyncOpenAI) -> None:
    """Name, arguments and ids arrive; the content is null, and the reason says that results are expected."""
    for model in ("mock", "bytes"):
        choice = await ask(client, "both", model)
        assert made(choice) == [(call["name"], call["arguments"]) for call in CALLS]
        assert choice.message.content is None
        assert choice.message.reasoning_content == "Two calls."
        assert choice.finish_reason == "tool_calls"
        ids = [call.id for call in choice.message.tool_calls]
        assert len(set(ids)) == 2
        assert all(one.startswith("call_") for one in ids)


async def test_only_offered_tools_are_called(client: openai.AsyncOpenAI) -> None:
    """The choice none, fewer tools, allowed tools and parallel calls decide what can be called."""
    assert made(await ask(client, "both", tools=[ADD])) == [("add", {"a": 1})]
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "add"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert made(await ask(client, "both", tool_choice=choice)) == [("add", {"a": 1})]
    assert made(await ask(client, "both", parallel_tool_calls=False)) == [("get_weather", CALLS[0]["arguments"])]
    assert (await ask(client, "both", tool_choice="none")).message.content == "It is sunny."


async def test_results_go_back(client: openai.AsyncOpenAI) -> None:
    """The message with the calls is sent back as it came, the results in any order."""
    said = (await ask(client, "both")).message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "x"} for call in reversed(said.tool_calls)]
    history = [{"role": "user", "content": "both"}, said.model_dump(exclude_none=True), *results]
    assert (await ask(client, history)).message.content == "It is sunny."
    with pytest.raises(openai.BadRequestError, match="did not have response messages"):
        await ask(client, history[:3])


async def test_broken_calls_are_text(client: openai.AsyncOpenAI) -> None:
    """A call whose arguments are not JSON is text, as written, and expects no result; if repaired, it is a call."""
    choice = await ask(client, "broken")
    assert (choice.message.content, choice.finish_reason) == (SCRIPT[1]["replies"][0], "stop")
    mended = await ask(client, "mended")
    assert (made(mended), mended.finish_reason) == ([("get_weather", {"city": r"C:\Users\a b"})], "tool_calls")


async def test_calls_of_tools_that_are_not_offered_reach_the_client(client: openai.AsyncOpenAI) -> None:
    """If no grammar restricts the names, a call of an unknown tool is a call, which the client can answer."""
    choice = await ask(client, "stranger")
    assert (made(choice), choice.message.content) == ([("W-get_it", {"city": "Paris"})], None)
    assert choice.finish_reason == "tool_calls"


async def pieces_of(client: openai.AsyncOpenAI, text: str, model: str, **fields: Any) -> tuple[str, list[str], str]:
    """The text of a streamed answer, the pieces of its calls' arguments, and its reason; all as in the whole answer."""
    asked = {"model": model, "messages": [{"role": "user", "content": text}], "tools": [WEATHER], "temperature": 0}
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, **fields, stream=True)]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    said = "".join(delta.content or "" for delta in deltas)
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    pieces = [call.function.arguments for call in calls if call.function and call.function.arguments]
    [reason] = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    whole = (await client.chat.completions.create(**asked, **fields)).choices[0]
    arguments = "".join(call.function.arguments for call in whole.message.tool_calls or ())
    assert (whole.message.content or "", arguments, whole.finish_reason) == (said, "".join(pieces), reason)
    return said, pieces, reason


async def test_a_call_that_is_cut_says_so(client: openai.AsyncOpenAI) -> None:
    """A stop string or `max_tokens` inside a call ends the answer with `length`: no call is closed, no mark shown."""
    said, pieces, reason = await pieces_of(client, "What is the weather in Paris?", "tiny", stop=["ri"])
    assert (said, "".join(pieces), reason) == ("", '{"city": "Pa', "length")
    for limit in range(1, 9):
        said, pieces, reason = await pieces_of(client, "What is the weather in Paris?", "tiny", max_tokens=limit)
        assert (said, reason) == ("", "length")
        assert not "".join(pieces).endswith("}")


async def test_arguments_stream_where_they_cannot_break(client: openai.AsyncOpenAI) -> None:
    """If a grammar keeps calls valid, or a script writes them, arguments come in pieces; otherwise all at once."""
    _, forced, _ = await pieces_of(client, "What is the weather in Paris?", "tiny", tool_choice="required")
    _, scripted, _ = await pieces_of(client, "both", "bytes")
    _, said, _ = await pieces_of(client, "stranger", "bytes")
    assert min(len(forced), len(scripted)) > 2
    assert len(said) == 1


async def test_the_deprecated_form(client: openai.AsyncOpenAI) -> None:
    """`functions` are answered with at most one `function_call`, and its result comes back with the role function."""
    functions = [WEATHER["function"]]
    asked: dict[str, Any] = {"model": "mock", "functions": functions, "messages": [{"role": "user", "content": "both"}]}
    choice = (await client.chat.completions.create(**asked)).choices[0]
    call = choice.message.function_call
    assert call is not None
    assert (call.name, json.loads(call.arguments)) == ("get_weather", CALLS[0]["arguments"])
    assert choice.finish_reason == "function_call"
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    calls = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert (calls[0].name, "".join(one.arguments or "" for one in calls)) == (call.name, call.arguments)
    asked["messages"] += [
        {"role": "assistant", "content": None, "function_call": call.model_dump()},
        {"role": "function", "name": call.name, "content": "sun"},
    ]
    assert (await client.chat.completions.create(**asked)).choices[0].message.content == "It is sunny."


async def test_thoughts_reach_the_client(client: openai.AsyncOpenAI) -> None:
    """Thoughts have their own field and count, and effort none leaves them out."""
    asked: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": "think"}]}
    answer = await client.chat.completions.create(**asked)
    assert shown(answer.choices[0]) == ["Yes.", "Is it so?"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert 3 <= (answer.usage.completion_tokens_details.reasoning_tokens or 0) < answer.usage.completion_tokens
    await ask(client, "think", tools=None)
    none = (await client.chat.completions.create(**asked, reasoning_effort="none")).choices[0]
    assert shown(none) == ["Yes.", None]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [ADD, ADD]}, "tools"),
        ({"tools": [tool(f"t{at}") for at in range(129)]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "string"}}}]},
         "tools[0].function.parameters"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
         "tool_choice.allowed_tools.tools"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"functions": [ADD["function"]]}, "functions"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
    ],
)
async def test_what_is_wrong_is_named(client: openai.AsyncOpenAI, fields: dict[str, Any], param: str) -> None:
    """Each fault in the parameters of tools is a 400 that names the field."""
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, "both", **fields)
    assert caught.value.param == param


async def test_a_real_model_calls_tools(client: openai.AsyncOpenAI) -> None:
    """tiny-chat calls one tool or two, other ones under other names, or none."""
    once = await ask(client, "What is the weather in Paris?", "tiny")
    assert made(once) == [("get_weather", {"city": "Paris"})]
    twice = await ask(client, "What is the weather in Paris and Berlin?", "tiny")
    assert made(twice) == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Berlin"})]
    assert made(await ask(client, "What is 3 plus 4?", "tiny")) == [("add", {"a": 3, "b": 4})]
    lookup = tool("lookup_weather", "location", description="Get the weather in a city.")
    other = await ask(client, "What is the weather in Paris?", "tiny", tools=[lookup])
    assert made(other) == [("lookup_weather", {"location": "Paris"})]
    hello = await ask(client, "Hi!", "tiny")
    assert (hello.message.content, hello.finish_reason) == ("Hello! How can I help you?", "stop")
    first = await ask(client, "What is the weather in Paris and Berlin?", "tiny", parallel_tool_calls=False)
    assert made(first) == [("get_weather", {"city": "Paris"})]
    cut = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "What is the weather in Paris?"}], tools=[WEATHER],
        temperature=0, max_tokens=9,
    )
    assert cut.choices[0].finish_reason == "length"


async def test_forced_calls_are_forced(client: openai.AsyncOpenAI) -> None:
    """`required`, and a named function, cause calls whatever the question, with arguments that keep to the schema."""
    schema = {
        "type": "object", "required": ["color", "count"], "additionalProperties": False,
        "properties": {"color": {"enum": ["red", "blue"]}, "count": {"type": "integer", "maximum": 9}},
    }
    paint = {"type": "function", "function": {"name": "paint", "parameters": schema}}
    named = {"type": "function", "function": {"name": "paint"}}
    for choice in ("required", named):
        tools = [paint] if choice == "required" else [WEATHER, paint]
        forced = await ask(client, "Hi!", "tiny", tools=tools, tool_choice=choice, parallel_tool_calls=False)
        [(name, arguments)] = made(forced)
        assert name == "paint"
        assert arguments["color"] in {"red", "blue"}
        assert arguments["count"] <= 9
        assert forced.finish_reason == "tool_calls"
        assert forced.message.content is None
    several = await ask(client, "What is the weather in Paris and Berlin?", "tiny", tool_choice="required")
    assert [arguments["city"] for _, arguments in made(several)] == ["Paris", "Berlin"]


async def test_calls_in_channels_are_forced(client: openai.AsyncOpenAI) -> None:
    """If the template has channels, forced calls and JSON come in theirs, and headers are not shown."""
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    forcing = {"tools": [{"type": "function", "function": {"name": "pick", "parameters": schema}}],
               "tool_choice": "required", "max_tokens": 99}
    forced = await ask(client, "Hi!", "channels", **forcing)
    [(name, arguments)] = made(forced)
    assert (name, forced.finish_reason, forced.message.content) == ("pick", "tool_calls", None)
    assert arguments["a"] in {1, 2}
    said = {**forced.message.model_dump(exclude_none=True), "content": "Wait.", "reasoning_content": "Hm."}
    result = {"role": "tool", "tool_call_id": forced.message.tool_calls[0].id, "content": "7"}
    again = await ask(client, [{"role": "user", "content": "Hi!"}, said, result], "channels", **forcing)
    assert again.message.tool_calls[0].id != forced.message.tool_calls[0].id
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    told = await ask(client, "Hi!", "channels", tools=None, response_format=wanted, max_tokens=99)
    assert json.loads(told.message.content)["a"] in {1, 2}


async def test_strict_tools_keep_to_their_schema(client: openai.AsyncOpenAI) -> None:
    """A strict tool is still called only if the model wants to; then its arguments keep to the schema."""
    lower = {"type": "object", "properties": {"city": {"enum": ["paris", "rome"]}}, "required": ["city"]}
    strict = {"type": "function", "function": {"name": "get_weather", "parameters": lower, "strict": True}}
    free = await ask(client, "Hi!", "tiny", tools=[strict])
    assert free.message.content == "Hello! How can I help you?"
    assert made(await ask(client, "What is the weather in Paris?", "tiny", tools=[strict])) in (
        [("get_weather", {"city": "paris"})], [("get_weather", {"city": "rome"})],
    )
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, "Hi!", "mock", tools=[strict])
    assert caught.value.param == "tools"
    wrong = tool("f", "a", kind="number")
    wrong["function"]["parameters"]["properties"]["a"]["frobnicate"] = 1
    wrong["function"]["strict"] = True
    with pytest.raises(openai.BadRequestError, match="frobnicate") as caught:
        await ask(client, "Hi!", "tiny", tools=[wrong], tool_choice="required")
    assert caught.value.param == "tool_choice"


class GetWeather(pydantic.BaseModel):
    """Get the weather in a city."""

    city: str


async def test_tools_that_are_classes(client: openai.AsyncOpenAI, url: str) -> None:
    """The client's own strict tools from pydantic classes are parsed into those, also by the synchronous client."""
    asked: dict[str, Any] = {
        "model": "tiny", "temperature": 0, "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [openai.pydantic_function_tool(GetWeather, name="get_weather")],
    }
    answer = await client.chat.completions.parse(**asked)
    [call] = answer.choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == GetWeather(city="Paris")

    def ask_in_sync() -> object:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sync:
            with sync.chat.completions.stream(**asked) as stream:
                names = [event.name for event in stream if event.type == "tool_calls.function.arguments.delta"]
                assert set(names) == {"get_weather"}
                [call] = stream.get_final_completion().choices[0].message.tool_calls or ()
            return call.function.parsed_arguments

    assert await asyncio.to_thread(ask_in_sync) == GetWeather(city="Paris")


async def test_langchain_calls_tools(url: str) -> None:
    """LangChain's agent loop works: bound tools are called, their results are read, forced choices are kept."""

    @langchain_core.tools.tool
    def get_weather(city: str) -> str:
        """Get the weather in a city."""
        return f"sunny, 21 degrees in {city}"

    chat = langchain_openai.ChatOpenAI(
        model="tiny", base_url=f"{url}/v1", api_key="none", temperature=0, max_retries=0,
    )
    history: list[Any] = [("user", "What is the weather in Paris?")]
    said = await chat.bind_tools([get_weather]).ainvoke(history)
    [call] = said.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = await get_weather.ainvoke(call)
    last = await chat.bind_tools([get_weather]).ainvoke([*history, said, result])
    assert last.content == "It is sunny in Paris, 21 degrees."
    chunks = [chunk async for chunk in chat.bind_tools([get_weather], tool_choice="any").astream(history)]
    whole = sum(chunks[1:], chunks[0])
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [("get_weather", {"city": "Paris"})]
    shaped = chat.with_structured_output(GetWeather, method="function_calling")
    assert await shaped.ainvoke(history) == GetWeather(city="Paris")


async def test_a_real_model_reads_results(client: openai.AsyncOpenAI) -> None:
    """The whole round: a question, a call, its result, an answer that uses it; concurrent rounds do not mix."""

    async def talk(city: str, weather: str) -> str:
        history: list[Any] = [{"role": "user", "content": f"What is the weather in {city}?"}]
        said = (await ask(client, history, "tiny", tools=[WEATHER])).message
        assert json.loads(said.tool_calls[0].function.arguments) == {"city": city}
        result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": weather}
        history += [said.model_dump(exclude_none=True), result]
        return str((await ask(client, history, "tiny", tools=[WEATHER])).message.content)

    given = {"Paris": "sunny, 21 degrees", "Berlin": '{"weather": "rainy", "temperature": 12}'}
    answers = await asyncio.gather(*(talk(*one) for one in given.items()))
    assert answers == ["It is sunny in Paris, 21 degrees.", "It is rainy in Berlin, 12 degrees."]


async def test_efforts_that_a_model_has_no_switch_for_are_refused(client: openai.AsyncOpenAI) -> None:
    """tiny-chat does not think: turning thoughts off is accepted, asking for them is refused."""
    asked: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi!"}], "temperature": 0}
    answer = await client.chat.completions.create(**asked, reasoning_effort="none")
    assert answer.choices[0].message.content == "Hello! How can I help you?"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**asked, reasoning_effort="high")
    assert caught.value.param == "reasoning_effort"
    variable = {"chat_template_kwargs": {"tools": []}}
    with pytest.raises(openai.BadRequestError, match="belongs to the server"):
        await client.chat.completions.create(**asked, extra_body=variable)
