"""The native API of llama-server (`/infill`, `/completion`, `/props`, `/slots` ...), and LM Studio's list of models."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api, Fault, Paths, Server
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

__all__ = ["LlamaServerApi", "LmStudioApi", "lllms_apis"]


class LlamaServerApi(Api):
    """llama-server's own routes, without a prefix; requests need not name a model.

    A streamed answer whose first token takes longer than `patience` seconds (it waits, or its model loads) gets its
    headers then, and a comment each `interval` seconds in which nothing else is sent.
    """

    name = "llama-server"

    def __init__(self, patience: float = 2.0, interval: float = 15.0) -> None:
        self.patience = patience
        self.interval = interval

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_compat.routes import make_blueprint

        return make_blueprint(server, self, self.patience, self.interval)

    def describe(self, server: Server) -> Paths:
        """Return the routes."""
        from lllms_compat.openapi import describe

        return describe([card.name for card in server.models()])

    def fault(self, fault: Fault) -> object:
        """Return `{"error": {"code", "message", "type"}}`."""
        from lllms_compat.faults import fault_value

        return fault_value(fault)

    def status(self, fault: Fault) -> int:
        """Return llama-server's status: 501 for a model that cannot fill gaps."""
        from lllms_compat.faults import status_of

        return status_of(fault)


class LmStudioApi(Api):
    """`GET /api/v0/models` and `/api/v0/models/{id}`; errors have OpenAI's shape."""

    name = "lm-studio"

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_compat.lm_studio import make_blueprint

        return make_blueprint(server)

    def describe(self, server: Server) -> Paths:  # noqa: ARG002  # they do not depend on the models
        """Return the routes."""
        from lllms_compat.openapi import describe_lm_studio

        return describe_lm_studio()


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the APIs."""
    return [LlamaServerApi(), LmStudioApi()]
