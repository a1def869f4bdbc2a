"""The description of the routes in OpenAPI's form; pure."""

from collections.abc import Mapping, Sequence

from lllms_core.apis import Paths
from lllms_core.apis.specification import (
    ANY,
    COUNT,
    FLAG,
    NUMBER,
    STRING,
    Json,
    array,
    closed_object,
    operation,
    shape,
    takes,
    whole_shape,
)
from lllms_core.parameters import ROUTES
from lllms_core.parameters.kinds import INT32
from lllms_ollama.jobs import MOST_SCORES
from lllms_ollama.members import NAMED

LINES = "application/x-ndjson"

ERROR = closed_object(["error"], {"error": STRING})
_CALL = shape(["function"], id=STRING, function=whole_shape(name=STRING, arguments=ANY))
_MESSAGES: Json = {"type": "array", "items": {
    "type": "object", "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "user", "assistant"]}, "content": STRING, "thinking": STRING,
        "images": {"type": "array", "maxItems": 0},
    },
    "additionalProperties": False,
}}
_SCORE = shape(["token", "logprob"])
_SAID = shape(
    ["role", "content"], role={"const": "assistant"}, content=STRING, thinking=STRING, tool_calls=array(_CALL),
)
_COMMON: Mapping[str, Json] = {
    "model": STRING, "created_at": {"type": "string", "format": "date-time"}, "done": FLAG,
    "done_reason": {"enum": ["stop", "length", "load", "unload"]}, "logprobs": array(_SCORE),
    **{f"{name}_duration": COUNT for name in ("total", "load", "prompt_eval", "eval")},
    "prompt_eval_count": COUNT, "eval_count": COUNT,
}
_DETAILS = shape(
    ["format", "family", "families", "parameter_size", "quantization_level"], parent_model=STRING, format=STRING,
    family=STRING, families=array(STRING), parameter_size=STRING, quantization_level=STRING,
)
_MODEL: Mapping[str, Json] = {
    "name": STRING, "model": STRING, "size": COUNT, "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "details": _DETAILS,
}
_ABLE = array({"enum": ["completion", "embedding", "tools", "thinking", "vision"]})
_VECTOR = array(NUMBER)


def describe(models: Sequence[str]) -> Paths:
    """Return the paths; `models` are the names that requests may name."""
    model: Json = {"model": {"enum": [one for name in models for one in (name, f"{name}:latest")]}}
    chat = {**model, "messages": _MESSAGES, **_completing("chat"), "tools": dict(ROUTES["chat"]["tools"].kind.schema)}
    prompt = {**model, "prompt": STRING, "system": STRING, "raw": FLAG, **_completing("text")}
    vectors = {
        **model, "input": {"anyOf": [STRING, {"type": "array", "items": STRING, "minItems": 1}]}, "truncate": FLAG,
        "options": ANY, "keep_alive": _keep_alive(),
    }
    show = whole_shape(
        modelfile=STRING, parameters=STRING, template=STRING, details=_DETAILS, model_info=ANY, capabilities=_ABLE,
        modified_at=STRING,
    )
    embedded = whole_shape(
        model=STRING, embeddings=array(_VECTOR), total_duration=COUNT, load_duration=COUNT, prompt_eval_count=COUNT,
    )
    common = ["model", "created_at", "done"]
    return {
        "/api/chat": _post(
            "ollama_chat", "Answer a conversation", closed_object(["model"], chat),
            shape([*common, "message"], **_COMMON, message=_SAID), lines=True,
        ),
        "/api/generate": _post(
            "ollama_generate", "Answer a prompt", closed_object(["model"], prompt),
            shape([*common, "response"], **_COMMON, response=STRING, thinking=STRING), lines=True,
        ),
        "/api/embed": _post(
            "ollama_embed", "Make vectors of texts", closed_object(["model", "input"], vectors), embedded,
        ),
        "/api/embeddings": _post(
            "ollama_embeddings", "Make a vector of a text, in the older form",
            closed_object(["model", "prompt"], {**model, "prompt": STRING, "keep_alive": _keep_alive()}),
            whole_shape(embedding=_VECTOR),
        ),
        "/api/show": _post(
            "ollama_show", "Describe a model", closed_object(["model"], {**model, "verbose": FLAG}), show,
        ),
        "/api/pull": _post(
            "ollama_pull", "Fetch a model", closed_object(["model"], {**model, "stream": FLAG, "insecure": FLAG}),
            whole_shape(status=STRING), lines=True,
        ),
        "/api/tags": _get("ollama_tags", "List the models", whole_shape(
            models=array(whole_shape(**_MODEL, modified_at=STRING, capabilities=_ABLE)),
        )),
        "/api/ps": _get("ollama_ps", "List the loaded models", whole_shape(
            models=array(whole_shape(**_MODEL, expires_at=STRING, size_vram=COUNT, context_length=COUNT)),
        )),
        "/api/version": _get("ollama_version", "Tell the version of the API, and of lllms", whole_shape(
            version=STRING,
        )),
    }


def _completing(route: str) -> Json:
    """Return the members that a chat and a prompt share."""
    table = ROUTES["chat" if route == "chat" else "text"]
    temperature = dict(table["temperature"].kind.schema)
    options = {
        "temperature": temperature, "seed": {"type": "integer", "minimum": 0, "maximum": INT32},
        "num_predict": {"type": "integer", "minimum": -2, "maximum": INT32},
        "stop": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4},
        **dict.fromkeys(sorted(NAMED), NUMBER),
    }
    return {
        "stream": FLAG, "options": closed_object([], options), "keep_alive": _keep_alive(),
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": MOST_SCORES // 4}, "logprobs": {"const": True},
        "truncate": FLAG, "shift": FLAG,
    }


def _keep_alive() -> Json:
    return {"anyOf": [{"type": "integer", "minimum": -1, "maximum": 3600}, {"enum": ["5m", "1h30m", "0", "-1s"]}]}


def _post(name: str, summary: str, body: Json, answer: Json, *, lines: bool = False) -> Json:
    return {"post": takes(_operation(name, summary, answer, lines=lines), body)}


def _get(name: str, summary: str, answer: Json) -> Json:
    return {"get": _operation(name, summary, answer)}


def _operation(name: str, summary: str, answer: Json, *, lines: bool = False) -> Json:
    """Return an operation with its id and the schema of its answer; of a stream, each line is such an answer."""
    return operation(
        summary, "The answer; of a stream, each line has its form", error=ERROR, schema=answer, operation_id=name,
        streams=lines and LINES,
    )
