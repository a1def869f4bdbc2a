"""From what a client asks, by the names of the OpenAI API, to a `Request` that an engine can take."""

from collections.abc import Mapping, Sequence

from lllms_core.catalog import CatalogEntry
from lllms_core.engines import SAMPLING_PARAMETERS
from lllms_core.errors import InvalidRequest, UnsupportedParameter
from lllms_core.parameters import PARAMETERS, check
from lllms_core.types import Constraint, Message, Request


def build_request(
    entry: CatalogEntry,
    request_id: str,
    messages: Sequence[Message] | None,
    prompt: str | None,
    parameters: Mapping[str, object],
    *,
    constraint: Constraint | None = None,
) -> Request:
    """Check a request and fill in the model's defaults.

    Raises `InvalidRequest` for a value that is wrong, `UnsupportedParameter` for one that the engine does not honour.
    """
    if (messages is None) == (prompt is None):
        raise InvalidRequest("exactly one of 'messages' and 'prompt' is needed", "messages")
    if messages is not None and not messages:
        raise InvalidRequest("'messages' is empty; at least one message is needed", "messages")
    for name in parameters:
        if name not in PARAMETERS:
            raise InvalidRequest(f"unknown parameter: '{name}'", name, "unknown_parameter")
    for name in (SAMPLING_PARAMETERS & parameters.keys()) - entry.engine.parameters:
        if check(name, parameters[name]) != PARAMETERS[name].neutral:
            raise UnsupportedParameter(
                f"'{name}' is not supported by engine '{entry.engine.name}' of model '{entry.name}'; leave it out",
                name,
                "unsupported_parameter",
            )
    if constraint is not None:
        _check_constraint(constraint, entry)
    settings = entry.defaults.override(parameters)
    return Request(
        id=request_id,
        model=entry.name,
        messages=None if messages is None else tuple(messages),
        prompt=prompt,
        sampling=settings.sampling,
        max_tokens=settings.max_tokens,
        stop=settings.stop,
        timeout=entry.config.timeout,
        constraint=constraint,
    )


def _check_constraint(constraint: Constraint, entry: CatalogEntry) -> None:
    kept = entry.engine.constraints
    if constraint.kind in kept:
        return
    others = f"; it takes {', '.join(sorted(kept))}" if kept else ""
    raise UnsupportedParameter(
        f"'{constraint.param}' asks for an answer constrained by {constraint.kind}, which engine '{entry.engine.name}' "
        f"of model '{entry.name}' does not do{others or '; leave it out'}",
        constraint.param,
        "unsupported_parameter",
    )
