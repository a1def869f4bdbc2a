"""The description of the native API; pure."""

from collections.abc import Mapping, Sequence

from lllms_core.apis import Paths
from lllms_core.apis.specification import MESSAGES, STRING, Json, closed_object, one_of, operation, takes
from lllms_core.parameters import ROUTES
from lllms_core.parameters.kinds import INT32

OF_TEMPLATES = frozenset({"tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"})
"""The parameters of a chat that change its prompt."""


def describe(models: Sequence[str]) -> Paths:
    """Return the paths; `models` are the names that requests may name."""
    return {
        "/api/v1/tokenize": _post(models, "Show the tokens of a text", ["text"], {
            "text": STRING, "add_special": {"type": "boolean"},
        }),
        "/api/v1/detokenize": _post(models, "Show the text of tokens", ["tokens"], {
            "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": INT32}},
        }),
        "/api/v1/apply-template": _post(models, "Show the prompt of a chat", ["messages"], {
            "messages": MESSAGES,
            **{name: dict(ROUTES["chat"][name].kind.schema) for name in sorted(OF_TEMPLATES)},
        }),
    }


def _post(models: Sequence[str], summary: str, required: Sequence[str], properties: Mapping[str, object]) -> Json:
    schema = closed_object(["model", *required], {"model": one_of(models), **properties})
    return {"post": takes(operation(summary, "The answer"), schema)}
