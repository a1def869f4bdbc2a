"""The native chat: a protocol of our own, whose answers are resumable streams of typed events."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lllms_core.apis import Api, Fault, Paths, Server
from lllms_core.builtin.chat.running_chats import ChatLimits
from lllms_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

__all__ = ["ChatApi", "lllms_apis"]


class ChatApi(Api):
    """`POST /api/v1/chat` and the conversations that it continues; `/api/v1/client.js`, which speaks it.

    `lllms_core.client` is its client in Python.
    """

    name = "chat"

    def __init__(self, limits: ChatLimits | None = None) -> None:
        self._limits = ChatLimits() if limits is None else limits

    def blueprint(self, server: Server) -> "Blueprint":
        """Return the routes."""
        from lllms_core.builtin.chat.routes import make_blueprint

        return make_blueprint(server, self._limits)

    def describe(self, server: Server) -> Paths:
        """Return the routes under `/api/v1`."""
        from lllms_core.builtin.chat.openapi import describe

        return describe([card.name for card in server.models()])

    def fault(self, fault: Fault) -> object:
        """Return `{"error": {"code", "message", "parameter", "retry_after"}}`, as the event `error` has it."""
        from lllms_core.builtin.chat.chat_events import fault_value

        return {"error": fault_value(fault)}


@hookimpl
def lllms_apis() -> Iterable[Api]:
    """Provide the API."""
    return [ChatApi()]
