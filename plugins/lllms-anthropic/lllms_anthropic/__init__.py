"""Anthropic's API: messages, their token counts, and the models, under `/v1` and `/anthropic/v1`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_anthropic.faults import fault_value, status_of
from lllms_core.apis import Api, Fault, Paths, Server
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

__all__ = ["AnthropicApi", "lllms_apis"]


class AnthropicApi(Api):
    """`POST /v1/messages`, `POST /v1/messages/count_tokens`, and `GET /v1/models` for this API's clients.

    A streamed answer whose first token takes longer than `patience` seconds (it waits, or its model loads) gets its
    headers then, and an event `ping` each `interval` seconds in which nothing else is sent.
    """

    name = "anthropic"
    header = "anthropic-version"

    def __init__(self, patience: float = 2.0, interval: float = 15.0) -> None:
        self.patience = patience
        self.interval = interval

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_anthropic.routes import make_blueprint

        return make_blueprint(server, self, self.patience, self.interval)

    def describe(self, server: Server) -> Paths:
        """Return the routes under `/v1`."""
        from lllms_anthropic.openapi import describe

        return describe([card.name for card in server.models()])

    def fault(self, fault: Fault) -> object:
        """Return an error in this API's shape."""
        return fault_value(fault)

    def status(self, fault: Fault) -> int:
        """Return this API's status: 529 if the server has no room now."""
        return status_of(fault)


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the API."""
    return [AnthropicApi()]
