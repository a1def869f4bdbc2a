"""The description of responses in OpenAPI's form, answers included; pure."""

from collections.abc import Mapping, Sequence
from typing import cast

from lllms_core.apis import Paths
from lllms_core.apis.specification import (
    ANY,
    COUNT,
    FLAG,
    NUMBER,
    STRING,
    Json,
    array,
    in_path,
    in_query,
    nullable,
    one_of,
    operation,
    shape,
    takes,
)
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
        "/v1/responses": {"post": takes(operation(
            "Answer a conversation", answer, schema=RESPONSE, operation_id="createResponse", streams=True,
        ), body)},
        "/v1/responses/input_tokens": {"post": takes(operation(
            "Count the tokens of a conversation", "The number", schema=COUNTED, operation_id="countInputTokens",
        ), counted)},
        "/v1/responses/{response_id}": {
            "get": operation(
                "Retrieve a response", answer, schema=RESPONSE, operation_id="getResponse", streams=True, parameters=[
                    one, include, in_query("stream", {"enum": ["true", "false"]}),
                    in_query("starting_after", {"type": "integer", "minimum": -1, "maximum": INT32}),
                    in_query("include_obfuscation", {"enum": ["true", "false"]}),
                ],
            ),
            "delete": operation(
                "Forget a response", "What was deleted", schema=DELETED, operation_id="deleteResponse",
                parameters=[one],
            ),
        },
        "/v1/responses/{response_id}/cancel": {"post": operation(
            "Stop a background response", "The response", schema=RESPONSE, operation_id="cancelResponse",
            parameters=[one],
        )},
        "/v1/responses/{response_id}/input_items": {"get": operation(
            "List what a response answers", "A page of items", schema=ITEMS, operation_id="listInputItems",
            parameters=[
                one, include, in_query("limit", {"type": "integer", "minimum": 1, "maximum": MOST}),
                in_query("order", one_of(["asc", "desc"])), in_query("after", STRING),
            ],
        )},
    }


_STATUS: Json = {"enum": ["in_progress", "completed", "incomplete"]}

# -- what clients send ------------------------------------------------------------------------------------------------

_TEXT_PART = shape(["type", "text"], type={"enum": ["input_text", "output_text"]}, text=STRING)
_SAID: Json = {"anyOf": [STRING, array(_TEXT_PART)]}
_MESSAGE = shape(["role", "content"], type={"const": "message"}, role={"enum": [*ROLES]}, content=_SAID)
_CALL = shape(
    ["type", "call_id", "name", "arguments"], type={"const": "function_call"}, call_id=STRING, name=STRING,
    arguments=STRING,
)
_RESULT = shape(["type", "call_id", "output"], type={"const": "function_call_output"}, call_id=STRING, output=_SAID)
_THOUGHTS = shape(["type", "summary"], type={"const": "reasoning"}, summary=array(shape(
    ["type", "text"], type={"const": "summary_text"}, text=STRING,
)))
INPUT: Json = {"anyOf": [STRING, array({"anyOf": [_MESSAGE, _CALL, _RESULT, _THOUGHTS]}, minItems=1)]}
"""Without `item_reference`, which needs a kept response, and media, which few models take."""

_FUNCTION = shape(
    ["type", "name"], type={"const": "function"}, name={"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
    description=STRING, parameters=ANY, strict=FLAG,
)
_FORMAT: Json = {"anyOf": [
    {**shape(["type"], type={"enum": ["text", "json_object"]}), "additionalProperties": False},
    {**shape(
        ["type", "name", "schema"], type={"const": "json_schema"},
        name={"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}, schema=ANY, strict=FLAG, description=STRING,
    ), "additionalProperties": False},
]}


def _create(models: Sequence[str], shared: Mapping[str, Json]) -> Json:
    efforts = dict(ROUTES["chat"]["reasoning_effort"].kind.schema)
    text: Json = {**shape([], format=_FORMAT, verbosity=one_of(["low", "medium", "high"])),
                  "additionalProperties": False}
    return {
        "type": "object", "required": ["model", "input"], "additionalProperties": False,
        "properties": {
            "model": one_of(models), "input": INPUT, "instructions": nullable(STRING), "stream": nullable(FLAG),
            "background": nullable({"const": False}), "store": nullable(FLAG),
            "previous_response_id": {"type": "null", "description": "Or the id of a kept response."},
            "max_output_tokens": nullable({"type": "integer", "minimum": 1, "maximum": INT32}),
            "tools": array(_FUNCTION, maxItems=128), "tool_choice": one_of(["none", "auto"]),
            "text": text, "reasoning": shape([], effort=nullable(efforts), summary=nullable(STRING)),
            "include": array(one_of(INCLUDES[1:])), "metadata": nullable(ANY),
            "truncation": nullable(one_of(["auto", "disabled"])), **shared,
        },
    }


# -- what they get ----------------------------------------------------------------------------------------------------

_LOGPROB = shape(
    ["token", "logprob", "bytes", "top_logprobs"], token=STRING, logprob=NUMBER, bytes=array(COUNT),
    top_logprobs=array(ANY),
)
_OUTPUT_TEXT = shape(
    ["type", "text", "annotations", "logprobs"], type={"const": "output_text"}, text=STRING, annotations=array(ANY),
    logprobs=array(_LOGPROB),
)
_REASONING_TEXT = shape(["type", "text"], type={"const": "reasoning_text"}, text=STRING)
_OUTPUT: Json = {"anyOf": [
    shape(
        ["id", "type", "role", "status", "content"], id=STRING, type={"const": "message"}, role={"const": "assistant"},
        status=_STATUS, content=array(_OUTPUT_TEXT),
    ),
    shape(
        ["id", "type", "status", "summary", "content"], id=STRING, type={"const": "reasoning"}, status=_STATUS,
        summary=array(ANY), content=array(_REASONING_TEXT),
    ),
    shape(
        ["id", "type", "status", "call_id", "name", "arguments"], id=STRING, type={"const": "function_call"},
        status=_STATUS, call_id=STRING, name=STRING, arguments=STRING, namespace=STRING,
    ),
]}
_USAGE = shape(
    ["input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"],
    input_tokens=COUNT, output_tokens=COUNT, total_tokens=COUNT,
    input_tokens_details=shape(["cached_tokens", "cache_write_tokens"], cached_tokens=COUNT,
                                 cache_write_tokens=COUNT),
    output_tokens_details=shape(["reasoning_tokens"], reasoning_tokens=COUNT),
)
RESPONSE = shape(
    [
        "id", "object", "created_at", "status", "model", "output", "error", "incomplete_details", "instructions",
        "metadata", "parallel_tool_calls", "temperature", "top_p", "tools", "tool_choice", "text", "usage",
        "previous_response_id", "background", "store",
    ],
    id={"type": "string", "pattern": "^resp_[0-9a-f]{48}$"}, object={"const": "response"}, created_at=COUNT,
    status={"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]}, model=STRING,
    output=array(_OUTPUT), error=nullable(shape(["code", "message"], code=STRING, message=STRING)),
    incomplete_details=nullable(shape(["reason"], reason={"const": "max_output_tokens"})),
    instructions=nullable(STRING), metadata=ANY, parallel_tool_calls=nullable(FLAG), temperature=NUMBER,
    top_p=NUMBER, tools=array(ANY), tool_choice={"type": ["string", "object"]}, text=ANY,
    usage=nullable(_USAGE), previous_response_id=nullable(STRING), background=FLAG, store=FLAG,
)
"""A response; one that has not ended has no usage."""
COUNTED = shape(["object", "input_tokens"], object={"const": "response.input_tokens"}, input_tokens=COUNT)
DELETED = shape(["id", "object", "deleted"], id=STRING, object={"const": "response"}, deleted={"const": True})
ITEMS = shape(
    ["object", "data", "has_more", "first_id", "last_id"], object={"const": "list"}, has_more=FLAG, first_id=STRING,
    last_id=STRING, data=array(shape(["id", "type"], id=STRING, type={"enum": [*KINDS]})),
)
