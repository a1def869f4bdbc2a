"""The description of the routes in OpenAPI's form; pure."""

from collections.abc import Mapping, Sequence

from lllms_core.apis import Paths
from lllms_core.apis.specification import STRING, Json, closed_object, operation, takes
from lllms_core.parameters import ROUTES
from lllms_core.parameters.kinds import INT32
from lllms_ollama.jobs import MOST_SCORES
from lllms_ollama.members import NAMED

NUMBER: Json = {"type": "number"}
COUNT: Json = {"type": "integer", "minimum": 0}
FLAG: Json = {"type": "boolean"}
LINES = "application/x-ndjson"

ERROR = closed_object(["error"], {"error": STRING})
_OBJECT: Json = {"type": "object"}
_CALL: Json = {
    "type": "object", "required": ["function"],
    "properties": {"id": STRING, "function": {
        "type": "object", "required": ["name", "arguments"], "properties": {"name": STRING, "arguments": _OBJECT},
    }},
}
_MESSAGES: Json = {"type": "array", "items": {
    "type": "object", "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "user", "assistant"]}, "content": STRING, "thinking": STRING,
        "images": {"type": "array", "maxItems": 0},
    },
    "additionalProperties": False,
}}
_SCORE: Json = {"type": "object", "required": ["token", "logprob"]}
_SAID: Json = {
    "type": "object", "required": ["role", "content"],
    "properties": {
        "role": {"const": "assistant"}, "content": STRING, "thinking": STRING,
        "tool_calls": {"type": "array", "items": _CALL},
    },
}
_COMMON: Json = {
    "model": STRING, "created_at": {"type": "string", "format": "date-time"}, "done": FLAG,
    "done_reason": {"enum": ["stop", "length", "load", "unload"]}, "logprobs": {"type": "array", "items": _SCORE},
    **{f"{name}_duration": COUNT for name in ("total", "load", "prompt_eval", "eval")},
    "prompt_eval_count": COUNT, "eval_count": COUNT,
}
_DETAILS: Json = {
    "type": "object", "required": ["format", "family", "families", "parameter_size", "quantization_level"],
    "properties": {
        "parent_model": STRING, "format": STRING, "family": STRING, "families": {"type": "array", "items": STRING},
        "parameter_size": STRING, "quantization_level": STRING,
    },
}
_MODEL: Json = {
    "name": STRING, "model": STRING, "size": COUNT, "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "details": _DETAILS,
}
_ABLE: Json = {"type": "array", "items": {"enum": ["completion", "embedding", "tools", "thinking", "vision"]}}
_VECTOR: Json = {"type": "array", "items": NUMBER}


def describe(models: Sequence[str]) -> Paths:
    """Return the paths; `models` are the names that requests may name."""
    model: Json = {"model": {"enum": [one for name in models for one in (name, f"{name}:latest")]}}
    chat = {**model, "messages": _MESSAGES, **_completing("chat"), "tools": dict(ROUTES["chat"]["tools"].kind.schema)}
    prompt = {**model, "prompt": STRING, "system": STRING, "raw": FLAG, **_completing("text")}
    vectors = {
        **model, "input": {"anyOf": [STRING, {"type": "array", "items": STRING, "minItems": 1}]}, "truncate": FLAG,
        "options": _OBJECT, "keep_alive": _keep_alive(),
    }
    show = _object({
        "modelfile": STRING, "parameters": STRING, "template": STRING, "details": _DETAILS, "model_info": _OBJECT,
        "capabilities": _ABLE, "modified_at": STRING,
    })
    embedded = _object({
        "model": STRING, "embeddings": {"type": "array", "items": _VECTOR}, "total_duration": COUNT,
        "load_duration": COUNT, "prompt_eval_count": COUNT,
    })
    told = _object({"version": STRING})
    return {
        "/api/chat": _post("ollama_chat", "Answer a conversation", closed_object(["model"], chat), _object(
            {**_COMMON, "message": _SAID}, "model", "created_at", "done", "message",
        ), lines=True),
        "/api/generate": _post("ollama_generate", "Answer a prompt", closed_object(["model"], prompt), _object(
            {**_COMMON, "response": STRING, "thinking": STRING}, "model", "created_at", "done", "response",
        ), lines=True),
        "/api/embed": _post(
            "ollama_embed", "Make vectors of texts", closed_object(["model", "input"], vectors), embedded,
        ),
        "/api/embeddings": _post(
            "ollama_embeddings", "Make a vector of a text, in the older form",
            closed_object(["model", "prompt"], {**model, "prompt": STRING, "keep_alive": _keep_alive()}),
            _object({"embedding": _VECTOR}),
        ),
        "/api/show": _post(
            "ollama_show", "Describe a model", closed_object(["model"], {**model, "verbose": FLAG}), show,
        ),
        "/api/pull": _post(
            "ollama_pull", "Fetch a model", closed_object(["model"], {**model, "stream": FLAG, "insecure": FLAG}),
            _object({"status": STRING}), lines=True,
        ),
        "/api/tags": _get("ollama_tags", "List the models", _object({
            "models": {"type": "array", "items": _object({**_MODEL, "modified_at": STRING, "capabilities": _ABLE})},
        })),
        "/api/ps": _get("ollama_ps", "List the loaded models", _object({
            "models": {"type": "array", "items": _object({
                **_MODEL, "expires_at": STRING, "size_vram": COUNT, "context_length": COUNT,
            })},
        })),
        "/api/version": _get("ollama_version", "Tell the version of the API, and of lllms", told),
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


def _object(properties: Mapping[str, object], *required: str) -> Json:
    """Return the schema of an object; all properties are required unless some are named."""
    return {"type": "object", "required": [*(required or properties)], "properties": {**properties}}


def _post(name: str, summary: str, body: Json, answer: Json, *, lines: bool = False) -> Json:
    return {"post": takes(_operation(name, summary, answer, lines=lines), body)}


def _get(name: str, summary: str, answer: Json) -> Json:
    return {"get": _operation(name, summary, answer)}


def _operation(name: str, summary: str, answer: Json, *, lines: bool = False) -> Json:
    """Return an operation with its id and the schema of its answer; of a stream, each line is such an answer."""
    described = operation(summary, "The answer; of a stream, each line has its form", error=ERROR)
    kinds: Json = {"application/json": {"schema": answer}, **({LINES: {"schema": STRING}} if lines else {})}
    responses = {"200": {"description": "The answer, or a line of a stream", "content": kinds}}
    return {**described, "operationId": name, "responses": {**_responses(described), **responses}}


def _responses(described: Json) -> Json:
    found = described["responses"]
    return {**found} if isinstance(found, dict) else {}
