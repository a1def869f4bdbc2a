"""The description of the native chat in OpenAPI's form, answers included; pure."""

from collections.abc import Mapping, Sequence

from lllms_core.apis import Paths
from lllms_core.apis.specification import MESSAGES, STRING, Json, in_path, one_of, operation, takes
from lllms_core.builtin.chat.chat_body import CONVERSATION_ID, NOT_HERE
from lllms_core.builtin.chat.chat_events import EVENTS, REASONS
from lllms_core.builtin.chat.script_routes import SCRIPTS
from lllms_core.parameters import ROUTES

_FLAG: Json = {"type": "boolean"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_SECONDS: Json = {"type": "number", "minimum": 0}
_MAYBE_TEXT: Json = {"type": ["string", "null"]}
_MAYBE_COUNT: Json = {"type": ["integer", "null"], "minimum": 0}
_SHARE: Json = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_ANY: Json = {"type": "object"}


def _object(**properties: object) -> Json:
    """Return the schema of an object that has all these members, and perhaps others."""
    return {"type": "object", "required": [*properties], "properties": properties}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


ERROR_VALUE = _object(code=STRING, message=STRING, parameter=_MAYBE_TEXT, retry_after=_MAYBE_COUNT)
ERROR = _object(error=ERROR_VALUE)
CALL: Json = {
    "type": "object", "required": ["id", "name", "arguments"],
    "properties": {"id": STRING, "name": STRING, "arguments": {"type": ["object", "null"]}, "text": STRING},
    "description": "What a model wrote that is no object, because it was cut, is in 'text', and 'arguments' is null.",
}
USAGE = _object(
    prompt_tokens=_COUNT, completion_tokens=_COUNT, cached_tokens=_COUNT, reasoning_tokens=_COUNT,
    timings=_object(queued=_SECONDS, load=_SECONDS, prompt=_SECONDS, answer=_SECONDS),
)
_DONE: Mapping[str, object] = {
    "reason": {"enum": [*REASONS.values()]}, "stop": _MAYBE_TEXT, "conversation": _MAYBE_TEXT,
}
DATA: Mapping[str, Json] = {
    "queued": _object(position=_MAYBE_COUNT, reason=_MAYBE_TEXT),
    "loading": _object(progress=_SHARE, stage={"enum": ["downloading", "loading"]}, about=STRING),
    "prompt": _object(progress=_SHARE, tokens=_MAYBE_COUNT, cached=_MAYBE_COUNT, conversation=_MAYBE_TEXT),
    "thoughts": _object(text=STRING), "text": _object(text=STRING), "call": CALL, "usage": USAGE,
    "done": _object(**_DONE), "error": ERROR_VALUE,
}
"""The data of each event, by its name."""
ANSWER = _object(id=STRING, model=STRING, thoughts=STRING, text=STRING, calls=_array(CALL), usage=USAGE, **_DONE)
"""A whole answer."""
_HEAD: Mapping[str, object] = {
    "id": STRING, "model": STRING, "created": _COUNT, "used": _COUNT, "message_count": _COUNT,
}
CONVERSATION = _object(**_HEAD, system=_MAYBE_TEXT, messages=_array(_ANY))
_TOOL: Json = {
    "type": "object", "required": ["name"],
    "properties": {
        "type": {"const": "function"}, "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
        "description": STRING, "parameters": _ANY, "strict": _FLAG,
    },
    "additionalProperties": False,
}


def describe(models: Sequence[str]) -> Paths:
    """Return the paths; `models` are the names that requests may name."""
    of_id = in_path("id")
    last: Json = {"name": "Last-Event-ID", "in": "header", "schema": STRING}
    events: Json = {"oneOf": [_object(event={"const": name}, data=DATA[name]) for name in EVENTS]}
    create = operation(
        "Answer messages", "The answer, or its events", streams=True, error=ERROR, schema=ANSWER,
        operation_id="createChat", events=events,
    )
    resume = operation(
        "Resume an answer after the event that Last-Event-ID names", "The rest of its events",
        kind="text/event-stream", error=ERROR, schema=events, operation_id="resumeChat", parameters=[of_id, last],
    )
    resume["responses"] = {
        **_responses(resume), "204": {"description": "The answer has ended, and its last event was the one named"},
    }
    listed = _object(object={"const": "list"}, data=_array(_object(**_HEAD)))
    deleted = _object(deleted=_array(STRING))
    return {
        "/api/v1/chat": {"post": takes(create, _body(models))},
        "/api/v1/chat/{id}": {
            "get": resume,
            "delete": operation(
                "Stop an answer", "Its id", error=ERROR, schema=_object(stopped=STRING), operation_id="stopChat",
                parameters=[of_id],
            ),
        },
        "/api/v1/conversations": {"get": operation(
            "List the kept conversations, for programs on the server's own machine", "A list", error=ERROR,
            schema=listed, operation_id="listConversations",
        )},
        "/api/v1/conversations/{id}": {
            "get": operation(
                "Show a kept conversation", "It", error=ERROR, schema=CONVERSATION, operation_id="getConversation",
                parameters=[of_id],
            ),
            "delete": operation(
                "Delete a kept conversation", "Its id", error=ERROR, schema=deleted,
                operation_id="deleteConversation", parameters=[of_id],
            ),
        },
        **{f"/api/v1/{name}": {"get": operation(
            "Fetch the client for JavaScript" if name == "client.js" else "Fetch its hook for React", "A module",
            kind="text/javascript", error=ERROR, operation_id=f"get_{name.partition('.')[0]}_script",
        )} for name in SCRIPTS},
    }


def _responses(told: Json) -> Json:
    responses = told["responses"]
    assert isinstance(responses, dict)  # noqa: S101  # what `operation` has made
    return responses


def _body(models: Sequence[str]) -> Json:
    parameters = {
        name: dict(line.kind.schema) for name, line in ROUTES["chat"].items() if line.own and name not in NOT_HERE
    }
    said: Json = {"anyOf": [STRING, {
        "type": "object", "required": ["role", "content"],
        "properties": {"role": {"enum": ["user", "system"]}, "content": STRING},
    }]}
    properties = {
        **parameters, "model": one_of(models), "message": said, "messages": MESSAGES, "system": STRING,
        "conversation": {"type": "string", "pattern": f"^{CONVERSATION_ID.pattern}$"},
        "tools": {"type": "array", "maxItems": 128, "items": _TOOL}, "stream": _FLAG, "thoughts": _FLAG,
    }
    return {
        "type": "object", "required": ["model"], "properties": properties, "additionalProperties": False,
        "oneOf": [{"required": ["message"]}, {"required": ["messages"]}],
    }
