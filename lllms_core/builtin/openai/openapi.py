"""The description of the API in OpenAPI's form, made from the table that requests are checked by; pure."""

from collections.abc import Collection, Mapping, Sequence

from lllms_core.apis import Paths
from lllms_core.apis.specification import MESSAGES, STRING, Json, closed_object, in_path, one_of, operation, takes
from lllms_core.builtin.openai.answer_schemas import CHAT, EMBEDDINGS, MODEL, MODELS, RANKING, TEXT
from lllms_core.builtin.openai.prompts import MOST
from lllms_core.builtin.openai.responses.openapi import describe_responses
from lllms_core.parameters import ROUTES, Parameter, Route
from lllms_core.parameters.kinds import INT32

PATHS: Mapping[Route, str] = {"chat": "/chat/completions", "text": "/completions", "embeddings": "/embeddings"}
REQUIRED: Mapping[Route, Sequence[str]] = {
    "chat": ("model", "messages"), "text": ("model", "prompt"), "embeddings": ("model", "input"),
}
SUMMARIES: Mapping[Route, str] = {
    "chat": "Answer a conversation", "text": "Continue a text", "embeddings": "Make vectors of texts",
}
OPERATIONS: Mapping[Route, str] = {
    "chat": "createChatCompletion", "text": "createCompletion", "embeddings": "createEmbedding",
}
"""OpenAI's names."""
ANSWERS: Mapping[Route, Json] = {"chat": CHAT, "text": TEXT, "embeddings": EMBEDDINGS}

_DOCUMENT: Json = {
    "anyOf": [STRING, {
        "type": "object", "required": ["text"], "properties": {"text": STRING}, "additionalProperties": False,
    }],
}


def describe(models: Sequence[str], honoured: Collection[str]) -> Paths:
    """Return the paths; `models` are the names that requests may name.

    For a parameter that no model honours (`honoured`: those of their engines), only the values that ask for nothing are
    described. Synonyms, and parameters that nothing ever acts on, are accepted without being described.
    """
    paths: dict[str, Mapping[str, object]] = {
        "/v1/models": {"get": operation(
            "List the models", "A list of models", schema=MODELS, operation_id="listModels",
        )},
        "/v1/models/{model}": {"get": operation(
            "Describe a model, with what becomes of each parameter", "A model", schema=MODEL,
            operation_id="retrieveModel", parameters=[in_path("model")],
        )},
    }
    for route, path in PATHS.items():
        answered = operation(
            SUMMARIES[route], "The answer, or the events of a stream", schema=ANSWERS[route],
            operation_id=OPERATIONS[route], streams="stream" in ROUTES[route],
        )
        paths[f"/v1{path}"] = {"post": takes(answered, _request(route, models, honoured))}
    lines = ROUTES["chat"].items()
    paths |= describe_responses(models, {name: _value(line, honoured) for name, line in lines})
    ranked = operation(
        "Rank documents by how well they answer a query", "The answer", schema=RANKING, operation_id="rerank",
    )
    paths["/v1/rerank"] = {"post": takes(ranked, closed_object(["model", "query", "documents"], {
        "model": one_of(models),
        "query": STRING,
        "documents": {"type": "array", "minItems": 1, "maxItems": MOST, "items": _DOCUMENT},
        "top_n": {"type": "integer", "minimum": 1, "maximum": INT32},
        "return_documents": {"type": "boolean"},
    }))}
    return paths


def _request(route: Route, models: Sequence[str], honoured: Collection[str]) -> Json:
    properties = {name: _value(parameter, honoured) for name, parameter in ROUTES[route].items() if parameter.own}
    properties["model"] = one_of(models)
    if route == "chat":
        properties["messages"] = MESSAGES
    return closed_object(REQUIRED[route], properties)


def _value(parameter: Parameter, honoured: Collection[str]) -> Json:
    schema = dict(parameter.kind.schema)
    if parameter.verdict(honoured) == "refused":
        schema = {"enum": [list(one) if isinstance(one, tuple) else one for one in parameter.neutral]}
    if parameter.extension:
        schema["description"] = "Not a part of OpenAI's API."
    if parameter.name in {"prompt", "input"}:
        return schema
    # Null means that it is left out.
    return {"type": "null"} if schema == {"enum": []} else {"anyOf": [schema, {"type": "null"}]}
