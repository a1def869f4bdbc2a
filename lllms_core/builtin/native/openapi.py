"""The description of the native API; pure."""

from collections.abc import Sequence

from lllms_core.apis import Paths
from lllms_core.apis.specification import (
    FLAG,
    MESSAGES,
    STRING,
    Json,
    array,
    closed_object,
    listing,
    one_of,
    operation,
    shape,
    takes,
    whole_shape,
)
from lllms_core.parameters import ROUTES
from lllms_core.parameters.kinds import INT32

OF_TEMPLATES = frozenset({"tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"})
"""The parameters of a chat that change its prompt."""


def describe(models: Sequence[str]) -> Paths:
    """Return the paths; `models` are the names that requests may name."""
    token: Json = {"type": "integer", "minimum": 0, "maximum": INT32}
    tokens = whole_shape(tokens=array(token), pieces=array(STRING))
    model = one_of(models)
    names = array(STRING)
    changes = whole_shape(
        added=names, removed=names, replaced=names, adjusted=names, settings=names, restart=names, text=STRING,
    )
    reload = takes(
        operation("Load the configuration again, and take what has changed", "What has changed", schema=changes,
                  operation_id="reloadConfiguration"),
        closed_object([], {}),
    )
    body = reload["requestBody"]
    assert isinstance(body, dict)  # noqa: S101  # what `takes` has made
    setting = shape(["name", "origin"], name=STRING, value={}, origin=STRING)
    return {
        "/api/v1/config": {"get": operation(
            "List the settings that are in force, with their origins", "A list", schema=listing(setting),
            operation_id="listSettings",
        )},
        "/api/v1/reload": {"post": {**reload, "requestBody": {**body, "required": False}}},
        "/api/v1/tokenize": {"post": takes(
            operation("Show the tokens of a text", "Their ids and pieces", schema=tokens, operation_id="tokenize"),
            closed_object(["model", "text"], {"model": model, "text": STRING, "add_special": FLAG}),
        )},
        "/api/v1/detokenize": {"post": takes(
            operation("Show the text of tokens", "It", schema=whole_shape(text=STRING), operation_id="detokenize"),
            closed_object(["model", "tokens"], {"model": model, "tokens": array(token)}),
        )},
        "/api/v1/apply-template": {"post": takes(
            operation("Show the prompt of a chat", "It", schema=whole_shape(prompt=STRING),
                      operation_id="applyTemplate"),
            closed_object(["model", "messages"], {
                "model": model, "messages": MESSAGES,
                **{name: dict(ROUTES["chat"][name].kind.schema) for name in sorted(OF_TEMPLATES)},
            }),
        )},
    }
