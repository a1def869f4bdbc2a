"""Turn a client's parameters, by their names in the OpenAI API, into a `Request` for an engine."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from attrs import fields

from lllms_core.catalog import CatalogEntry
from lllms_core.chat import settle_results
from lllms_core.errors import InvalidRequest, UnsupportedParameter
from lllms_core.parameters import DEFAULTS, Checked, Route, UnknownNames, check_all
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
from lllms_core.parameters.wording import unsupported
from lllms_core.types import ChatRequest, Constraint, Media, Message, Request, TextRequest

_GIVEN = {"id", "model", "messages", "prompt", "sampling", "constraint", "unused"}
_REQUEST = frozenset(attribute.name for kind in (ChatRequest, TextRequest) for attribute in fields(kind)) - _GIVEN
"""The fields of requests that are parameters."""
_CONTINUING = {"continue_final_message": True, "add_generation_prompt": False}
"""Ask for nothing in a chat that ends with the assistant's message, which is continued anyway."""


def build_request(
    entry: CatalogEntry,
    request_id: str,
    messages: Sequence[Message] | None,
    prompt: str | tuple[int, ...] | None,
    parameters: Mapping[str, object],
    *,
    constraint: Constraint | None = None,
    levels: int = LEVELS,
    unknown_names: UnknownNames = "refuse",
    unused: Sequence[str] = (),
) -> Request:
    """Check a request and fill in the model's defaults.

    JSON in it, also inside strings, may be nested `levels` deep. `unused` names what the client sent and its dialect
    left out.
    Raises `InvalidRequest` for a wrong value, `UnsupportedParameter` for one that the engine does not honour.
    """
    if (messages is None) == (prompt is None):
        raise InvalidRequest("exactly one of 'messages' and 'prompt' is needed", "messages")
    if messages is not None and not messages:
        raise InvalidRequest("'messages' is empty; at least one message is needed", "messages")
    _check_media(messages or (), entry)
    _check_depth(messages or (), parameters, levels)
    if messages and messages[-1].role == "assistant":
        asked = parameters.items()
        parameters = {name: value for name, value in asked if name not in _CONTINUING or value is not _CONTINUING[name]}
    found = check_parameters("text" if messages is None else "chat", entry, parameters, unknown_names)
    checked = dict(found.values)
    constraint = take_constraint(checked) or constraint
    if constraint is not None:
        _check_constraint(constraint, entry, levels)
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
        "unused": (*unused, *found.unused),
        "timeout": entry.config.timeout,
        **others,
    }
    if prompt is not None:
        return TextRequest(request_id, entry.name, prompt, **given)
    return ChatRequest(request_id, entry.name, settle_results(messages or ()), **given)


def check_parameters(
    route: Route, entry: CatalogEntry, values: Mapping[str, object], unknown_names: UnknownNames = "refuse",
) -> Checked:
    """Return the checked parameters that ask for something, and the names of those that nothing acts on.

    Raises `InvalidRequest` for an unknown name or a wrong value, `UnsupportedParameter` for what this model's engine
    does not support.
    """
    engine = f"engine '{entry.engine.name}' of model '{entry.name}'"
    return check_all(route, values, entry.engine.parameters, engine, unknown_names)


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
        del checked["suffix"]  # equals no suffix, for every engine


def _check_echo(checked: Mapping[str, Any], entry: CatalogEntry) -> None:
    """Refuse scores of the prompt if the engine has none, or if the model reads something other than the prompt."""
    if not checked.get("echo") or checked.get("top_logprobs") is None:
        return
    if "echo" not in entry.engine.parameters:
        raise unsupported("echo", "false", by=f"engine '{entry.engine.name}' together with 'logprobs'")
    for name in {"suffix", "input_extra"} & checked.keys():
        raise InvalidRequest(f"'echo' with 'logprobs' is not supported together with '{name}'; leave one out", "echo",
                             "invalid_value")


def _check_tools(checked: Mapping[str, Any], entry: CatalogEntry) -> None:
    """Refuse requirements about calls, if the engine keeps none."""
    if entry.engine.keeps_calls or "lark" in entry.engine.constraints:
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
    """Refuse requests that later code could only read by deep recursion, or for a very long time."""
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
                f"{constraint.param}{'.json_schema' if constraint.param == 'response_format' else ''}.strict",
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
