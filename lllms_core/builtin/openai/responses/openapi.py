"""The description of responses in OpenAPI's form, answers included; pure."""

from collections.abc import Mapping, Sequence
from typing import cast

from lllms_core.apis import Paths
from lllms_core.apis.specification import STRING, Json, in_path, in_query, one_of, operation, takes
from lllms_core.builtin.openai.responses.input_items import KINDS, ROLES
from lllms_core.builtin.openai.responses.listing import MOST
from lllms_core.builtin.openai.responses.response_body import INCLUDES
from lllms_core.parameters import ROUTES
from lllms_core.parameters.kinds import INT32

SHARED = (
    "temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty", "top_k", "min_p", "user",
    "prompt_cache_key", "safety_identifier", "service_tier", "parallel_tool_calls", "timeout", "ttl",
)
"""Parameters that mean the same in a chat; others of a chat are accepted as well."""


def describe_responses(models: Sequence[str], honoured: Mapping[str, Json]) -> Paths:
    """Return the paths; `honoured` are the schemas of a chat's parameters for these models."""
    body = _create(models, {name: honoured[name] for name in SHARED})
    properties = cast("Json", body["properties"])
    counted = {**body, "properties": {
        name: schema for name, schema in properties.items() if name not in {"stream", "background", "store"}
    }}
    one = in_path("response_id")
    include = in_query("include", {"type": "string"})
    answer = "The response, or the events of a stream"
    return {
        "/v1/responses": {"post": takes(
            _answers("createResponse", "Answer a conversation", answer, RESPONSE, streams=True), body,
        )},
        "/v1/responses/input_tokens": {"post": takes(
            _answers("countInputTokens", "Count the tokens of a conversation", "The number", COUNT), counted,
        )},
        "/v1/responses/{response_id}": {
            "get": _answers("getResponse", "Retrieve a response", answer, RESPONSE, [
                one, include, in_query("stream", {"enum": ["true", "false"]}),
                in_query("starting_after", {"type": "integer", "minimum": -1, "maximum": INT32}),
                in_query("include_obfuscation", {"enum": ["true", "false"]}),
            ], streams=True),
            "delete": _answers("deleteResponse", "Forget a response", "What was deleted", DELETED, [one]),
        },
        "/v1/responses/{response_id}/cancel": {
            "post": _answers("cancelResponse", "Stop a background response", "The response", RESPONSE, [one]),
        },
        "/v1/responses/{response_id}/input_items": {
            "get": _answers("listInputItems", "List what a response answers", "A page of items", ITEMS, [
                one, include, in_query("limit", {"type": "integer", "minimum": 1, "maximum": MOST}),
                in_query("order", one_of(["asc", "desc"])), in_query("after", STRING),
            ]),
        },
    }


def _answers(
    name: str, summary: str, answer: str, schema: Json, parameters: Sequence[Json] = (), *, streams: bool = False,
) -> Json:
    """Return an operation whose answers have this schema."""
    told = operation(summary, answer, parameters=parameters, streams=streams)
    right = cast("dict[str, Json]", told["responses"])["200"]
    cast("dict[str, Json]", right["content"])["application/json"]["schema"] = schema
    return {"operationId": name, **told}


def _maybe(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: Sequence[str], **properties: Json) -> Json:
    return {"type": "object", "required": [*required], "properties": properties}


def _array(items: Json, **more: object) -> Json:
    return {"type": "array", "items": items, **more}


_FLAG: Json = {"type": "boolean"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_STATUS: Json = {"enum": ["in_progress", "completed", "incomplete"]}
_ANY: Json = {"type": "object"}

# -- what clients send ------------------------------------------------------------------------------------------------

_TEXT_PART = _object(["type", "text"], type={"enum": ["input_text", "output_text"]}, text=STRING)
_SAID: Json = {"anyOf": [STRING, _array(_TEXT_PART)]}
_MESSAGE = _object(["role", "content"], type={"const": "message"}, role={"enum": [*ROLES]}, content=_SAID)
_CALL = _object(
    ["type", "call_id", "name", "arguments"], type={"const": "function_call"}, call_id=STRING, name=STRING,
    arguments=STRING,
)
_RESULT = _object(["type", "call_id", "output"], type={"const": "function_call_output"}, call_id=STRING, output=_SAID)
_THOUGHTS = _object(["type", "summary"], type={"const": "reasoning"}, summary=_array(_object(
    ["type", "text"], type={"const": "summary_text"}, text=STRING,
)))
INPUT: Json = {"anyOf": [STRING, _array({"anyOf": [_MESSAGE, _CALL, _RESULT, _THOUGHTS]}, minItems=1)]}
"""Without `item_reference`, which needs a kept response, and media, which few models take."""

_FUNCTION = _object(
    ["type", "name"], type={"const": "function"}, name={"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
    description=STRING, parameters=_ANY, strict=_FLAG,
)
_FORMAT: Json = {"anyOf": [
    {**_object(["type"], type={"enum": ["text", "json_object"]}), "additionalProperties": False},
    {**_object(
        ["type", "name", "schema"], type={"const": "json_schema"},
        name={"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}, schema=_ANY, strict=_FLAG, description=STRING,
    ), "additionalProperties": False},
]}


def _create(models: Sequence[str], shared: Mapping[str, Json]) -> Json:
    efforts = dict(ROUTES["chat"]["reasoning_effort"].kind.schema)
    text: Json = {**_object([], format=_FORMAT, verbosity=one_of(["low", "medium", "high"])),
                  "additionalProperties": False}
    return {
        "type": "object", "required": ["model", "input"], "additionalProperties": False,
        "properties": {
            "model": one_of(models), "input": INPUT, "instructions": _maybe(STRING), "stream": _maybe(_FLAG),
            "background": _maybe({"const": False}), "store": _maybe(_FLAG),
            "previous_response_id": {"type": "null", "description": "Or the id of a kept response."},
            "max_output_tokens": _maybe({"type": "integer", "minimum": 1, "maximum": INT32}),
            "tools": _array(_FUNCTION, maxItems=128), "tool_choice": one_of(["none", "auto"]),
            "text": text, "reasoning": _object([], effort=_maybe(efforts), summary=_maybe(STRING)),
            "include": _array(one_of(INCLUDES[1:])), "metadata": _maybe(_ANY),
            "truncation": _maybe(one_of(["auto", "disabled"])), **shared,
        },
    }


# -- what they get ----------------------------------------------------------------------------------------------------

_LOGPROB = _object(
    ["token", "logprob", "bytes", "top_logprobs"], token=STRING, logprob={"type": "number"}, bytes=_array(_COUNT),
    top_logprobs=_array(_ANY),
)
_OUTPUT_TEXT = _object(
    ["type", "text", "annotations", "logprobs"], type={"const": "output_text"}, text=STRING, annotations=_array(_ANY),
    logprobs=_array(_LOGPROB),
)
_REASONING_TEXT = _object(["type", "text"], type={"const": "reasoning_text"}, text=STRING)
_OUTPUT: Json = {"anyOf": [
    _object(
        ["id", "type", "role", "status", "content"], id=STRING, type={"const": "message"}, role={"const": "assistant"},
        status=_STATUS, content=_array(_OUTPUT_TEXT),
    ),
    _object(
        ["id", "type", "status", "summary", "content"], id=STRING, type={"const": "reasoning"}, status=_STATUS,
        summary=_array(_ANY), content=_array(_REASONING_TEXT),
    ),
    _object(
        ["id", "type", "status", "call_id", "name", "arguments"], id=STRING, type={"const": "function_call"},
        status=_STATUS, call_id=STRING, name=STRING, arguments=STRING, namespace=STRING,
    ),
]}
_USAGE = _object(
    ["input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"],
    input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT,
    input_tokens_details=_object(["cached_tokens", "cache_write_tokens"], cached_tokens=_COUNT,
                                 cache_write_tokens=_COUNT),
    output_tokens_details=_object(["reasoning_tokens"], reasoning_tokens=_COUNT),
)
RESPONSE = _object(
    [
        "id", "object", "created_at", "status", "model", "output", "error", "incomplete_details", "instructions",
        "metadata", "parallel_tool_calls", "temperature", "top_p", "tools", "tool_choice", "text", "usage",
        "previous_response_id", "background", "store",
    ],
    id={"type": "string", "pattern": "^resp_[0-9a-f]{48}$"}, object={"const": "response"}, created_at=_COUNT,
    status={"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]}, model=STRING,
    output=_array(_OUTPUT), error=_maybe(_object(["code", "message"], code=STRING, message=STRING)),
    incomplete_details=_maybe(_object(["reason"], reason={"const": "max_output_tokens"})),
    instructions=_maybe(STRING), metadata=_ANY, parallel_tool_calls=_maybe(_FLAG), temperature={"type": "number"},
    top_p={"type": "number"}, tools=_array(_ANY), tool_choice={"type": ["string", "object"]}, text=_ANY,
    usage=_maybe(_USAGE), previous_response_id=_maybe(STRING), background=_FLAG, store=_FLAG,
)
"""A response; one that has not ended has no usage."""
COUNT = _object(["object", "input_tokens"], object={"const": "response.input_tokens"}, input_tokens=_COUNT)
DELETED = _object(["id", "object", "deleted"], id=STRING, object={"const": "response"}, deleted={"const": True})
ITEMS = _object(
    ["object", "data", "has_more", "first_id", "last_id"], object={"const": "list"}, has_more=_FLAG, first_id=STRING,
    last_id=STRING, data=_array(_object(["id", "type"], id=STRING, type={"enum": [*KINDS]})),
)
