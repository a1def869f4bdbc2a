"""The built-in session stores, `memory` and `disk`, and the routes for sessions."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api
from lllms_core.builtin.sessions.disk import DiskStore
from lllms_core.builtin.sessions.memory import MemoryStore
from lllms_core.hookspecs import hookimpl
from lllms_core.sessions import SessionStore

if TYPE_CHECKING:
    from quart import Blueprint

    from lllms_core.host import Host

__all__ = ["DiskStore", "MemoryStore", "SessionsApi", "lllms_apis", "lllms_session_stores"]


class SessionsApi(Api):
    """`GET` and `DELETE /api/v1/sessions` and `/api/v1/sessions/{id}`: list and forget sessions.

    They return models, counts, sizes, times and places; text only of a single session, and only on request.
    """

    name = "sessions"

    def blueprint(self, host: "Host") -> "Blueprint":
        """Return the routes."""
        from lllms_core.builtin.sessions.routes import make_blueprint

        return make_blueprint(host)


@hookimpl
def lllms_session_stores() -> Iterable[SessionStore]:
    """Provide both stores."""
    return [MemoryStore(), DiskStore()]


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the routes."""
    return [SessionsApi()]
