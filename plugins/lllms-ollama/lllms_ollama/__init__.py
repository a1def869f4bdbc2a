"""Ollama's API: chats, texts, vectors, models and pulls, under `/api`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api, Fault, Paths, Server
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

__all__ = ["OllamaApi", "lllms_apis"]


class OllamaApi(Api):
    """The routes of Ollama's API that lllms serves; those that build or push models are 404."""

    name = "ollama"

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_ollama.routes import make_blueprint

        return make_blueprint(server, self)

    def describe(self, server: Server) -> Paths:
        """Return the routes."""
        from lllms_ollama.openapi import describe

        return describe([card.name for card in server.models()])

    def fault(self, fault: Fault) -> object:
        """Return `{"error": "..."}`."""
        from lllms_ollama.lines import fault_value

        return fault_value(fault)


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the API."""
    return [OllamaApi()]
