"""Bodies as real clients send them, over HTTP: they are answered, and a header and the log name what is ignored."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import openai
import pytest
import pytest_asyncio
from serving_for_tests import serving

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

TINY = str(Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf")
THOUGHTFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
VECTORS: dict[str, Any] = {"embeddings": True, "pooling": "mean", "context_length": 64, "threads": 1}
LLAMA: dict[str, Any] = {"engine": "llamacpp", "file": TINY, "isolation": "thread"}  # threads start sooner
MODELS: dict[str, Any] = {
    "bot": {"engine": "mock", "options": {"script": [{"replies": ["one two three"]}]}},
    "endless": {
        "engine": "mock", "defaults": {"max_tokens": 5},
        "options": {"context_length": 40, "script": [{"replies": ["la"], "tokens": 1000}]},
    },
    "tiny": {**LLAMA, "options": {"context_length": 256, "threads": 1}},
    "thinker": {**LLAMA, "options": {"chat_template": THOUGHTFUL, "threads": 1}},
    "vectors": {**LLAMA, "options": VECTORS},
    "token-vectors": {**LLAMA, "options": {**VECTORS, "token_inputs": True}},
    "mock-token-vectors": {"engine": "mock", "options": {"token_inputs": True}},
}
SERVER = {"port": 0, "max_instances": 8, "cors_origins": ["https://page.example"]}
HI = [{"role": "user", "content": "Hi!"}]
CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HEADER = "x-lllms-ignored"
SCHEMA = {
    "type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    async with serving({"server": SERVER, "models": MODELS}) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield client


async def post(http: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> tuple[str, str | None]:
    """The text of an answer, whole or streamed, and its header."""
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        [choice] = answer.json()["choices"]
        return choice["message"]["content"] if path == CHAT else choice["text"], answer.headers.get(HEADER)
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    pieces = [choice for chunk in chunks for choice in chunk["choices"]]
    texts = [one["delta"].get("content") or "" if path == CHAT else one["text"] for one in pieces]
    return "".join(texts), answer.headers.get(HEADER)


CLIENTS: Mapping[str, tuple[dict[str, Any], str | None]] = {
    "Open WebUI": (
        {"chat_id": "c-1", "session_id": "s-1", "id": "m-1", "features": {"web_search": False}, "files": [],
         "stream_options": {"include_usage": True}, "metadata": {"user_id": None, "direct": False}},
        "chat_id, session_id, id, features, metadata",
    ),
    "litellm": (
        {"drop_params": True, "caching": False, "metadata": {"trace": {"id": 7}}, "user": "u", "extra_body": None},
        "drop_params, caching, metadata, user",
    ),
    "OpenRouter": (
        {"provider": {"order": ["a"], "allow_fallbacks": False}, "route": "fallback", "models": ["x/y"],
         "transforms": ["middle-out"], "usage": {"include": True}, "plugins": [], "session_id": "s"},
        "provider, route, models, transforms, usage, session_id",
    ),
    "vLLM": (
        {"top_k": -1, "min_tokens": 0, "stop_token_ids": [], "skip_special_tokens": True, "length_penalty": 1.0,
         "include_stop_str_in_output": False, "use_beam_search": False, "add_generation_prompt": True, "echo": False,
         "continue_final_message": False, "best_of": 1, "repetition_penalty": 1, "guided_json": None, "priority": 1},
        "priority",
    ),
    "llama.cpp": (
        {"cache_prompt": True, "id_slot": 0, "timings_per_token": True, "return_progress": True, "n_predict": -1,
         "tfs_z": 1, "top_n_sigma": -1, "dynatemp_range": 0, "repeat_last_n": 64, "samplers": [], "logit_bias": [],
         "reasoning_format": "auto", "response_format": {"type": "text"}},
        "id_slot, timings_per_token, return_progress",
    ),
    "LM Studio": ({"max_tokens": -1, "ttl": 60, "draft_model": "small"}, "draft_model"),
    "Ollama's options": (
        {"num_ctx": 8192, "num_batch": 512, "num_thread": 2, "num_gpu": 0, "use_mmap": True, "num_predict": -2,
         "keep_alive": "5m", "think": False, "format": "", "mirostat": 0, "repeat_penalty": 1.0},
        "num_ctx, num_batch, num_thread, num_gpu, use_mmap",
    ),
    "OpenAI": (
        {"service_tier": "flex", "store": True, "verbosity": "low", "prompt_cache_retention": "24h", "tool_choice":
         "none", "prediction": {"type": "content", "content": "one"}, "max_completion_tokens": 32_000,
         "stream_options": {"include_obfuscation": True}, "stop": [f"<{number}>" for number in range(12)]},
        "service_tier, store, verbosity, prompt_cache_retention, prediction",
    ),
    "nobody in particular": ({"temperature": 0, "service_tier": "auto", "store": False, "n": 1}, None),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("model", ["bot", "tiny"])
async def test_clients_are_answered(http: httpx.AsyncClient, model: str, client: str, stream: bool) -> None:
    """Extra fields of clients are no reason to refuse; the answer is that of the plain request, and names them."""
    extra, named = CLIENTS[client]
    options = extra.get("stream_options", {})
    outside = [] if stream or not options else ["stream_options"]
    inside = [f"stream_options.{name}" for name in options if stream and name != "include_usage"]
    body = {"model": model, "messages": HI, "temperature": 0, "stream": stream}
    plain, nothing = await post(http, CHAT, body)
    text, header = await post(http, CHAT, {**body, **extra})
    if named and model == "tiny":  # its engine makes use of this one
        named = named.removesuffix(", prediction")
    expected = ", ".join([*outside, *inside, *([named] if named else [])]) or None
    assert (text, header, nothing) == (plain, expected, None)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_texts_and_vectors_name_it_too(http: httpx.AsyncClient, stream: bool) -> None:
    """Completions of texts and embeddings have the header, too."""
    body = {"model": "bot", "prompt": "x", "num_ctx": 9, "store": True, "stream": stream, "n_predict": 2}
    assert await post(http, TEXT, body) == ("one two", "num_ctx, store")
    answer = await http.post(EMBED, json={"model": "bot", "input": "x", "keep_alive": "5m", "user": "me"})
    assert (answer.status_code, answer.headers[HEADER]) == (200, "keep_alive, user")


async def test_pages_may_read_the_header(http: httpx.AsyncClient) -> None:
    """A browser shows the header to a web page of an allowed origin."""
    answer = await http.post(
        CHAT, json={"model": "bot", "messages": HI, "num_ctx": 1}, headers={"Origin": "https://page.example"},
    )
    assert HEADER in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(("model", "most", "tokens"), [
    ("endless", None, 5), ("endless", 32_000, 39), ("endless", -1, 39), ("endless", 39, 39), ("endless", 38, 38),
])
async def test_the_limit_is_an_upper_bound(http: httpx.AsyncClient, model: str, most: int | None, tokens: int) -> None:
    """A limit beyond the context means all that fits, and the answer ends with `length`; -1 lifts even the model's."""
    answer = (await http.post(TEXT, json={"model": model, "prompt": "x", "max_tokens": most})).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (tokens, "length")


async def test_a_text_of_any_limit_by_another_name(http: httpx.AsyncClient) -> None:
    """The default of 16 tokens for /completions is for requests that set no limit, under any name."""
    for name in ("max_tokens", "max_new_tokens", "n_predict", "num_predict"):
        body = {"model": "tiny", "prompt": "Once", "ignore_eos": True, "temperature": 0, name: 21}
        assert (await http.post(TEXT, json=body)).json()["usage"]["completion_tokens"] == 21
    body = {"model": "tiny", "prompt": "Once", "ignore_eos": True, "n_predict": -1}
    usage = (await http.post(TEXT, json=body)).json()["usage"]
    assert usage["total_tokens"] == 256
    body = {"model": "tiny", "prompt": "Once " * 300, "max_tokens": 1}
    error = (await http.post(TEXT, json=body)).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


CHOICES = ["Paris", 'a "quoted"\nline', "back\\slash", "\N{GRINNING FACE} übel"]
FORMS: list[tuple[dict[str, Any], list[str]]] = [
    *(({"guided_choice": [choice]}, [choice]) for choice in CHOICES),
    ({"guided_choice": CHOICES}, CHOICES), ({"structured_outputs": {"choice": CHOICES}}, CHOICES),
    ({"guided_regex": "[ab]{2}"}, ["aa", "ab", "ba", "bb"]), ({"guided_grammar": 'root ::= "yes"'}, ["yes"]),
]


@pytest.mark.parametrize(("form", "texts"), FORMS)
async def test_other_servers_forms_are_kept(http: httpx.AsyncClient, form: dict[str, Any], texts: list[str]) -> None:
    """An answer is one of the choices that vLLM's parameters allow, on both routes."""
    for path, said in ((CHAT, {"messages": HI}), (TEXT, {"prompt": "x"})):
        text, header = await post(http, path, {"model": "tiny", "max_tokens": 40, **said, **form})
        assert (text in texts, header) == (True, None)


@pytest.mark.parametrize("form", [
    {"guided_json": SCHEMA}, {"guided_json": json.dumps(SCHEMA)}, {"format": SCHEMA},
    {"structured_outputs": {"json": SCHEMA}}, {"response_format": {"type": "json_object", "schema": SCHEMA}},
])
async def test_other_servers_schemas_are_kept(http: httpx.AsyncClient, form: dict[str, Any]) -> None:
    """The same holds for the schemas of vLLM, Ollama and llama.cpp."""
    body = {"model": "tiny", "messages": HI, "temperature": 0, "max_tokens": 40, **form}
    text, _ = await post(http, CHAT, body)
    assert json.loads(text)["a"] in {1, 2}


@pytest.mark.parametrize(("said", "thoughtless"), [
    ({"think": False}, True), ({"enable_thinking": False}, True), ({"thinking": {"type": "disabled"}}, True),
    ({"reasoning": {"effort": "none"}}, True), ({"reasoning_budget": 0}, True), ({"think": True}, False),
    ({"thinking": {"type": "enabled", "budget_tokens": 9}}, False), ({"reasoning": {"enabled": True}}, False),
    ({"thinking": {"type": "adaptive"}}, False),
])
async def test_thoughts_are_switched_by_any_name(
    http: httpx.AsyncClient, said: dict[str, Any], thoughtless: bool,
) -> None:
    """Each of the switches sets the variable of the model's template: its prompt has as many tokens as with ours."""
    body = {"model": "thinker", "messages": HI, "max_tokens": 1}
    effort = {"reasoning_effort": "none"} if thoughtless else {}
    ours, theirs = [(await http.post(CHAT, json={**body, **one})).json()["usage"] for one in (effort, said)]
    plain = (await http.post(CHAT, json=body)).json()["usage"]
    assert ours["prompt_tokens"] == theirs["prompt_tokens"]
    assert (ours["prompt_tokens"] > plain["prompt_tokens"]) is thoughtless


@pytest.mark.parametrize(("body", "param", "code"), [
    ({"colour": "red"}, "colour", "unknown_parameter"), ({"min_tokens": 5}, "min_tokens", "unsupported_parameter"),
    ({"banned_strings": ["x"]}, "banned_strings", "unsupported_parameter"), ({"think": True}, "reasoning_effort", None),
    ({"samplers": ["top_k"]}, "samplers", "unsupported_parameter"), ({"thinking": 1}, "thinking", "invalid_type"),
    ({"max_tokens": 5, "num_predict": 6}, "num_predict", "invalid_value"),
    ({"stop": ["x"] * 65}, "stop", "array_above_max_length"),
    ({"reasoning_budget": 100}, "reasoning_budget", "unsupported_parameter"),
    ({"stream_options": {"colour": 1}}, "stream_options.colour", "unknown_parameter"),
])
async def test_what_asks_for_another_answer_is_refused(
    http: httpx.AsyncClient, body: dict[str, Any], param: str, code: str | None,
) -> None:
    """Unknown names, parameters for text that the model would not write, and contradictions are still refused."""
    answer = await http.post(CHAT, json={"model": "tiny", "messages": HI, **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code or "unsupported_parameter")
    assert HEADER not in answer.headers


async def test_tokens_are_embedded_only_where_they_are_the_models_own(http: httpx.AsyncClient, url: str) -> None:
    """Ids are refused with LangChain's flag and the option that allows them; then they mean the same as their text."""
    told = await http.post("/api/v1/tokenize", json={"model": "vectors", "text": "Hello there!"})
    tokens = told.json()["tokens"]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for model in ("vectors", "bot"):
            for given in (tokens, [tokens]):
                with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as raised:
                    await client.embeddings.create(model=model, input=given)
                assert raised.value.param == "input"
                assert "options.token_inputs = true" in raised.value.message
        texts = await client.embeddings.create(model="token-vectors", input="Hello there!")
        ids = await client.embeddings.create(model="token-vectors", input=tokens)
        assert texts.data[0].embedding == pytest.approx(ids.data[0].embedding, abs=1e-5)
        assert (await client.embeddings.create(model="mock-token-vectors", input=[104, 105])).data


async def test_the_table_of_a_model_has_four_verdicts(http: httpx.AsyncClient) -> None:
    """`GET /v1/models/{id}` says how each name is handled, other servers' included."""
    table = (await http.get("/v1/models/tiny")).json()["parameters"]["/chat/completions"]
    wanted = {"repetition_penalty": "honoured", "n_predict": "emulated", "num_ctx": "named", "min_tokens": "refused"}
    assert {name: table[name] for name in wanted} == wanted
    assert set(table.values()) == {"honoured", "emulated", "named", "refused"}


async def test_the_log_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each model and set of names, without any content from the client."""
    config = {"server": {"port": 0, "unknown_parameters": "name"}, "models": {"bot": MODELS["bot"]}}
    with caplog.at_level(logging.INFO, "lllms.requests"):
        async with serving(config) as url, httpx.AsyncClient(base_url=url) as http:
            for extra in ({"num_ctx": 1, "verbosity": "low"}, {"verbosity": "high", "num_ctx": 2}, {"my secret": 1}):
                await post(http, CHAT, {"model": "bot", "messages": HI, **extra})
    lines = [record.getMessage() for record in caplog.records if record.name == "lllms.requests"]
    lines = [line for line in lines if not line.startswith("request ")]
    assert lines == [
        "parameters of requests for bot that have no effect: num_ctx, verbosity",
        "parameters of requests for bot that have no effect: 1 that the server does not know",
    ]


async def test_names_of_clients_own_are_safe_in_the_header() -> None:
    """With `unknown_parameters = "name"` any name is answered; invalid names, and those beyond a limit, are counted."""
    config = {"server": {"port": 0, "unknown_parameters": "name"}, "models": {"bot": MODELS["bot"]}}
    async with serving(config) as url, httpx.AsyncClient(base_url=url) as http:
        for names, header in (
            (["colour", "num_ctx"], "colour, num_ctx"), (["a\r\nSet-Cookie: x", "b"], "b, 1 more"),
            (["ü", "x" * 100_000, ""], "3 more"),
            ([f"n{number}" for number in range(50)], ", ".join([*(f"n{number}" for number in range(20)), "30 more"])),
        ):
            for stream in (False, True):
                body = {"model": "bot", "messages": HI, "stream": stream, **dict.fromkeys(names, 1)}
                assert await post(http, CHAT, body) == ("one two three", header)
        answer = await http.post(EMBED, json={"model": "bot", "input": "x", "input_type": "query"})
        assert answer.headers[HEADER] == "input_type"
