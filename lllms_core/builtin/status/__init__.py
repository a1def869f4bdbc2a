"""The status of the server: a page for people, JSON for programs, and a health check."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api, Paths, Server
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

__all__ = ["StatusApi", "lllms_apis"]


class StatusApi(Api):
    """`GET /`: models, instances and the queue, as a live page or as JSON; neither shows what clients and models write.

    `GET /health` tells whether requests are accepted, or why one model cannot be used.
    `GET /api/v1/downloads` and `GET /api/v1/requests` tell of downloads and requests, `DELETE` with an id ends one;
    `GET /api/v1/requests/{id}` tells the timeline of a request. `GET /metrics` is for Prometheus.
    `POST /api/v1/models/{name}/load` and `/unload` load and unload a model.
    """

    name = "status"

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_core.builtin.status.routes import make_blueprint

        return make_blueprint(server)

    def describe(self, server: Server) -> Paths:  # noqa: ARG002  # it does not depend on the models
        """Return the routes under `/api/v1`."""
        from lllms_core.builtin.status.openapi import describe

        return describe()


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the API."""
    return [StatusApi()]
