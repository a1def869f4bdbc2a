"""Clients of a running server, for programs in Python: `Client`, and `AsyncClient` for event loops.

    from lllms_core.client import Client, TextEvent

    with Client("http://127.0.0.1:3000") as client:
        print(client.chat("tiny-chat", "Hi!").text)

        with client.chat("tiny-chat", "Tell me a story.", conversation="new", temperature=0.7) as answer:
            for event in answer:
                if isinstance(event, TextEvent):
                    print(event.text, end="", flush=True)
        name = answer.result.conversation
        print(client.chat("tiny-chat", "And then?", conversation=name).text)

They speak the native protocol (`POST /api/v1/chat`): an answer whose connection breaks is resumed where it broke.
"""

from lllms_core.client.async_client import AsyncChatStream, AsyncClient
from lllms_core.client.chat_values import (
    CallEvent,
    ChatEvent,
    ChatHistory,
    ChatResult,
    DoneEvent,
    LoadedModel,
    LoadingEvent,
    LoadStep,
    PromptEvent,
    QueuedEvent,
    ServedDownload,
    ServedModel,
    StoredSession,
    TextEvent,
    ThoughtsEvent,
    Unloaded,
    UsageEvent,
)
from lllms_core.client.server_error import ServerError
from lllms_core.client.sync_client import ChatStream, Client

__all__ = [
    "AsyncChatStream",
    "AsyncClient",
    "CallEvent",
    "ChatEvent",
    "ChatHistory",
    "ChatResult",
    "ChatStream",
    "Client",
    "DoneEvent",
    "LoadStep",
    "LoadedModel",
    "LoadingEvent",
    "PromptEvent",
    "QueuedEvent",
    "ServedDownload",
    "ServedModel",
    "ServerError",
    "StoredSession",
    "TextEvent",
    "ThoughtsEvent",
    "Unloaded",
    "UsageEvent",
]
