"""The description of the API in OpenAPI's form; pure."""

from collections.abc import Mapping, Sequence
from functools import partial

from lllms_anthropic.model_list import MOST
from lllms_anthropic.request_body import EFFORTS, THINKING
from lllms_anthropic.tools import CHOICES, NAME
from lllms_core.apis import Paths
from lllms_core.apis.specification import (
    ANY,
    COUNT,
    FLAG,
    STRING,
    Json,
    array,
    in_path,
    in_query,
    one_of,
    operation,
    shape,
    takes,
)
from lllms_core.parameters.kinds import INT64
from lllms_core.parameters.table import MAX_STOPS

MAYBE: Json = {"type": ["string", "null"]}


def _block(kind: str, required: Sequence[str] = (), **properties: Json) -> Json:
    return shape(["type", *required], type={"const": kind}, **properties)


ERROR = shape(
    ["type", "error"], type={"const": "error"}, error=shape(["type", "message"], type=STRING, message=STRING),
)
_TEXT = _block("text", ["text"], text=STRING)
_CONTENT: Json = {"anyOf": [STRING, array(_TEXT)]}
_RESULT = _block("tool_result", ["tool_use_id"], tool_use_id=STRING, content=_CONTENT, is_error=FLAG)
_CALL = _block("tool_use", ["id", "name", "input"], id=STRING, name=STRING, input=ANY)
_THOUGHTS = _block("thinking", ["thinking"], thinking=STRING, signature=STRING)
_SOURCE: Json = {"anyOf": [
    _block("base64", ["media_type", "data"], media_type=STRING, data=STRING), _block("url", ["url"], url=STRING),
]}
_IMAGE = _block("image", ["source"], source=_SOURCE)
_BLOCKS: Mapping[str, Sequence[Json]] = {
    "user": (_TEXT, _IMAGE, _RESULT), "assistant": (_TEXT, _THOUGHTS, _CALL), "system": (_TEXT,),
}
MESSAGES: Json = {"type": "array", "minItems": 1, "items": {"anyOf": [
    shape(["role", "content"], role={"const": role}, content={
        "anyOf": [STRING, {"type": "array", "items": {"anyOf": [*blocks]}}],
    })
    for role, blocks in _BLOCKS.items()
]}}
_TOOL = shape(
    ["name", "input_schema"], name={"type": "string", "pattern": f"^{NAME.pattern}$"}, description=STRING,
    input_schema={"type": "object", "properties": {"type": {"const": "object"}}}, type={"const": "custom"},
)
_FORMAT = shape(["type", "schema"], type={"const": "json_schema"}, schema=ANY)
_PROMPT: Mapping[str, Json] = {
    "messages": MESSAGES,
    "system": _CONTENT,
    "tools": array(_TOOL),
    "tool_choice": shape(
        ["type"], type={"enum": [*CHOICES]}, name=STRING, disable_parallel_tool_use=FLAG,
    ),
    "thinking": shape(["type"], type={"enum": [*THINKING]}, budget_tokens=COUNT),
    "output_config": shape([], effort={"enum": [*EFFORTS]}, format=_FORMAT),
}
"""The members that make a prompt."""
_REST: Mapping[str, Json] = {
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": INT64},
    "stream": FLAG,
    "stop_sequences": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_STOPS},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "metadata": ANY,
}
_USAGE = shape(
    ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"], input_tokens=COUNT,
    cache_creation_input_tokens=COUNT, cache_read_input_tokens=COUNT, output_tokens=COUNT,
)
MESSAGE = shape(
    ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"], id=STRING,
    type={"const": "message"}, role={"const": "assistant"}, model=STRING,
    content={"type": "array", "items": {"anyOf": [_TEXT, _THOUGHTS, _CALL]}},
    stop_reason={"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]}, stop_sequence=MAYBE, usage=_USAGE,
)
EVENT = shape(["event", "data"], data=STRING, event={"enum": [
    "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
    "message_stop", "ping", "error",
]})
MODEL = shape(
    ["type", "id", "display_name", "created_at"], type={"const": "model"}, id=STRING, display_name=STRING,
    created_at={"type": "string", "format": "date-time"}, max_input_tokens={"type": ["integer", "null"]},
    max_tokens={"type": ["integer", "null"]},
)
MODELS = shape(
    ["data", "has_more", "first_id", "last_id"], data=array(MODEL), has_more=FLAG,
    first_id=MAYBE, last_id=MAYBE,
)


def describe(models: Sequence[str]) -> Paths:
    """Return the paths; `models` are the names that requests may name.

    An API that serves `/v1/models`, too, describes it; requests for Anthropic's form have its header.
    """
    prompt = {"model": one_of(models), **_PROMPT}
    answered = _told(
        "Answer a conversation", "The message, or its events", operation_id="createMessage", schema=MESSAGE,
        streams=True, events=EVENT,
    )
    counted = _told("Count the tokens of a prompt", "Their number", operation_id="countTokens", schema=shape(
        ["input_tokens"], input_tokens=COUNT,
    ))
    query = [in_query("limit", {"type": "integer", "minimum": 1, "maximum": MOST}),
             *(in_query(name, STRING) for name in ("after_id", "before_id"))]
    return {
        "/v1/messages": {"post": takes(answered, shape(["model", "messages"], **prompt, **_REST))},
        "/v1/messages/count_tokens": {"post": takes(counted, shape(["model", "messages"], **prompt))},
        "/anthropic/v1/models": {"get": _told(
            "List the models", "A page of models", operation_id="listAnthropicModels", schema=MODELS, parameters=query,
        )},
        "/anthropic/v1/models/{model}": {"get": _told(
            "Describe a model", "A model", operation_id="describeAnthropicModel", schema=MODEL,
            parameters=[in_path("model")],
        )},
    }


_told = partial(operation, error=ERROR)
