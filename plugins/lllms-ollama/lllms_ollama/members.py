"""The members of requests that Ollama's routes share: options, switches, durations; pure."""

from collections.abc import Mapping

from lllms_core.apis.bodies import take_text
from lllms_core.errors import InvalidRequest
from lllms_core.parameters import DEFAULTS, ROUTES
from lllms_core.parameters.kinds import Flag
from lllms_core.parameters.synonyms import Duration
from lllms_core.parameters.wording import unknown, wrong_type

HONOURED = frozenset({
    "temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "num_predict", "repeat_penalty", "presence_penalty",
    "frequency_penalty", "stop", "mirostat", "mirostat_eta", "mirostat_tau", *DEFAULTS,
})
"""Options that act on an answer: Ollama's, and lllms's own sampling parameters."""
NAMED = frozenset({
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock", "numa", "num_keep",
    "low_vram", "vocab_only", "f16_kv", "logits_all", "embedding_only", "penalize_newline", "repeat_last_n", "tfs_z",
})
"""Options without effect here, which answers name: about the instance, which the configuration decides, or without a
counterpart in today's llama.cpp."""

MISPLACED: Mapping[str, str] = {"max_output_tokens": "num_predict"}
"""Members by which the AI SDK's providers mean options."""


def take_name(values: dict[str, object]) -> str:
    """Take the model's name: `model`, or `name` as older clients say. Raises `InvalidRequest`."""
    if "model" not in values and "name" in values:
        return take_text(values, "name")
    values.pop("name", None)
    return take_text(values, "model")


def take_flag(values: dict[str, object], name: str, *, default: bool) -> bool:
    """Take a flag. Raises `InvalidRequest`."""
    return Flag().check(name, values.pop(name, default))


def take_string(values: dict[str, object], name: str) -> str:
    """Take an optional text; "" without one. Raises `InvalidRequest`."""
    return take_text(values, name) if name in values else ""


def take_list(values: dict[str, object], name: str) -> list[object]:
    """Take an optional array. Raises `InvalidRequest`."""
    value = values.pop(name, [])
    if not isinstance(value, list):
        raise wrong_type(name, "an array", value)
    return value


def take_idle_time(values: dict[str, object]) -> float | None:
    """Take `keep_alive`: seconds, negative for ever; None if it is not given. Raises `InvalidRequest`."""
    given = values.pop("keep_alive", None)
    return None if given is None or given == "" else Duration().check("keep_alive", given)


def take_options(values: dict[str, object]) -> tuple[dict[str, object], list[str]]:
    """Take the options: the parameters that they mean, and the names of those without effect.

    Unknown ones are among the parameters, to be treated as the server is configured to. Raises `InvalidRequest`.
    """
    given = values.pop("options", {})
    if not isinstance(given, Mapping):
        raise wrong_type("options", "an object", given)
    parameters: dict[str, object] = {}
    unused: list[str] = []
    for name, value in given.items():
        if value is None:
            continue
        if name in NAMED:
            unused.append(f"options.{name}")
        elif name in HONOURED:
            parameters |= _meant(name, value)
        elif name in ROUTES["chat"]:
            raise unknown(f"options.{name}")
        else:
            parameters[name] = value
    return parameters, unused


def take_others(values: dict[str, object], known: frozenset[str]) -> dict[str, object]:
    """Take the other members: those `known`, options, and unknown ones, to be treated as the server is configured to.

    Some clients send options as members, where Ollama overlooks them. Raises `InvalidRequest` for a parameter of
    another API.
    """
    taken: dict[str, object] = {}
    for name, value in values.items():
        meant = MISPLACED.get(name, name)
        if meant in HONOURED:
            taken |= _meant(meant, value)
        elif name not in known and name in ROUTES["chat"]:
            raise unknown(name)
        else:
            taken[name] = value
    values.clear()
    return taken


def joined(options: Mapping[str, object], others: Mapping[str, object]) -> dict[str, object]:
    """Return both as parameters. Raises `InvalidRequest` for a name in both."""
    for name in options.keys() & others.keys():
        raise InvalidRequest(f"'{name}' is given twice, also among the 'options'; give one of them", name)
    return {**options, **others}


def _meant(name: str, value: object) -> dict[str, object]:
    """Return the parameters that an option means; -1 is Ollama's seed for a random one, and no limit is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "seed" and number and value == -1:
        return {}
    if name == "num_predict" and number and isinstance(value, int) and value <= 0:
        return {name: -1}
    return {name: value}
