"""Turn a client's parameters, by their names in the OpenAI API, into a `Request` for an engine."""

import json
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from attrs import fields

from lllms_core.catalog import CatalogEntry
from lllms_core.chat import settle_results
from lllms_core.errors import InvalidRequest, UnsupportedParameter
from lllms_core.parameters import DEFAULTS, ROUTES, Route
from lllms_core.parameters.bounds import (
    LEVELS,
    check_counts,
    find_too_deep,
    find_too_deep_in_lark,
    is_too_deep,
    nested_too_deeply,
)
from lllms_core.parameters.structured import take_constraint
from lllms_core.parameters.tools import settle_tools
from lllms_core.parameters.wording import unknown, unsupported
from lllms_core.types import ChatRequest, Constraint, Media, Message, Request, TextRequest

_GIVEN = {"id", "model", "messages", "prompt", "sampling", "constraint", "unused"}
_REQUEST = frozenset(attribute.name for kind in (ChatRequest, TextRequest) for attribute in fields(kind)) - _GIVEN
"""The fields of requests that are parameters."""


def build_request(
    entry: CatalogEntry,
    request_id: str,
    messages: Sequence[Message] | None,
    prompt: str | tuple[int, ...] | None,
    parameters: Mapping[str, object],
    *,
    constraint: Constraint | None = None,
    levels: int = LEVELS,
) -> Request:
    """Check a request and fill in the model's defaults.

    JSON in it, also inside of strings, may be nested `levels` deep.
    Raises `InvalidRequest` for a value that is wrong, `UnsupportedParameter` for one that the engine does not honour.
    """
    if (messages is None) == (prompt is None):
        raise InvalidRequest("exactly one of 'messages' and 'prompt' is needed", "messages")
    if messages is not None and not messages:
        raise InvalidRequest("'messages' is empty; at least one message is needed", "messages")
    _check_media(messages or (), entry)
    _check_depth(messages or (), parameters, levels)
    checked = check_parameters("text" if messages is None else "chat", entry, parameters)
    constraint = take_constraint(checked) or constraint
    if constraint is not None:
        _check_constraint(constraint, entry, levels)
    _merge_limits(checked)
    _merge_scores(checked, chat=messages is not None)
    _check_counts(checked)
    _check_echo(checked, entry)
    if messages is not None:
        settle_tools(checked)
        _check_tools(checked, entry)
    if checked.get("timeout") is not None:
        checked["timeout"] = min(checked["timeout"], entry.config.timeout or inf)
    settings = entry.defaults.replace({name: value for name, value in checked.items() if name in DEFAULTS})
    others: dict[str, Any] = {name: value for name, value in checked.items() if name not in DEFAULTS}
    for name in others.keys() - _REQUEST:
        raise InvalidRequest(f"'{name}' says nothing about an answer, so it cannot be among its parameters", name)
    given: dict[str, Any] = {
        "sampling": settings.sampling,
        "max_tokens": settings.max_tokens,
        "stop": settings.stop,
        "constraint": constraint,
        "unused": _unused(entry, "text" if messages is None else "chat", parameters),
        "timeout": entry.config.timeout,
        **others,
    }
    if prompt is not None:
        return TextRequest(request_id, entry.name, prompt, **given)
    return ChatRequest(request_id, entry.name, settle_results(messages or ()), **given)


def check_parameters(route: Route, entry: CatalogEntry, values: Mapping[str, object]) -> dict[str, Any]:
    """Return the parameters that say something, checked; what is null, neutral or harmless is left out.

    Raises `InvalidRequest` for an unknown name or a wrong value, `UnsupportedParameter` for what this model's engine
    does not do.
    """
    table = ROUTES[route]
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in table:
            raise unknown(name)
        if value is None:
            continue
        parameter = table[name]
        proper = parameter.check(value)
        match parameter.verdict(entry.engine.parameters):
            case "honoured" | "emulated":
                checked[name] = proper
            case "refused" if not parameter.asks_for_nothing(proper):
                neutral = [json.dumps(one) for one in parameter.neutral]
                raise unsupported(name, *neutral, by=f"engine '{entry.engine.name}' of model '{entry.name}'")
    return checked


def _unused(entry: CatalogEntry, route: Route, values: Mapping[str, object]) -> tuple[str, ...]:
    """The names of parameters that were accepted, and have no effect."""
    table, honoured = ROUTES[route], entry.engine.parameters
    acted_on = {"honoured", "emulated"}
    return tuple(
        name for name, value in values.items() if value is not None and table[name].verdict(honoured) not in acted_on
    )


def _merge_limits(checked: dict[str, object]) -> None:
    """Let `max_tokens` stand for `max_completion_tokens`, its new name, too."""
    new_name = "max_completion_tokens"
    if new_name not in checked:
        return
    limit = checked.pop(new_name)
    if checked.setdefault("max_tokens", limit) != limit:
        raise InvalidRequest(f"'max_tokens' and '{new_name}' differ; give one of them", new_name, "invalid_value")


def _merge_scores(checked: dict[str, Any], *, chat: bool) -> None:
    """Let `top_logprobs` alone hold the scores to report: the number of alternatives per token, None for no scores."""
    wanted = checked.pop("logprobs", None)
    if not chat:
        checked["top_logprobs"] = wanted
    elif wanted:
        checked.setdefault("top_logprobs", 0)
    elif checked.pop("top_logprobs", 0):
        raise InvalidRequest("'top_logprobs' is only allowed with 'logprobs': true", "top_logprobs", "invalid_value")


def _check_counts(checked: dict[str, Any]) -> None:
    best_of = checked.get("best_of") or 0
    n = checked.get("n", 1)
    if 0 < best_of < n:
        raise InvalidRequest(f"'best_of' is {best_of}, less than 'n', which is {n}", "best_of", "invalid_value")
    if checked.get("suffix") == "":
        del checked["suffix"]  # says the same as none, for every engine


def _check_echo(checked: Mapping[str, Any], entry: CatalogEntry) -> None:
    """Refuse scores of the prompt if the engine has none, or if the model reads something other than the prompt."""
    if not checked.get("echo") or checked.get("top_logprobs") is None:
        return
    if "echo" not in entry.engine.parameters:
        raise unsupported("echo", "false", by=f"engine '{entry.engine.name}' together with 'logprobs'")
    if "suffix" in checked:
        raise InvalidRequest("'echo' with 'logprobs' is not supported together with 'suffix'; leave one out", "echo",
                             "invalid_value")


def _check_tools(checked: Mapping[str, Any], entry: CatalogEntry) -> None:
    """Refuse requirements that only a grammar can enforce, if the engine enforces none."""
    if "lark" in entry.engine.constraints:
        return
    strict = any(tool.strict for tool in checked["tools"])
    if checked["tool_choice"] == "required" or strict:
        name, way_out = ("tools", "leave out 'strict'") if strict else ("tool_choice", "use 'auto'")
        raise UnsupportedParameter(
            f"'{name}' asks for calls that keep to a grammar, which engine '{entry.engine.name}' of model "
            f"'{entry.name}' does not do; {way_out}",
            name,
            "unsupported_parameter",
        )


def _check_media(messages: Sequence[Message], entry: CatalogEntry) -> None:
    """Refuse media that the engine does not take."""
    for part in (part for message in messages for part in message.parts if isinstance(part, Media)):
        if part.kind not in entry.engine.media:
            raise UnsupportedParameter(
                f"'{part.param}' is {'an' if part.kind[0] in 'ai' else 'a'} {part.kind}, which engine "
                f"'{entry.engine.name}' of model '{entry.name}' does not take: send text",
                part.param,
                "unsupported_parameter",
            )


def _check_depth(messages: Sequence[Message], parameters: Mapping[str, object], levels: int) -> None:
    """Refuse what everything after this would have to read by recursion, or for very long."""
    for name, value in parameters.items():
        if is_too_deep(value, levels - 1):
            raise nested_too_deeply(name, levels)
    for index, message in enumerate(messages):
        for number, call in enumerate(message.tool_calls):
            path = f"messages[{index}].tool_calls[{number}].function.arguments"
            _check_json(call.arguments, path, levels)


def _check_json(text: str, param: str, levels: int) -> None:
    check_counts(text, param)
    if (place := find_too_deep(text, levels)) is not None:
        raise nested_too_deeply(f"{param}.{place}", levels)


def _check_constraint(constraint: Constraint, entry: CatalogEntry, levels: int) -> None:
    if constraint.kind == "json_schema":
        _check_json(constraint.text, constraint.param, levels)
    elif constraint.kind == "lark" and find_too_deep_in_lark(constraint.text, levels) is not None:
        raise nested_too_deeply(constraint.param, levels)
    kept = entry.engine.constraints
    if constraint.kind in kept:
        return
    if constraint.kind in entry.engine.checked_constraints:
        if constraint.strict:
            raise UnsupportedParameter(
                f"engine '{entry.engine.name}' of model '{entry.name}' checks answers against a JSON schema, and makes "
                "no model keep to one; leave out 'strict'",
                f"{constraint.param}.json_schema.strict",
                "unsupported_parameter",
            )
        return
    others = f"; it takes {', '.join(sorted(kept))}" if kept else ""
    raise UnsupportedParameter(
        f"'{constraint.param}' asks for an answer constrained by {constraint.kind}, which engine '{entry.engine.name}' "
        f"of model '{entry.name}' does not do{others or '; leave it out'}",
        constraint.param,
        "unsupported_parameter",
    )
