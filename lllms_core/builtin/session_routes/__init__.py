"""The routes that list the sessions, and forget them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api, Paths, Server
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

__all__ = ["SessionsApi", "lllms_apis"]


class SessionsApi(Api):
    """`GET` and `DELETE /api/v1/sessions` and `/api/v1/sessions/{id}`: list and forget sessions.

    They return models, counts, sizes, times and places; text only of one session, on request.
    """

    name = "sessions"

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_core.builtin.session_routes.routes import make_blueprint

        return make_blueprint(server)

    def describe(self, server: Server) -> Paths:
        """Return the routes under `/api/v1/sessions`."""
        from lllms_core.builtin.session_routes.openapi import describe

        return describe([card.name for card in server.models()])


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the routes."""
    return [SessionsApi()]
