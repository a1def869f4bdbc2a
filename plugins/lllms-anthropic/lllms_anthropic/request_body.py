"""Turn the JSON of a request into a `ChatRequest`: each fault names its field, each field without effect is named."""

import json
from collections.abc import Mapping
from typing import cast

from attrs import evolve, field, fields, frozen

from lllms_anthropic.conversation import read_conversation
from lllms_anthropic.faults import UNTHREADED
from lllms_anthropic.tools import read_tools
from lllms_core.apis import Server
from lllms_core.apis.bodies import take, take_text
from lllms_core.apis.fields import read_fields
from lllms_core.errors import InvalidRequest, RequestError, UnsupportedParameter
from lllms_core.parameters import ROUTES
from lllms_core.parameters.kinds import Flag, Json, OneOf, Strings
from lllms_core.parameters.table import MAX_STOPS
from lllms_core.parameters.wording import missing, unknown, unsupported, wrong_type
from lllms_core.types import ChatRequest, Constraint, ReasoningEffort, Sampling, new_request_id

NAMED: Mapping[str, tuple[object, ...]] = {
    "metadata": ({},), "service_tier": ("auto", "standard_only"), "speed": ("standard",), "container": (),
    "inference_geo": (), "context_management": ({}, {"edits": []}), "diagnostics": (), "user_profile_id": (),
    "workspace_id": (), "anthropic_version": (), "anthropic_beta": ([],), "compaction": (), "fallbacks": ([],),
    "fallback_credit_token": (), "billing_policy": (),
}
"""Members that do not concern the text, with the values that ask for nothing."""
OURS = frozenset(attribute.name for attribute in fields(Sampling)) | {
    "max_tokens", "ttl", "keep_alive", "timeout", "cache_prompt", "chat_template_kwargs",
}
"""Parameters by our own names, which are also some of Anthropic's."""
EFFORTS = ("low", "medium", "high", "xhigh", "max")
THINKING = ("enabled", "disabled", "adaptive", "between_tools")


@frozen
class Wish:
    """An effort of thinking to try, and the field that asks for it."""

    effort: str
    field: str
    """It has no effect if the model does not know this effort."""


Vain = set[tuple[str, str, str]]
"""The efforts that models have refused: name, fingerprint and effort. There are few models, and few efforts."""


@frozen
class Asked:
    """A client's request, checked."""

    request: ChatRequest
    stream: bool
    stops: frozenset[str]
    fingerprint: str
    """The model's."""
    wishes: tuple[Wish, ...] = ()
    """The efforts that the request asks for, the current one first."""

    def without(self, refusal: RequestError, vain: Vain) -> "Asked | None":
        """Return the request without the effort that its model refused, which is added to `vain`.

        None if that was not the reason.
        """
        if refusal.param != "reasoning_effort" or not self.wishes:
            return None
        refused, *others = self.wishes
        vain.add((self.request.model, self.fingerprint, refused.effort))
        request = evolve(
            self.request, id=new_request_id(), unused=(*self.request.unused, refused.field),
            reasoning_effort=cast("ReasoningEffort", others[0].effort) if others else None,
        )
        return evolve(self, request=request, wishes=tuple(others))


@frozen
class _Read:
    """A request's members, before they are checked for a model."""

    parameters: dict[str, object] = field(factory=dict)
    unused: list[str] = field(factory=list)
    constraint: Constraint | None = None
    wishes: tuple[Wish, ...] = ()


def read_request(server: Server, values: dict[str, object], vain: Vain) -> Asked:
    """Read a request without the efforts in `vain`; its members are removed from `values`. Raises `LllmsError`."""
    card = server.model(take_text(values, "model"))
    messages = read_conversation(values.pop("system", None), take(values, "messages"))
    stream = Flag().check("stream", values.pop("stream", False))
    read = _read_parameters(values)
    known = "reasoning_effort" in card.parameters
    wishes = tuple(one for one in read.wishes if known and (card.name, card.fingerprint, one.effort) not in vain)
    effort = {"reasoning_effort": wishes[0].effort} if wishes else {}
    request = server.request(
        card.name, messages=messages, parameters={**read.parameters, **effort}, constraint=read.constraint,
        unused=[*read.unused, *(one.field for one in read.wishes if one not in wishes)],
    )
    stops = cast("tuple[str, ...]", read.parameters.get("stop", ()))
    return Asked(request, stream, frozenset(stops), card.fingerprint, wishes)


def _read_parameters(values: dict[str, object]) -> _Read:
    tools = read_tools(values.pop("tools", None), values.pop("tool_choice", None))
    parameters = dict(tools.values)
    unused = list(tools.unused)
    values.pop("cache_control", None)  # prompts are cached anyway
    if "stop_sequences" in values:
        parameters["stop"] = _read_stops(values.pop("stop_sequences"))
    config = _read_output_config(values, unused)
    wishes = _read_wishes(values.pop("thinking", None), config.get("effort"), unused)
    constraint = _read_format(config, values.pop("output_format", None))
    if values.pop("mcp_servers", []) != []:
        raise unsupported("mcp_servers", "[]")
    if "thread" in values:
        text = "'thread' is not supported: no conversation is kept here; leave it out, and send the whole conversation"
        raise UnsupportedParameter(text, "thread", UNTHREADED)
    for name, neutral in NAMED.items():
        if name in values and values.pop(name) not in neutral:
            unused.append(name)
    for name in list(values):
        line = ROUTES["chat"].get(name)
        if line is not None and name not in OURS and line.otherwise != "named":
            raise unknown(name)  # of another dialect: it might change the form of the answer
        parameters[name] = values.pop(name)
    return _Read(parameters, unused, constraint, wishes)


def _read_stops(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise wrong_type("stop_sequences", "an array of strings", value)
    return Strings(MAX_STOPS).check("stop_sequences", value)


def _read_output_config(values: dict[str, object], unused: list[str]) -> dict[str, object]:
    config = read_fields(values.pop("output_config", {}), "output_config")
    unused += (f"output_config.{name}" for name in config if name not in {"effort", "format"})
    if "effort" in config:
        OneOf(EFFORTS).check("output_config.effort", config["effort"])
    return config


def _read_wishes(thinking: object, effort: object, unused: list[str]) -> tuple[Wish, ...]:
    """Return the efforts to try: an amount of thinking, else thinking at all."""
    given = {} if thinking is None else read_fields(thinking, "thinking")
    if given and "type" not in given:
        raise missing("thinking.type")
    kind = OneOf(THINKING).check("thinking.type", given.get("type", "adaptive"))
    unused += (f"thinking.{name}" for name in given if name != "type")
    if kind == "disabled":
        unused += ["output_config.effort"] if effort is not None else []
        return (Wish("none", "thinking"),)
    amount = [Wish(str(effort), "output_config.effort")] if effort is not None else []
    return (*amount, *([Wish("on", "thinking")] if kind == "enabled" else []))


def _read_format(config: Mapping[str, object], older: object) -> Constraint | None:
    """Return the constraint of `output_config.format`, or of `output_format`, its older name."""
    given = {"output_config.format": config.get("format"), "output_format": older}
    found = {path: read_fields(value, path) for path, value in given.items() if value is not None}
    if len(found) > 1 and len({json.dumps(one, sort_keys=True) for one in found.values()}) > 1:
        text = "'output_config.format' and 'output_format' ask for different forms; give one of them"
        raise InvalidRequest(text, "output_format", "invalid_value")
    for path, fields_ in found.items():
        if "type" not in fields_:
            raise missing(f"{path}.type")
        OneOf(("json_schema",)).check(f"{path}.type", fields_["type"])
        for name in fields_.keys() - {"type", "schema", "name"}:
            raise unknown(f"{path}.{name}")
        if "schema" not in fields_:
            raise missing(f"{path}.schema")
        return Constraint("json_schema", json.dumps(Json(("object",)).check(f"{path}.schema", fields_["schema"])), path)
    return None
