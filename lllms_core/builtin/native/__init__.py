"""The native API, under `/api/v1`: facts about a loaded model, and the configuration, which OpenAI's API lacks."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api, Paths, Server
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

__all__ = ["NativeApi", "lllms_apis"]


class NativeApi(Api):
    """`POST /api/v1/tokenize`, `/detokenize`, `/apply-template` and `/reload`; errors have OpenAI's shape."""

    name = "native"

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_core.builtin.native.routes import make_blueprint

        return make_blueprint(server)

    def describe(self, server: Server) -> Paths:
        """Return the routes under `/api/v1`."""
        from lllms_core.builtin.native.openapi import describe

        return describe([card.name for card in server.models()])


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the API."""
    return [NativeApi()]
