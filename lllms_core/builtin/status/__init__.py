"""The status of the server: a page for people, JSON for programs, and a health check."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

    from lllms_core.host import Host

__all__ = ["StatusApi", "lllms_apis"]


class StatusApi(Api):
    """`GET /`: models, instances and the queue; `GET /health`: whether requests are taken. Nobody's text is shown.

    `GET /api/v1/downloads` tells of downloads, `DELETE /api/v1/downloads/{id}` ends one.
    """

    name = "status"

    def blueprint(self, host: "Host") -> "Blueprint":
        """Return the routes."""
        from lllms_core.builtin.status.routes import make_blueprint

        return make_blueprint(host)


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the API."""
    return [StatusApi()]
