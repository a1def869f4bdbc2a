"""From the JSON of a request to what the host is asked for: nothing is ignored, and each fault has its `param`."""

import json
from collections.abc import Collection, Mapping
from typing import cast

from attrs import evolve, frozen

from lllms_core.builtin.openai.messages import read_messages
from lllms_core.builtin.openai.values import missing, unknown, unsupported, wrong_type
from lllms_core.errors import InvalidRequest
from lllms_core.parameters import PARAMETERS
from lllms_core.types import Message


@frozen
class Completion:
    """A completion as a client asks for it: a chat (`messages`) or a text to continue (`prompt`)."""

    model: str
    parameters: Mapping[str, object]
    """Those that say how to generate; their values are not checked yet."""
    messages: tuple[Message, ...] | None
    prompt: str | None
    stream: bool
    include_usage: bool


HARMLESS: Mapping[str, Mapping[str, type]] = {
    "chat": {"user": str, "metadata": dict, "safety_identifier": str, "prompt_cache_key": str},
    "text": {"user": str},
}
"""Parameters that say nothing about the answer: name -> type. They are checked and not used."""

NOTHING: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "chat": {
        "audio": (),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "logit_bias": ({},),
        "logprobs": (False,),
        "modalities": (["text"],),
        "moderation": (),
        "n": (1,),
        "parallel_tool_calls": (True, False),
        "prediction": (),
        "prompt_cache_options": ({},),
        "prompt_cache_retention": ("in_memory",),
        "reasoning_effort": (),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    "text": {"best_of": (1,), "echo": (False,), "logit_bias": ({},), "logprobs": (), "n": (1,), "suffix": ("",)},
}
"""OpenAI's parameters that are not built yet, with the values that ask for nothing and are therefore taken; null, which
means that a parameter is left out, always is."""


def read_chat(body: bytes) -> Completion:
    """Read the body of `POST /chat/completions`. Raises `RequestError`."""
    values = _read_object(body)
    messages = read_messages(_take(values, "messages"))
    return _read_rest("chat", values, messages, None)


def read_text(body: bytes) -> Completion:
    """Read the body of `POST /completions`. Raises `RequestError`."""
    values = _read_object(body)
    prompt = _take(values, "prompt")
    if isinstance(prompt, list):
        raise unsupported("prompt", "one string")
    if not isinstance(prompt, str):
        raise wrong_type("prompt", "a string", prompt)
    return _read_rest("text", values, None, prompt)


def _read_object(body: bytes) -> dict[str, object]:
    """Return the members of the body that say something: those that are null are left out."""
    try:
        # Decoded here, for json.loads would let half a character through.
        values = json.loads(body.decode(), parse_constant=_refuse_constant)
        if b"\\u" in body:
            # Escapes can spell one, too.
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidRequest(f"the body is not valid JSON: {reason}", None, "invalid_json") from error
    if not isinstance(values, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {json.dumps(values)[:50]}", None, "invalid_json")
    return {name: value for name, value in values.items() if value is not None}


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number in JSON")


def _take(values: dict[str, object], name: str) -> object:
    if name not in values:
        raise missing(name)
    return values.pop(name)


def _read_rest(
    task: str, values: dict[str, object], messages: tuple[Message, ...] | None, prompt: str | None,
) -> Completion:
    model = _take(values, "model")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    stream = _read_flag("stream", values.pop("stream", False))
    include_usage = _read_stream_options(values.pop("stream_options", None), stream=stream)
    if task == "chat":
        _merge_limits(values)
    _check_others(task, values)
    parameters = {name: value for name, value in values.items() if name in PARAMETERS}
    return Completion(model, parameters, messages, prompt, stream, include_usage)


def _read_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def _read_stream_options(options: object, *, stream: bool) -> bool:
    """Return whether token counts are wanted."""
    if options is None:
        return False
    if not isinstance(options, dict):
        raise wrong_type("stream_options", "an object", options)
    if not stream:
        raise InvalidRequest("'stream_options' is only allowed with 'stream': true", "stream_options", "invalid_value")
    wanted = {name: value for name, value in cast("dict[str, object]", options).items() if value is not None}
    for name in wanted.keys() - {"include_usage", "include_obfuscation"}:
        raise unknown(f"stream_options.{name}")
    if _read_flag("stream_options.include_obfuscation", wanted.get("include_obfuscation", False)):
        raise unsupported("stream_options.include_obfuscation", "false")
    return _read_flag("stream_options.include_usage", wanted.get("include_usage", False))


def _merge_limits(values: dict[str, object]) -> None:
    """Let `max_tokens` stand for `max_completion_tokens`, its new name, too."""
    new_name = "max_completion_tokens"
    if new_name not in values:
        return
    limit = evolve(PARAMETERS["max_tokens"], name=new_name).check(values.pop(new_name))
    if values.setdefault("max_tokens", limit) != limit:
        raise InvalidRequest(f"'max_tokens' and '{new_name}' differ; give one of them", new_name, "invalid_value")


def _check_others(task: str, values: Mapping[str, object]) -> None:
    """Refuse whatever asks for something that is not done."""
    for name, value in values.items():
        if name in PARAMETERS:
            continue
        if name in HARMLESS[task]:
            kind = HARMLESS[task][name]
            if not isinstance(value, kind):
                raise wrong_type(name, "a string" if kind is str else "an object", value)
        elif name not in NOTHING[task]:
            raise unknown(name)
        elif not _is_one_of(value, NOTHING[task][name]):
            raise unsupported(name, *(json.dumps(allowed) for allowed in NOTHING[task][name]))


def _is_one_of(value: object, allowed: Collection[object]) -> bool:
    # True == 1 in Python, and not in JSON.
    return any(type(value) is type(one) and value == one for one in allowed)
