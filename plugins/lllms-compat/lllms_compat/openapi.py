"""The description of the routes in OpenAPI's form; pure."""

from collections.abc import Mapping, Sequence

from lllms_core.apis import Paths
from lllms_core.apis.specification import MESSAGES, STRING, Json, in_path, in_query, one_of, operation, takes
from lllms_core.parameters import ROUTES
from lllms_core.parameters.excerpts import Excerpts
from lllms_core.parameters.kinds import INT32, INT64
from lllms_core.parameters.table import MAX_STOPS

COUNT: Json = {"type": "integer", "minimum": 0}
TOKEN: Json = {"type": "integer", "minimum": 0, "maximum": INT32}
TOKENS: Json = {"type": "array", "minItems": 1, "items": TOKEN}
FLAG: Json = {"type": "boolean"}
NUMBER: Json = {"type": "number", "minimum": 0}
MAYBE: Json = {"type": ["string", "null"]}


def _object(required: Sequence[str], **properties: Json) -> Json:
    return {"type": "object", "required": [*required], "properties": properties}


def _all(**properties: Json) -> Json:
    return _object([*properties], **properties)


ERROR = _all(error=_all(code={"type": "integer"}, message=STRING, type=STRING))
_PACES = {
    f"{what}_{unit}": NUMBER for what in ("prompt", "predicted") for unit in ("ms", "per_token_ms", "per_second")
}
TIMINGS = _all(cache_n=COUNT, prompt_n=COUNT, predicted_n=COUNT, **_PACES)
SETTINGS: Json = {"type": "object"}
ANSWER = _object(
    [], index=COUNT, content=STRING, tokens={"type": "array", "items": TOKEN}, stop=FLAG, model=STRING,
    tokens_predicted=COUNT, tokens_evaluated=COUNT, generation_settings=SETTINGS, prompt=STRING, has_new_line=FLAG,
    truncated=FLAG, stop_type={"enum": ["eos", "word", "limit"]}, stopping_word=STRING, tokens_cached=COUNT,
    timings=TIMINGS, completion_probabilities={"type": "array", "items": {"type": "object"}},
)
"""All members are there unless `response_fields` chooses some."""
EVENT = _object(["data"], data=STRING)
"""Its data is a piece of the answer (`stop` is false), the end of it, with all members of an answer, or an error."""
PROPS = _all(
    default_generation_settings=_all(n_ctx={"type": ["integer", "null"]}, params=SETTINGS), total_slots=COUNT,
    model_alias=STRING, model_path=STRING, modalities=_all(vision=FLAG, audio=FLAG), chat_template=STRING,
    bos_token=STRING, eos_token=STRING, build_info=STRING, is_sleeping=FLAG,
)
SLOTS: Json = {"type": "array", "items": _all(
    id=COUNT, model=STRING, n_ctx=COUNT, speculative=FLAG, is_processing=FLAG,
    next_token={"type": "array", "items": _all(has_next_token=FLAG)},
)}
STUDIO_MODEL = _object(
    ["id", "object", "type", "publisher", "arch", "compatibility_type", "quantization", "state", "max_context_length"],
    id=STRING, object={"const": "model"}, type={"enum": ["llm", "vlm", "embeddings"]}, publisher=STRING, arch=STRING,
    compatibility_type=STRING, quantization=MAYBE, state={"enum": ["loaded", "not-loaded"]},
    max_context_length={"type": ["integer", "null"]}, loaded_context_length=COUNT,
    capabilities={"type": "array", "items": STRING},
)
_PLAIN = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty",
          "frequency_penalty", "seed", "cache_prompt")
"""Parameters that are described as those of OpenAI's API."""


def describe(models: Sequence[str]) -> Paths:
    """Return the paths of llama-server; `models` are the names that requests may name."""
    model = one_of(models)
    common: Mapping[str, Json] = {
        "model": model, "n_predict": {"type": "integer", "minimum": -INT64, "maximum": INT64}, "stream": FLAG,
        "stop": {"type": "array", "items": STRING, "maxItems": MAX_STOPS},
        "samplers": {"type": "array", "items": STRING},
        "response_fields": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 100},
        "n_probs": {"type": "integer", "minimum": 0, "maximum": INT32},
        "n_indent": {"type": "integer", "minimum": 0, "maximum": INT32},
        "t_max_predict_ms": {"type": "integer", "minimum": -1, "maximum": INT64},
        **{name: dict(ROUTES["text"][name].kind.schema) for name in _PLAIN},
    }
    mixed: Json = {"type": "array", "minItems": 1, "items": {"anyOf": [TOKEN, STRING]}}
    prompts: Json = {"anyOf": [STRING, mixed, {"type": "array", "minItems": 1, "items": {"anyOf": [STRING, mixed]}}]}
    answers: Json = {"anyOf": [ANSWER, {"type": "array", "items": ANSWER}]}
    completed = _told("Continue a text", "The answer, or its events", "completeText", answers, streams=True)
    filled = _told("Fill a gap", "The answer, or its events", "fillGap", ANSWER, streams=True)
    infill = _object(
        ["input_prefix", "input_suffix"], input_prefix=STRING, input_suffix=STRING, prompt=STRING,
        input_extra=dict(Excerpts().schema), **common,
    )
    pieces: Json = {"anyOf": [TOKEN, _all(id=TOKEN, piece={"type": ["string", "array"]})]}
    tokens = _all(tokens={"type": "array", "items": pieces})
    asked = [in_query("model", STRING)]
    return {
        "/infill": {"post": takes(filled, infill)},
        "/completion": {"post": takes(completed, _object(["prompt"], prompt=prompts, **common))},
        "/completions": {"post": takes(
            {**completed, "operationId": "completeTextOlder"}, _object(["prompt"], prompt=prompts, **common),
        )},
        "/tokenize": {"post": takes(
            _told("Show the tokens of a text", "The tokens", "tokenizeContent", tokens),
            _object(["content"], model=model, content=STRING, add_special=FLAG, with_pieces=FLAG, parse_special=FLAG),
        )},
        "/detokenize": {"post": takes(
            _told("Show the text of tokens", "The text", "detokenizeContent", _all(content=STRING)),
            _object(["tokens"], model=model, tokens={"type": "array", "items": TOKEN}),
        )},
        "/apply-template": {"post": takes(
            _told("Show the prompt of a chat", "The prompt", "applyTemplateOfChat", _all(prompt=STRING)),
            _object(["messages"], model=model, messages=MESSAGES),
        )},
        "/props": {
            "get": {**_told("Describe the model", "Its properties", "getProps", PROPS), "parameters": asked},
        },
        "/slots": {"get": {
            **_told("Show the slots", "All slots of the loaded models", "getSlots", SLOTS),
            "parameters": [*asked, in_query("fail_on_no_slot", STRING)],
        }},
    }


def describe_lm_studio() -> Paths:
    """Return the paths of LM Studio."""
    listed = _all(object={"const": "list"}, data={"type": "array", "items": STUDIO_MODEL})
    return {
        "/api/v0/models": {"get": operation(
            "List the models", "A list of models", schema=listed, operation_id="listStudioModels",
        )},
        "/api/v0/models/{model}": {"get": operation(
            "Describe a model", "A model", parameters=[in_path("model")], schema=STUDIO_MODEL,
            operation_id="describeStudioModel",
        )},
    }


def _told(summary: str, answer: str, operation_id: str, schema: Json, *, streams: bool = False) -> Json:
    return operation(
        summary, answer, streams=streams, error=ERROR, schema=schema, operation_id=operation_id, events=EVENT,
    )
