"""Turn the JSON of `/completion` and `/infill` into requests: what asks for another text is honoured or refused.

llama-server ignores the names that it does not know, and some clients send the parameters of all servers at once: such
names are accepted here, too, and the answer names them.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from attrs import evolve, field, fields, frozen

from lllms_compat.prompts import Prompt
from lllms_compat.samplers import read_samplers
from lllms_core.apis import ModelCard, Server
from lllms_core.errors import InvalidRequest
from lllms_core.parameters import ROUTES
from lllms_core.parameters.excerpts import Excerpts
from lllms_core.parameters.kinds import INT32, INT64, Flag, Integer, Strings
from lllms_core.parameters.wording import missing, unsupported, wrong_type
from lllms_core.types import Sampling, TextRequest, new_request_id

LINES = ROUTES["text"]
PASSED = frozenset(attribute.name for attribute in fields(Sampling)) | {
    "ttl", "timeout", "cache_prompt", "grammar", "json_schema",
}
"""Our own parameters that have the same name and meaning here."""
LIMITS = ("n_predict", "max_tokens", "num_predict", "max_new_tokens")
"""The names of the token limit; the first that is given counts."""
RANDOM = (-1, 2**32 - 1)
"""Seeds that ask for a random one."""
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "t_max_prompt_ms": (0, -1), "n_discard": (0,), "min_keep": (0,), "return_tokens": (False,),
}
"""Members without effect, with the values that ask for nothing; `t_max_prompt_ms` has none in llama-server either."""
IDLE: Mapping[str, tuple[int, Sequence[str]]] = {
    "repeat_penalty": (1, ("repeat_last_n",)), "xtc_probability": (0, ("xtc_threshold",)),
    "dry_multiplier": (0, ("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers")),
    "mirostat": (0, ("mirostat_tau", "mirostat_eta")),
}
"""Parameters with the value that turns each off, and those that then say nothing."""
MOST_PROBABILITIES = 20
MOST_FIELDS = 100


@frozen
class Asked:
    """A client's request, checked: a `TextRequest` for each prompt."""

    requests: tuple[TextRequest, ...]
    several: bool = False
    """Whether the answer is an array."""
    stream: bool = False
    fields: tuple[str, ...] | None = None
    """The fields of the answer to return, as paths; None: all."""
    indent: int = 0
    """The answer ends before a line, after its first, that is indented less."""
    seconds: float | None = None
    """The answer ends this long after its beginning, once it has a whole line."""

    @property
    def first(self) -> TextRequest:
        """The first request; the others differ only in their prompts."""
        return self.requests[0]


@frozen
class _Read:
    parameters: dict[str, object] = field(factory=dict)
    unused: list[str] = field(factory=list)


def read_infill(server: Server, card: ModelCard, prompt: Prompt, values: dict[str, object]) -> Asked:
    """Read the body of `/infill`, without its model; `prompt` is the text right before the gap. Raises `LllmsError`.

    The members are removed from `values`.
    """
    before, after = _text(values, "input_prefix"), _text(values, "input_suffix")
    if before is None and after is None:
        raise missing("input_prefix")
    if not isinstance(prompt, str):
        raise wrong_type("prompt", "a string", list(prompt))
    given = values.pop("input_extra", [])
    extra = Excerpts().check("input_extra", given)
    asked = _read(server, card, [(before or "") + prompt], values, {"input_extra": given} if extra else {})
    request = evolve(asked.first, suffix=after or "", input_extra=extra)
    return evolve(asked, requests=(request,))


def read_completion(
    server: Server, card: ModelCard, prompts: Sequence[Prompt], values: dict[str, object],
) -> Asked:
    """Read the body of `/completion`, without its model and prompts. Raises `LllmsError`."""
    asked = _read(server, card, prompts, values)
    if len(prompts) == 1:
        return asked
    if asked.stream:
        raise InvalidRequest("several prompts cannot be streamed; send them in several requests", "stream")
    vain = {"n_indent": asked.indent, "t_max_predict_ms": asked.seconds}
    unused = (*asked.first.unused, *(name for name, value in vain.items() if value))
    return evolve(asked, several=True, requests=tuple(evolve(one, unused=unused) for one in asked.requests))


def _read(
    server: Server, card: ModelCard, prompts: Sequence[Prompt], values: dict[str, object],
    more: Mapping[str, object] = {},  # nothing changes it
) -> Asked:
    stream = Flag().check("stream", values.pop("stream", False))
    shown = _read_fields(values.pop("response_fields", []))
    indent = Integer(0, INT32).check("n_indent", values.pop("n_indent", 0))
    most = Integer(-1, INT64).check("t_max_predict_ms", values.pop("t_max_predict_ms", 0))
    probabilities = Integer(0, INT32).check("n_probs", values.pop("n_probs", 0))
    read = _Read(dict(more))
    _read_parameters(values, read)
    if probabilities and "logprobs" not in card.parameters:
        raise unsupported("n_probs", "0", by=f"engine '{card.engine}' of model '{card.name}'")
    first, *others = prompts
    request = server.request(card.name, prompt=first, parameters=read.parameters, unused=read.unused)
    if probabilities:
        request = evolve(request, top_logprobs=min(probabilities, MOST_PROBABILITIES))
    requests = [request, *(evolve(request, id=new_request_id(), prompt=prompt) for prompt in others)]
    return Asked(
        tuple(requests), stream=stream, fields=shown, indent=indent, seconds=most / 1000 if most > 0 else None,
    )


def _read_parameters(values: dict[str, object], read: _Read) -> None:
    parameters, unused = read.parameters, read.unused
    limits = [name for name in LIMITS if name in values]
    for name in limits:
        value = values.pop(name)
        if name == limits[0] and Integer(-INT64, INT64).check(name, value) >= 0:
            parameters["max_tokens"] = value
    if "stop" in values:
        parameters["stop"] = _read_stops(values.pop("stop"))
    if "logit_bias" in values:
        parameters["logit_bias"] = _read_biases(values.pop("logit_bias"))
    if values.get("seed") in RANDOM:
        del values["seed"]
    for name in ("grammar", "json_schema"):
        if values.get(name) == "":
            del values[name]
    samplers = read_samplers(values.pop("samplers", []))
    _drop_idle(values)
    for name, neutral in NEUTRAL.items():
        if name in values and values.pop(name) not in neutral:
            unused.append(name)
    for name in list(values):
        value = values.pop(name)
        line = LINES.get(name)
        fixed = line is not None and line.fixed
        synonym = line is not None and line.means in PASSED and not {line.means} & {*parameters, *values}
        if name in PASSED or fixed or synonym:
            parameters[name] = value
        else:
            unused.append(name)
    parameters.update(samplers.values)
    unused += samplers.unused


def _read_fields(value: object) -> tuple[str, ...] | None:
    """Return the paths of the fields to return, "" for none of them; None for all."""
    if value == []:
        return None
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        raise wrong_type("response_fields", "an array of strings", value)
    found = [one for one in given if one != ""]
    return Strings(MOST_FIELDS).check("response_fields", found) if found else ()


def _read_stops(value: object) -> list[str]:
    """Return the stop strings; empty ones stop nothing."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        raise wrong_type("stop", "a string or an array of strings", value)
    return [one for one in given if one != ""]


def _read_biases(value: object) -> object:
    """Return biases in OpenAI's form, from that or an array of pairs; `false` forbids a token."""
    pairs = value.items() if isinstance(value, dict) else value
    if not isinstance(pairs, list) and not isinstance(value, dict):
        raise wrong_type("logit_bias", "an array of pairs, or an object", value)
    biases: dict[str, object] = {}
    for index, pair in enumerate(cast("Sequence[object]", pairs)):
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise wrong_type(f"logit_bias[{index}]", "an array of a token and a bias", pair)
        token, bias = pair
        if isinstance(token, bool) or not isinstance(token, int | str):
            raise wrong_type(f"logit_bias[{index}]", "an array of a token's id and a bias", pair)
        if bias is False:
            bias = -100
        elif isinstance(bias, int | float) and not isinstance(bias, bool):
            bias = max(-100.0, min(100.0, bias))
        biases[str(token)] = bias
    return biases


def _drop_idle(values: dict[str, object]) -> None:
    """Drop the details of what is turned off."""
    for name, (off, details) in IDLE.items():
        if name in values and values[name] == off:
            for detail in details:
                values.pop(detail, None)


def _text(values: dict[str, object], name: str) -> str | None:
    value = values.pop(name, None)
    if value is not None and not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value
