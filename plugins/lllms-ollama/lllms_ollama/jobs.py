"""The requests of `/api/chat` and `/api/generate`: what a client wants, as values of the core; pure but for checks."""

from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from lllms_core.apis import ModelCard, Server
from lllms_core.errors import UnsupportedParameter
from lllms_core.parameters.kinds import Flag, Integer
from lllms_core.parameters.wording import unsupported
from lllms_core.queries import Prepared
from lllms_core.types import Message
from lllms_ollama.members import (
    joined,
    take_flag,
    take_idle_time,
    take_list,
    take_name,
    take_options,
    take_others,
    take_string,
)
from lllms_ollama.messages import parts_of, read_images, read_messages
from lllms_ollama.names import find_model

MOST_SCORES = 20
_CHAT = frozenset({"format", "think", "tools", "tool_choice", "logprobs", "top_logprobs"})
_GENERATE = frozenset({"format", "think", "logprobs", "top_logprobs"})
_BOUNDS = ("truncate", "shift")
"""What Ollama drops of a prompt that is too long; here such a prompt is refused."""


@frozen
class Job:
    """What a client wants of a model."""

    name: str
    """As the client wrote it."""
    card: ModelCard
    stream: bool
    request: Prepared | None
    """None: only load the model, or unload it."""
    ttl: float | None
    """Idle seconds until the model is unloaded; 0 without a request: at once."""
    plain: Callable[[], Prepared] | None = None
    """Makes the request for a model without a chat template, where that is possible."""
    thinking: Callable[[], Prepared] | None = None
    """Makes the request for a model that always thinks, if it asks for an answer without thoughts."""


def read_chat(server: Server, values: dict[str, object]) -> Job:
    """Read the members of `POST /api/chat`. Raises `LllmsError`."""
    name = take_name(values)
    card = find_model(server, name)
    stream, ttl = take_flag(values, "stream", default=True), take_idle_time(values)
    messages = read_messages(take_list(values, "messages"))
    parameters, unused = _parameters(values, _CHAT, ttl)
    if not messages:
        return Job(name, card, stream, None, ttl)
    made, thinking = _chats(server, card, messages, parameters, unused)
    return Job(name, card, stream, made, ttl, thinking=thinking)


def read_generate(server: Server, values: dict[str, object]) -> Job:
    """Read the members of `POST /api/generate`. Raises `LllmsError`."""
    name = take_name(values)
    card = find_model(server, name)
    stream, ttl = take_flag(values, "stream", default=True), take_idle_time(values)
    prompt, suffix, system = (take_string(values, one) for one in ("prompt", "suffix", "system"))
    raw = take_flag(values, "raw", default=False)
    images = read_images(values.pop("images", None), "images")
    if take_string(values, "template"):
        raise UnsupportedParameter(
            "'template' is not supported: the model's own is used; leave it out, or send a finished prompt with 'raw': "
            "true", "template", "unsupported_parameter",
        )
    context = take_list(values, "context")
    parameters, unused = _parameters(values, _GENERATE, ttl)
    if context:
        unused.append("context")
    if not prompt and not suffix and not images:
        return Job(name, card, stream, None, ttl)

    def text() -> Prepared:
        asked = _of_text(parameters)
        given = {"suffix": suffix, **asked} if suffix else asked
        return server.prepare(server.request(card.name, prompt=prompt, parameters=given, unused=unused))

    if raw or suffix:
        why = "'raw'" if raw else "'suffix'"
        for member, value in (("system", system), ("images", images)):
            if value:
                raise unsupported(member, by=f"a request with {why}, whose prompt is not put into a template")
        return Job(name, card, stream, text(), ttl)
    said = ([Message("system", system)] if system else []) + [
        Message("user", prompt, parts=parts_of(prompt, images)),
    ]
    made, thinking = _chats(server, card, said, parameters, unused)
    return Job(name, card, stream, made, ttl, None if system or images else text, thinking)


def _chats(
    server: Server, card: ModelCard, messages: Sequence[Message], parameters: Mapping[str, object],
    unused: Sequence[str],
) -> tuple[Prepared, Callable[[], Prepared] | None]:
    """Return the request for a chat, and what makes the one that allows thoughts, if this one does not.

    `think: false` has no effect on a model that always thinks, as in Ollama: clients send it to any model.
    """
    def allowing() -> Prepared:
        rest = {name: value for name, value in parameters.items() if name != "think"}
        return server.prepare(
            server.request(card.name, messages=messages, parameters=rest, unused=[*unused, "think"]),
        )

    silent = parameters.get("think") is False
    if silent and "reasoning_effort" not in card.parameters:
        return allowing(), None
    made = server.prepare(server.request(card.name, messages=messages, parameters=parameters, unused=unused))
    return made, allowing if silent else None


def _parameters(
    values: dict[str, object], known: frozenset[str], ttl: float | None,
) -> tuple[dict[str, object], list[str]]:
    """Take the rest of the members: the parameters of a chat, and the names of those without effect."""
    options, unused = take_options(values)
    unused += [name for name in _BOUNDS if name in values]
    for name in _BOUNDS:
        values.pop(name, None)
    others = take_others(values, known)
    if others.get("top_logprobs") == 0:
        del others["top_logprobs"]  # also allowed without 'logprobs'
    if ttl is not None:
        others["ttl"] = ttl
    return joined(options, others), unused


def _of_text(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters for a request without a template. Raises `UnsupportedParameter` for thinking."""
    asked = dict(parameters)
    if asked.pop("think", False) not in {False, "none"}:
        raise unsupported("think", "false", by="a request whose prompt is not put into a template")
    scored = Flag().check("logprobs", asked.pop("logprobs", False))
    most = Integer(0, MOST_SCORES).check("top_logprobs", asked.pop("top_logprobs", 0))
    return {**asked, "logprobs": most} if scored else asked
