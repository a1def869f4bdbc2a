"""The description of the routes for sessions; pure."""

from collections.abc import Mapping, Sequence

from lllms_core.apis import Paths
from lllms_core.apis.specification import (
    COUNT,
    DELETED,
    FLAG,
    NUMBER,
    STRING,
    Json,
    in_path,
    in_query,
    listing,
    one_of,
    operation,
    shape,
    whole_shape,
)

_SESSION: Mapping[str, Json] = {
    "id": STRING, "object": {"const": "session"}, "model": STRING, "tokens": COUNT, "bytes": COUNT,
    "last_used": NUMBER, "where": STRING,
}


def describe(models: Sequence[str]) -> Paths:
    """Return the paths; `models` are the names that requests may name."""
    of_model, of_id = in_query("model", one_of(models)), in_path("id")
    return {
        "/api/v1/sessions": {
            "get": operation(
                "List what is kept of conversations", "A list", schema=listing(whole_shape(**_SESSION)),
                operation_id="listSessions", parameters=[of_model],
            ),
            "delete": operation(
                "Forget all, or those of a model", "The ids", schema=DELETED, operation_id="deleteSessions",
                parameters=[of_model],
            ),
        },
        "/api/v1/sessions/{id}": {
            "get": operation(
                "Describe a session, with its text if asked", "It", schema=shape([*_SESSION], **_SESSION, text=STRING),
                operation_id="getSession", parameters=[of_id, in_query("text", {**FLAG, "default": False})],
            ),
            "delete": operation(
                "Forget a session", "Its id", schema=DELETED, operation_id="deleteSession", parameters=[of_id],
            ),
        },
    }
