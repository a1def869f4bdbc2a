"""The description of the routes of the status; pure."""

from collections.abc import Mapping

from lllms_core.apis import Paths
from lllms_core.apis.specification import (
    COUNT,
    DELETED,
    EVENT,
    FLAG,
    NUMBER,
    STRING,
    Json,
    array,
    closed_object,
    in_path,
    in_query,
    listing,
    nullable,
    one_of,
    operation,
    shape,
    takes,
    whole_shape,
)
from lllms_core.parameters import ROUTES

_WAITING: Mapping[str, Json] = {
    "state": nullable(STRING), "position": nullable(COUNT), "progress": nullable(NUMBER), "reason": nullable(STRING),
    "text": nullable(STRING),
}
_DOWNLOAD = whole_shape(
    id=STRING, models=array(STRING), source=STRING, place=nullable(STRING), state=STRING, note=STRING,
    done_bytes=COUNT, total_bytes=nullable(COUNT), bytes_per_second=COUNT, seconds_left=nullable(COUNT), text=STRING,
)
_REQUEST = whole_shape(
    id=STRING, object={"const": "request"}, model=STRING, task=STRING, instance=nullable(STRING),
    place=nullable(STRING), seconds=NUMBER, tokens=COUNT, **{**_WAITING, "state": STRING},
)
_ENDED: Mapping[str, Json] = {
    "id": STRING, "object": {"const": "request"}, "client_id": nullable(STRING), "key": nullable(STRING),
    "model": STRING, "task": STRING, "instance": nullable(STRING), "place": nullable(STRING),
    "submitted": NUMBER, "seconds": NUMBER,
    "state": one_of(["running", "ended"]), "outcome": nullable(STRING), "status": nullable(COUNT),
    "prompt_tokens": COUNT, "cached_tokens": COUNT, "tokens": COUNT, "tokens_per_second": nullable(NUMBER),
}
_CACHE = whole_shape(
    cached_tokens=COUNT, common_tokens=COUNT, held_tokens=COUNT, diverged_at=nullable(COUNT), explanation=STRING,
)
_PARTING = whole_shape(before=STRING, prompt=STRING, cached=STRING)
_TIMELINE = shape(
    [*_ENDED, "timings", "cache", "timeline"], **_ENDED, cache=nullable(_CACHE), text=nullable(_PARTING),
    timings=whole_shape(queued=NUMBER, load=NUMBER, prompt=NUMBER, answer=NUMBER, first_piece=nullable(NUMBER)),
    timeline=array(whole_shape(seconds=NUMBER, what=STRING, detail=STRING)),
)
_LOADED = whole_shape(model=STRING, instance=nullable(STRING), seconds=NUMBER)
_UNLOADED = whole_shape(model=STRING, unloaded=array(STRING), busy=array(STRING), kept=array(STRING))
_HEALTH = shape(["status"], status=one_of(["ok", "unavailable"]), lacking=array(whole_shape(
    model=STRING, ready=COUNT, min_instances=COUNT, problem=nullable(STRING), retry_seconds=nullable(NUMBER),
)), model=STRING, ready=COUNT, problem=nullable(STRING))


def describe() -> Paths:
    """Return the paths: the health check, and those under `/api/v1`."""
    load = operation(
        "Load a model, or keep it loaded; returns when an instance is ready", "Its instance", schema=_LOADED,
        operation_id="loadModel", streams=True, parameters=[in_path("name")],
    )
    options = closed_object([], {"ttl": dict(ROUTES["chat"]["ttl"].kind.schema), "stream": FLAG})
    unload = operation(
        "Unload the instances of a model that it does not keep (min_instances); busy ones, once they are idle",
        "Which are unloaded, which are busy, and which are kept", schema=_UNLOADED, operation_id="unloadModel",
        parameters=[in_path("name")],
    )
    metrics = operation(
        "Everything that Prometheus can scrape", "Metrics in its text format", kind="text/plain",
        operation_id="getMetrics",
    )
    return {
        "/metrics": {"get": metrics},
        "/health": {"get": _also_unavailable(operation(
            "Tell whether requests are accepted, whether all kept models are loaded, or why a model cannot be loaded",
            "They are, and it can, as far as known", schema=_HEALTH, operation_id="getHealth",
            parameters=[in_query("ready", FLAG), in_query("model", STRING)],
        ))},
        "/api/v1/status/events": {"get": operation(
            "Follow what the page shows: sections, in JSON, whenever they change", "Events, as long as they are read",
            kind="text/event-stream", schema=EVENT, operation_id="followStatus",
        )},
        "/api/v1/downloads": {"get": operation(
            "List the downloads of model files", "A list", schema=listing(_DOWNLOAD), operation_id="listDownloads",
        )},
        "/api/v1/downloads/{id}": {"delete": operation(
            "Cancel a download; the bytes received are kept", "Its id", schema=DELETED, operation_id="cancelDownload",
            parameters=[in_path("id")],
        )},
        "/api/v1/models/{name}/load": {"post": _may_take(load, options)},
        "/api/v1/models/{name}/unload": {"post": _may_take(unload, closed_object([], {}))},
        "/api/v1/requests": {"get": operation(
            "List the requests that run or wait, and those that ended last, without their texts", "Two lists",
            schema=whole_shape(object={"const": "list"}, data=array(_REQUEST), ended=array(whole_shape(**_ENDED))),
            operation_id="listRequests",
        )},
        "/api/v1/requests/{id}": {
            "get": operation(
                "Tell the timeline of a request: what it waited for, and how much of its prompt was cached",
                "The request, without its text", schema=_TIMELINE, operation_id="explainRequest",
                parameters=[in_path("id"), in_query("text", FLAG)],
            ),
            "delete": operation(
                "Cancel a request; its client is told", "Its id, from the header X-Request-Id of its answer",
                schema=DELETED, operation_id="cancelRequest", parameters=[in_path("id")],
            ),
        },
    }


def _also_unavailable(told: Json) -> Json:
    """Return the operation, whose answers have the same form if the server cannot serve."""
    responses = told["responses"]
    assert isinstance(responses, dict)  # noqa: S101  # what `operation` has made
    return {**told, "responses": {**responses, "503": {**responses["200"], "description": "They are not"}}}


def _may_take(told: Json, schema: Json) -> Json:
    """Return the operation with a JSON body of this schema, which may be left out."""
    body = takes(told, schema)["requestBody"]
    assert isinstance(body, dict)  # noqa: S101  # what `takes` has made
    return {**told, "requestBody": {**body, "required": False}}
