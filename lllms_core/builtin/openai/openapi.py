"""The description of the API in OpenAPI's form, made from the table that requests are checked by; pure."""

from collections.abc import Collection, Mapping, Sequence

from lllms_core.builtin.openai.prompts import MOST
from lllms_core.parameters import ROUTES, Parameter, Route
from lllms_core.parameters.kinds import INT32

Json = dict[str, object]

OF_TEMPLATES = frozenset({"tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"})
"""The parameters of a chat that change its prompt."""

PATHS: Mapping[Route, str] = {"chat": "/chat/completions", "text": "/completions", "embeddings": "/embeddings"}
REQUIRED: Mapping[Route, Sequence[str]] = {
    "chat": ("model", "messages"), "text": ("model", "prompt"), "embeddings": ("model", "input"),
}
SUMMARIES: Mapping[Route, str] = {
    "chat": "Answer a conversation", "text": "Continue a text", "embeddings": "Make vectors of texts",
}

_STRING: Json = {"type": "string"}
_PART: Json = {
    "type": "object", "required": ["type", "text"], "additionalProperties": False,
    "properties": {"type": {"const": "text"}, "text": _STRING},
}
_FUNCTION: Json = {
    "type": "object", "required": ["name", "arguments"], "additionalProperties": False,
    "properties": {"name": _STRING, "arguments": _STRING},
}
_CALL: Json = {
    "type": "object", "required": ["id", "type", "function"], "additionalProperties": False,
    "properties": {"id": _STRING, "type": {"const": "function"}, "function": _FUNCTION},
}
_CONTENT: Json = {"anyOf": [_STRING, {"type": "array", "minItems": 1, "items": _PART}]}


def _message(roles: Sequence[str], required: Sequence[str], **properties: Json) -> Json:
    return {
        "type": "object", "required": ["role", *required], "additionalProperties": False,
        "properties": {"role": {"enum": [*roles]}, "name": _STRING, **properties},
    }


_CALLS: Json = {"type": "array", "minItems": 1, "items": _CALL}
MESSAGES: Json = {
    "type": "array", "minItems": 1,
    "items": {"anyOf": [
        _message(["system", "developer", "user"], ["content"], content=_CONTENT),
        _message(["assistant"], ["content"], content=_CONTENT, reasoning_content=_STRING, refusal=_STRING),
        _message(
            ["assistant"], ["tool_calls"], content={"anyOf": [_CONTENT, {"type": "null"}]}, tool_calls=_CALLS,
            reasoning_content=_STRING,
        ),
        _message(["tool"], ["content", "tool_call_id"], content=_CONTENT, tool_call_id=_STRING),
    ]},
}
"""Without the deprecated forms `function_call` and role `function`, which are taken, too."""
_DOCUMENT: Json = {
    "anyOf": [_STRING, {
        "type": "object", "required": ["text"], "properties": {"text": _STRING}, "additionalProperties": False,
    }],
}
OTHERS: Mapping[str, tuple[str, Sequence[str], Json]] = {
    "/v1/rerank": ("Rank documents by how well they answer a query", ("model", "query", "documents"), {
        "query": _STRING,
        "documents": {"type": "array", "minItems": 1, "maxItems": MOST, "items": _DOCUMENT},
        "top_n": {"type": "integer", "minimum": 1, "maximum": INT32},
        "return_documents": {"type": "boolean"},
    }),
    "/api/v1/tokenize": ("Show the tokens of a text", ("model", "text"), {
        "text": _STRING, "add_special": {"type": "boolean"},
    }),
    "/api/v1/detokenize": ("Show the text of tokens", ("model", "tokens"), {
        "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": INT32}},
    }),
    "/api/v1/apply-template": ("Show the prompt of a chat", ("model", "messages"), {
        "messages": MESSAGES,
        **{name: dict(ROUTES["chat"][name].kind.schema) for name in sorted(OF_TEMPLATES)},
    }),
}
"""Routes whose parameters are not in the table: what they do, what they need, and what they take besides a model."""
ERROR: Json = {
    "type": "object", "required": ["error"],
    "properties": {
        "error": {
            "type": "object", "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _STRING, "type": _STRING, "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
    },
}


def describe_api(models: Sequence[str], version: str, honoured: Collection[str]) -> Json:
    """Return the description; `models` are the names that requests may name.

    Of a parameter that none of them does anything about, as their engines' `honoured` ones tell, only those values are
    described that ask for nothing.
    """
    paths: Json = {
        "/v1/models": {"get": _operation("List the models", "A list of models")},
        "/v1/models/{model}": {
            "get": {
                **_operation("Describe a model, with what becomes of each parameter", "A model"),
                "parameters": [{"name": "model", "in": "path", "required": True, "schema": _STRING}],
            },
        },
    }
    for route, path in PATHS.items():
        streams = "stream" in ROUTES[route]
        paths[f"/v1{path}"] = {
            "post": {
                **_operation(SUMMARIES[route], "The answer, or the events of a stream", streams=streams),
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _request(route, models, honoured)}},
                },
            },
        }
    for path, (summary, required, properties) in OTHERS.items():
        schema: Json = {
            "type": "object", "required": list(required), "additionalProperties": False,
            "properties": {"model": {"type": "string", "enum": list(models)}, **properties},
        }
        paths[path] = {
            "post": {
                **_operation(summary, "The answer"),
                "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            },
        }
    paths |= _sessions(models) | _downloads()
    info = {
        "title": "lllms", "version": version,
        "description": "Local language models behind the OpenAI API. Which parameters a model honours, its own "
        "description says: GET /v1/models/{model}.",
    }
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _sessions(models: Sequence[str]) -> Json:
    """The routes that tell of sessions."""
    of_model: Json = {"name": "model", "in": "query", "schema": {"type": "string", "enum": list(models)}}
    of_id: Json = {"name": "id", "in": "path", "required": True, "schema": _STRING}
    text: Json = {"name": "text", "in": "query", "schema": {"type": "boolean", "default": False}}
    return {
        "/api/v1/sessions": {
            "get": {**_operation("List what is kept of conversations", "A list"), "parameters": [of_model]},
            "delete": {**_operation("Forget all, or those of a model", "The ids"), "parameters": [of_model]},
        },
        "/api/v1/sessions/{id}": {
            "get": {**_operation("Describe a session, with its text if asked", "It"), "parameters": [of_id, text]},
            "delete": {**_operation("Forget a session", "Its id"), "parameters": [of_id]},
        },
    }


def _downloads() -> dict[str, Json]:
    """The routes that tell of downloads."""
    of_id: Json = {"name": "id", "in": "path", "required": True, "schema": _STRING}
    return {
        "/api/v1/downloads": {"get": _operation("List the downloads of model files", "A list")},
        "/api/v1/downloads/{id}": {
            "delete": {**_operation("End a download; what has arrived is kept", "Its id"), "parameters": [of_id]},
        },
    }


def _operation(summary: str, answer: str, *, streams: bool = False) -> Json:
    kinds: Json = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        kinds["text/event-stream"] = {"schema": _STRING}
    fault = {"description": "What is wrong", "content": {"application/json": {"schema": ERROR}}}
    return {"summary": summary, "responses": {"200": {"description": answer, "content": kinds}, "default": fault}}


def _request(route: Route, models: Sequence[str], honoured: Collection[str]) -> Json:
    properties = {name: _value(parameter, honoured) for name, parameter in ROUTES[route].items()}
    properties["model"] = {"type": "string", "enum": list(models)}
    if route == "chat":
        properties["messages"] = MESSAGES
    return {
        "type": "object", "required": list(REQUIRED[route]), "properties": properties, "additionalProperties": False,
    }


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
