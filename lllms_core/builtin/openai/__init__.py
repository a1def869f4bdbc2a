"""The OpenAI API: models, chats, responses, texts, embeddings and ranking, under `/openai/v1` and `/v1`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api, Paths, Server
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

__all__ = ["OpenAiApi", "lllms_apis"]


class OpenAiApi(Api):
    """The routes of OpenAI's API that lllms serves.

    A streamed answer whose first token takes longer than `patience` seconds (it waits, or its model loads) gets its
    headers then. SSE comments say what it waits for, within about a second of each change, and each `interval` seconds
    in which nothing else is sent, so that no proxy or client takes it for dead.
    """

    name = "openai"

    def __init__(self, patience: float = 2.0, interval: float = 15.0) -> None:
        self.patience = patience
        self.interval = interval

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_core.builtin.openai.routes import make_blueprint

        return make_blueprint(server, self.patience, self.interval)

    def describe(self, server: Server) -> Paths:
        """Return the routes under `/v1`."""
        from lllms_core.builtin.openai.openapi import describe

        cards = server.models()
        return describe([card.name for card in cards], {name for card in cards for name in card.parameters})


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the API."""
    return [OpenAiApi()]
