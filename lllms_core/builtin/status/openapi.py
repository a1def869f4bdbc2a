"""The description of the routes of the status; pure."""

from lllms_core.apis import Paths
from lllms_core.apis.specification import Json, closed_object, in_path, in_query, operation, takes
from lllms_core.parameters import ROUTES


def describe() -> Paths:
    """Return the paths under `/api/v1`."""
    load = operation(
        "Load a model, or keep it loaded; returns when an instance is ready", "Its instance", streams=True,
        parameters=[in_path("name")],
    )
    options = closed_object([], {"ttl": dict(ROUTES["chat"]["ttl"].kind.schema), "stream": {"type": "boolean"}})
    unload = operation(
        "Unload the instances of a model that it does not keep (min_instances); busy ones, once they are idle",
        "Which are unloaded, which are busy, and which are kept", parameters=[in_path("name")],
    )
    metrics = operation("Everything that Prometheus can scrape", "Metrics in its text format", kind="text/plain")
    return {
        "/metrics": {"get": metrics},
        "/api/v1/downloads": {"get": operation("List the downloads of model files", "A list")},
        "/api/v1/downloads/{id}": {
            "delete": operation(
                "Cancel a download; the bytes received are kept", "Its id", parameters=[in_path("id")],
            ),
        },
        "/api/v1/models/{name}/load": {"post": _may_take(load, options)},
        "/api/v1/models/{name}/unload": {"post": _may_take(unload, closed_object([], {}))},
        "/api/v1/requests": {
            "get": operation(
                "List the requests that run or wait, and those that ended last, without their texts", "A list",
            ),
        },
        "/api/v1/requests/{id}": {
            "get": operation(
                "Tell the timeline of a request: what it waited for, and how much of its prompt was cached",
                "The request, without its text",
                parameters=[in_path("id"), in_query("text", {"type": "boolean", "default": False})],
            ),
            "delete": operation(
                "Cancel a request; its client is told", "Its id, from the header X-Request-Id of its answer",
                parameters=[in_path("id")],
            ),
        },
    }


def _may_take(told: Json, schema: Json) -> Json:
    """Return the operation with a JSON body of this schema, which may be left out."""
    body = takes(told, schema)["requestBody"]
    assert isinstance(body, dict)  # noqa: S101  # what `takes` has made
    return {**told, "requestBody": {**body, "required": False}}
