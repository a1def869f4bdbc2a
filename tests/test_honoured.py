"""Each parameter that an engine declares changes a seeded answer: what is published as honoured is honoured."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import lllms_llamacpp
import pytest
import pytest_asyncio
from attrs import frozen
from waits_for_tests import GUARD

from lllms_core.config import parse_config
from lllms_core.errors import EngineFailed, UnsupportedParameter
from lllms_core.host import Host
from lllms_core.parameters import ROUTES
from lllms_core.plugins import Plugins
from lllms_core.types import Message

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

TINY = str(Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf")
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] if m.role == 'assistant' "
    "else m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MODELS: Mapping[str, Mapping[str, Any]] = {
    "mock": {"engine": "mock", "options": {"slots": 4, "script": [
        {"when": "weather", "calls": [{"name": "get_weather"}, {"name": "get_weather"}]},
        {"when": "think", "thinks": "Hm.", "replies": ["Yes."]},
    ]}},
    "llamacpp": {"engine": "llamacpp", "file": TINY, "options": {"threads": 1, "slots": 4}},
    "gpt4all": {"engine": "gpt4all", "file": TINY, "options": {"threads": 1}},
    "llamacpp-thinking": {"engine": "llamacpp", "file": TINY, "options": {"threads": 1, "chat_template": THINKING}},
    "gpt4all-thinking": {"engine": "gpt4all", "file": TINY, "options": {"threads": 1, "chat_template": THINKING}},
}
TRAINED = ("llamacpp", "gpt4all")
ENGINES = ("mock", *TRAINED)
STORY, BANANA, WEATHER, PING = "Tell me a story.", "Say banana.", "What is the weather in Paris?", "ping"
FUNCTION = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}

WILD = {"temperature": 1.3, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
GREEDY = {"temperature": 0}
DRY = {**GREEDY, "dry_multiplier": 100.0, "dry_allowed_length": 1}
TOOLS = {**GREEDY, "tools": [TOOL], "max_tokens": 90}


@frozen
class Case:
    """A value of a parameter that must change the answers to a prompt."""

    value: object
    base: Mapping[str, object] = WILD
    text: str = STORY
    chat: bool = True
    thinking: bool = False
    """Whether it needs a model that thinks."""
    may_fail: bool = False
    """Whether the model may refuse it or fail, because it acts on the parameter but lacks what that needs."""


CASES: Mapping[str, Case] = {
    "temperature": Case(0),
    "seed": Case(99),
    "top_k": Case(1),
    "top_p": Case(0.01),
    "min_p": Case(1.0),
    "typical_p": Case(0.1),
    "xtc_probability": Case(1.0, {**WILD, "xtc_threshold": 0.001}),
    "xtc_threshold": Case(0.001, {**WILD, "xtc_probability": 1.0, "xtc_threshold": 0.5}),
    "mirostat": Case(2),
    "mirostat_tau": Case(0.2, {**WILD, "mirostat": 2}),
    "mirostat_eta": Case(1.0, {**WILD, "mirostat": 2, "mirostat_tau": 1.0}),
    "repeat_penalty": Case(2.0, GREEDY),
    "frequency_penalty": Case(2.0, GREEDY),
    "presence_penalty": Case(2.0, GREEDY),
    "dry_multiplier": Case(100.0, {**DRY, "dry_multiplier": 0.0}, BANANA),
    "dry_base": Case(100.0, {**DRY, "dry_multiplier": 1.0, "dry_base": 1.0}, BANANA),
    "dry_allowed_length": Case(20, DRY, BANANA),
    "dry_penalty_last_n": Case(0, DRY, BANANA),
    "dry_sequence_breakers": Case(["ban", "ana", "an", "a"], DRY, BANANA),
    "logit_bias": Case({"300": 100}, GREEDY),
    "ignore_eos": Case(True, GREEDY, PING),
    "n": Case(2),
    "best_of": Case(4, chat=False),
    "logprobs": Case(True),
    "top_logprobs": Case(2, {**WILD, "logprobs": True}),
    "echo": Case(True, {**WILD, "logprobs": 0}, chat=False),
    "suffix": Case("the end", chat=False, may_fail=True),
    "input_extra": Case([{"text": "the end"}], chat=False, may_fail=True),
    "prediction": Case({"type": "content", "content": "Once upon a time"}),
    "tools": Case([TOOL], GREEDY, WEATHER),
    "tool_choice": Case("none", TOOLS, WEATHER),
    "parallel_tool_calls": Case(False, TOOLS, f"{WEATHER} What is the weather in Rome?"),
    "functions": Case([FUNCTION], GREEDY, WEATHER),
    "function_call": Case("none", {**GREEDY, "functions": [FUNCTION]}, WEATHER),
    "response_format": Case({"type": "json_object"}, GREEDY, may_fail=True),
    "json_schema": Case(SCHEMA, GREEDY, may_fail=True),
    "grammar": Case('root ::= "x"', GREEDY),
    "format": Case(SCHEMA, GREEDY, may_fail=True),
    "guided_json": Case(SCHEMA, GREEDY, may_fail=True),
    "guided_regex": Case("x{3}", GREEDY),
    "guided_choice": Case(["x", "y"], GREEDY),
    "guided_grammar": Case('root ::= "x"', GREEDY),
    "structured_outputs": Case({"json": SCHEMA}, GREEDY, may_fail=True),
    "reasoning_effort": Case("none", GREEDY, "Do you think so?", thinking=True),
    "chat_template_kwargs": Case({"enable_thinking": False}, GREEDY, "Do you think so?", thinking=True),
}

WITHOUT_EFFECT = {("mock", "min_p"), ("gpt4all", "parallel_tool_calls"), ("llamacpp", "prediction")}
"""Declared, and without a value that could change anything: the mock's replies are equally likely, and `min_p` keeps
equals; tiny-chat writes one call per answer, and in gpt4all, which has no grammar, all of it counts either way; a
prediction changes the speed of an answer alone (`test_llamacpp_drafts.py`)."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host() -> AsyncIterator[Host]:
    async with Host(parse_config({"server": {"concurrency": 16, "max_instances": 5}, "models": MODELS})) as host:
        yield host


async def answers(host: Host, model: str, case: Case, parameters: Mapping[str, object]) -> list[object]:
    """The model's answers with a few seeds; each prompt is evaluated anew, as reuse changes the last digits."""
    found: list[object] = []
    for seed in (1, 2, 3, 4):
        asked = {"max_tokens": 24, "seed": seed, "cache_prompt": False, **parameters}
        if "seed" not in host.catalog.get(model).engine.parameters:
            del asked["seed"]
        request = host.request(
            model, parameters=asked,
            **{"messages": [Message("user", case.text)]} if case.chat else {"prompt": case.text},  # type: ignore[arg-type]
        )
        try:
            async with asyncio.timeout(GUARD), host.submit(request) as stream:
                deltas = [delta async for delta in stream]
        except (UnsupportedParameter, EngineFailed) as error:
            found.append(type(error))
            continue
        finish = deltas[-1].finish
        assert finish is not None
        texts = ["".join(delta.text for delta in deltas if delta.index == index) for index in range(request.n)]
        calls = [piece.name for delta in deltas for piece in delta.calls if piece.name]
        scores = [(score.piece, len(score.top)) for delta in deltas for score in delta.scores]
        told = [len(delta.prompt_scores.rest) for delta in deltas if delta.prompt_scores is not None]
        thoughts = "".join(delta.reasoning for delta in deltas)
        found.append((texts, thoughts, calls, scores, told, finish.reason, finish.usage))
    return found


def honoured() -> list[tuple[str, str]]:
    engines = {name: one.object for name, one in Plugins.discover().engines.items()}
    asked = ROUTES["chat"].keys() | ROUTES["text"].keys()
    return [(engine, name) for engine in ENGINES for name in sorted(engines[engine].parameters & asked)]


@pytest.fixture(scope="module")
def plain() -> dict[object, list[object]]:
    """The first answers without the parameter of a case; several cases share them."""
    return {}


@pytest.mark.parametrize(("engine", "name"), honoured())
async def test_each_declared_parameter_changes_an_answer(
    host: Host, plain: dict[object, list[object]], engine: str, name: str,
) -> None:
    """With the same seeds, answers differ by the value of a parameter that their engine declares, and by that alone."""
    assert name in CASES, f"{engine} declares '{name}': CASES needs a value of it that changes an answer"
    case = CASES[name]
    known = host.catalog.get(engine).engine.parameters
    base = {key: value for key, value in case.base.items() if key in known}
    model = f"{engine}-thinking" if case.thinking and engine in TRAINED else engine
    key = (model, case.text, case.chat, json.dumps(base))
    if key not in plain:
        plain[key] = await answers(host, model, case, base)
    changed = await answers(host, model, case, {**base, name: case.value})
    assert await answers(host, model, case, base) == plain[key], "the answers differ by themselves"
    same = changed == plain[key]
    found = f"{engine} declares '{name}', and {case.value!r} changes {'nothing' if same else 'an answer'}"
    assert same == ((engine, name) in WITHOUT_EFFECT), found
    assert not any(isinstance(one, type) for one in (plain[key] if case.may_fail else [*plain[key], *changed]))
