"""Pieces of an OpenAPI document, for `Api.describe`, and the document itself; pure."""

from collections.abc import Iterable, Mapping, Sequence

from lllms_core.apis.contract import Paths

Json = dict[str, object]

STRING: Json = {"type": "string"}
FLAG: Json = {"type": "boolean"}
NUMBER: Json = {"type": "number"}
COUNT: Json = {"type": "integer", "minimum": 0}
ANY: Json = {"type": "object"}


def shape(required: Sequence[str], **properties: Json) -> Json:
    """Return the schema of an object that may have other members."""
    return {"type": "object", "required": [*required], "properties": properties}


def whole_shape(**properties: Json) -> Json:
    """Return the schema of an object that has all these members."""
    return shape([*properties], **properties)


def array(items: Json, **more: object) -> Json:
    """Return the schema of an array; `more` are its limits."""
    return {"type": "array", "items": items, **more}


def nullable(schema: Json) -> Json:
    """Return the schema of such a value or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listing(items: Json) -> Json:
    """Return the schema of a list in OpenAI's form."""
    return whole_shape(object={"const": "list"}, data=array(items))


EVENT = shape(["data"], event=STRING, data=STRING)
"""The schema of a server-sent event."""
DELETED = whole_shape(deleted=array(STRING))
"""The schema of the ids of what our own routes have deleted."""
_PART: Json = {
    "type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": STRING},
}
_FUNCTION: Json = {
    "type": "object", "required": ["name", "arguments"], "properties": {"name": STRING, "arguments": STRING},
}
_CALL: Json = {
    "type": "object", "required": ["id", "function"],
    "properties": {"id": STRING, "type": {"const": "function"}, "function": _FUNCTION},
}
_CONTENT: Json = {"anyOf": [STRING, {"type": "array", "items": _PART}]}
_MAYBE: Json = {"anyOf": [_CONTENT, {"type": "null"}]}
_EMPTY: Json = {"maxItems": 0, "type": "array"}


def _message(roles: Sequence[str], required: Sequence[str], **properties: Json) -> Json:
    return {
        "type": "object", "required": ["role", *required],
        "properties": {"role": {"enum": [*roles]}, "name": STRING, "audio": {"type": "null"}, "images": _EMPTY,
                       **properties},
    }


_CALLS: Json = {"type": "array", "minItems": 1, "items": _CALL}
MESSAGES: Json = {
    "type": "array", "minItems": 1,
    "items": {"anyOf": [
        _message(["system", "developer", "user"], ["content"], content=_CONTENT),
        _message(["assistant"], ["content"], content=_MAYBE, reasoning_content=STRING, refusal=STRING),
        _message(["assistant"], ["tool_calls"], content=_MAYBE, tool_calls=_CALLS, reasoning_content=STRING),
        _message(["tool"], ["content", "tool_call_id"], content=_CONTENT, tool_call_id=STRING),
    ]},
}
"""Without the deprecated `function_call` and the role `function`, which are also accepted. Other fields of messages are
accepted and dropped."""
ERROR: Json = {
    "type": "object", "required": ["error"],
    "properties": {
        "error": {
            "type": "object", "required": ["message", "type", "param", "code"],
            "properties": {
                "message": STRING, "type": STRING, "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
    },
}
"""The schema of an error in OpenAI's shape."""


def document(described: Iterable[Paths], version: str, prefix: str = "") -> Json:
    """Return the document of several APIs that are mounted under `prefix`."""
    paths: dict[str, dict[str, object]] = {}
    for part in described:
        for path, methods in part.items():
            paths.setdefault(f"{prefix}{path}", {}).update(methods)
    info = {
        "title": "lllms", "version": version,
        "description": "Local language models behind the OpenAI API. Which parameters a model honours, its own "
        "description says: GET /v1/models/{model}.",
    }
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def operation(
    summary: str, answer: str, *, streams: bool | str = False, parameters: Sequence[Json] = (),
    kind: str = "application/json", error: Json = ERROR, schema: Json | None = None, operation_id: str = "",
    events: Json = EVENT,
) -> Json:
    """Return one operation; `streams` adds server-sent events, or its content type, to `kind`, that of a whole answer.

    `error` is the schema of its errors; an API may have its own. `schema` is the one of its answer; None: any object,
    or any text. `events` is the one of each event, which has `event` and `data`. `operation_id` names the functions of
    programs that generate clients; no other operation may have it.
    """
    kinds: Json = {kind: {"schema": schema or ({"type": "object"} if kind == "application/json" else STRING)}}
    if streams:
        kinds["text/event-stream" if streams is True else streams] = {"schema": events}
    fault = {"description": "What is wrong", "content": {"application/json": {"schema": error}}}
    told: Json = {"summary": summary, "responses": {"200": {"description": answer, "content": kinds}, "default": fault}}
    if operation_id:
        told["operationId"] = operation_id
    return {**told, "parameters": [*parameters]} if parameters else told


def takes(operation: Json, schema: Json) -> Json:
    """Return the operation with a JSON body of this schema."""
    return {**operation, "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def closed_object(required: Sequence[str], properties: Mapping[str, object]) -> Json:
    """Return the schema of an object without other members."""
    return {
        "type": "object", "required": [*required], "properties": {**properties}, "additionalProperties": False,
    }


def in_path(name: str) -> Json:
    """Return a parameter in the path."""
    return {"name": name, "in": "path", "required": True, "schema": STRING}


def in_query(name: str, schema: Json) -> Json:
    """Return an optional query parameter."""
    return {"name": name, "in": "query", "schema": schema}


def one_of(names: Iterable[str]) -> Json:
    """Return the schema of one of several strings."""
    return {"type": "string", "enum": [*names]}
