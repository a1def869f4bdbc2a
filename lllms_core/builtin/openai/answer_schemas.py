"""The schemas of the answers, for the description; pure."""

from collections.abc import Mapping
from typing import get_args

from lllms_core.apis import ModelState
from lllms_core.apis.specification import (
    ANY,
    COUNT,
    NUMBER,
    STRING,
    Json,
    array,
    listing,
    nullable,
    one_of,
    shape,
    whole_shape,
)

_FUNCTION = whole_shape(name=STRING, arguments=STRING)
_CALL = whole_shape(id=STRING, type={"const": "function"}, function=_FUNCTION)
_MESSAGE = shape(
    ["role", "content", "refusal"], role={"const": "assistant"}, content=nullable(STRING), refusal={"type": "null"},
    reasoning_content=STRING, tool_calls=array(_CALL, minItems=1), function_call=_FUNCTION,
)
_SCORE: Mapping[str, Json] = {"token": STRING, "logprob": NUMBER, "bytes": array({**COUNT, "maximum": 255})}
_CHAT_SCORES = whole_shape(
    content=array(whole_shape(**_SCORE, top_logprobs=array(whole_shape(**_SCORE)))), refusal={"type": "null"},
)
_TEXT_SCORES = whole_shape(
    tokens=array(STRING), token_logprobs=array(nullable(NUMBER)), top_logprobs=array(nullable(ANY)),
    text_offset=array(COUNT),
)
_USAGE = whole_shape(
    prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT,
    prompt_tokens_details=whole_shape(cached_tokens=COUNT),
    completion_tokens_details=whole_shape(
        reasoning_tokens=COUNT, accepted_prediction_tokens=COUNT, rejected_prediction_tokens=COUNT,
    ),
)
_PROMPT_USAGE = whole_shape(prompt_tokens=COUNT, total_tokens=COUNT)


def _completion(kind: str, reasons: tuple[str, ...], scores: Json, **said: Json) -> Json:
    choice = whole_shape(index=COUNT, logprobs=nullable(scores), finish_reason=one_of(reasons), **said)
    return whole_shape(
        id=STRING, object={"const": kind}, created=COUNT, model=STRING, system_fingerprint=STRING,
        choices=array(choice, minItems=1), usage=_USAGE,
    )


CHAT = _completion(
    "chat.completion", ("stop", "length", "tool_calls", "function_call"), _CHAT_SCORES, message=_MESSAGE,
)
TEXT = _completion("text_completion", ("stop", "length"), _TEXT_SCORES, text=STRING)
EMBEDDINGS = whole_shape(
    object={"const": "list"}, model=STRING, usage=_PROMPT_USAGE,
    data=array(whole_shape(
        object={"const": "embedding"}, index=COUNT, embedding={"anyOf": [array(NUMBER), STRING]},
    )),
)
RANKING = whole_shape(
    object={"const": "list"}, model=STRING, usage=_PROMPT_USAGE,
    results=array(shape(
        ["index", "relevance_score"], index=COUNT, relevance_score=NUMBER, document=whole_shape(text=STRING),
    )),
)
_MODEL: Mapping[str, Json] = {
    "id": STRING, "object": {"const": "model"}, "created": COUNT, "owned_by": STRING, "aliases": array(STRING),
    "context_length": nullable(COUNT), "max_model_len": nullable(COUNT), "tasks": nullable(array(STRING)),
    "state": one_of(get_args(ModelState)),
}
MODELS = listing(whole_shape(**_MODEL))
MODEL = whole_shape(**_MODEL, description=STRING, parameters={"type": "object", "additionalProperties": ANY})
