"""The requests that the clients send, and how they read the answers; pure, and shared by both clients."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from attrs import fields_dict, frozen

from lllms_core.client.chat_values import (
    ChatHistory,
    LoadedModel,
    LoadStep,
    ServedDownload,
    ServedModel,
    StoredSession,
    Unloaded,
)
from lllms_core.client.server_error import ServerError, told_error

T = TypeVar("T")
API = "/api/v1"


@frozen
class Ask(Generic[T]):
    """A request, and the function that reads the JSON of its answer."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] = {}

    @property
    def content(self) -> bytes | None:
        """The body, encoded."""
        return None if self.body is None else json.dumps(self.body).encode()

    def take(self, data: bytes) -> T:
        """Return what the answer says. Raises `ServerError` if it is none of a server of this version."""
        try:
            return self.read(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ServerError(
                f"the answer of {self.path} has an unknown form; does the server have this version?", "unreadable",
            ) from error


def same(value: Any) -> Any:
    """Return the JSON as it is."""
    return value


def members(kind: Callable[..., T], value: Mapping[str, Any]) -> T:
    """Return a value of this kind; members that it does not have are left out."""
    assert isinstance(kind, type)  # noqa: S101  # an attrs class
    made: T = kind(**{name: value[name] for name in fields_dict(kind) if name in value})
    return made


def listed(kind: Callable[..., T]) -> Callable[[Any], list[T]]:
    """Return the function that reads a list of values of this kind."""
    return lambda told: [members(kind, one) for one in told["data"]]


def deleted(told: Any) -> list[str]:
    """Read the ids of what was deleted."""
    return [str(one) for one in told["deleted"]]


def segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


def load_ask(model: str, ttl: float | str | None) -> Ask[object]:
    """Ask to load a model, and to tell how far that is."""
    body = {"stream": True, **({} if ttl is None else {"ttl": ttl})}
    return Ask("POST", f"{API}/models/{segment(model)}/load", same, body)


def read_load(data: str) -> LoadStep | LoadedModel:
    """Read an event of a load. Raises `ServerError` if it has failed."""
    value = json.loads(data)
    if value.get("error"):
        raise told_error(value)
    return members(LoadedModel, value) if value["state"] == "loaded" else members(LoadStep, value)


def unload_ask(model: str) -> Ask[Unloaded]:
    """Ask to unload a model."""
    return Ask("POST", f"{API}/models/{segment(model)}/unload", lambda told: members(Unloaded, told), {})


MODELS: Ask[list[ServedModel]] = Ask("GET", "/v1/models", listed(ServedModel))
STATUS: Ask[Mapping[str, Any]] = Ask("GET", "/", same)
DOWNLOADS: Ask[list[ServedDownload]] = Ask("GET", f"{API}/downloads", listed(ServedDownload))
CONVERSATIONS: Ask[list[ChatHistory]] = Ask("GET", f"{API}/conversations", listed(ChatHistory))


def cancel_download_ask(download_id: str) -> Ask[list[str]]:
    """Ask to cancel a download."""
    return Ask("DELETE", f"{API}/downloads/{segment(download_id)}", deleted)


def sessions_ask(model: str | None) -> Ask[list[StoredSession]]:
    """Ask for the sessions."""
    return Ask("GET", _sessions(model), listed(StoredSession))


def session_ask(session_id: str, *, text: bool) -> Ask[StoredSession]:
    """Ask for one session."""
    more = "?text=true" if text else ""
    return Ask("GET", f"{API}/sessions/{segment(session_id)}{more}", lambda told: members(StoredSession, told))


def forget_ask(session_id: str | None, model: str | None) -> Ask[list[str]]:
    """Ask to forget a session, or all, or those of a model."""
    path = _sessions(model) if session_id is None else f"{API}/sessions/{segment(session_id)}"
    return Ask("DELETE", path, deleted)


def conversation_ask(conversation: str) -> Ask[ChatHistory]:
    """Ask for a conversation."""
    return Ask("GET", f"{API}/conversations/{segment(conversation)}", lambda told: members(ChatHistory, told))


def delete_conversation_ask(conversation: str) -> Ask[list[str]]:
    """Ask to delete a conversation."""
    return Ask("DELETE", f"{API}/conversations/{segment(conversation)}", deleted)


def chat_body(
    model: str, message: str | Mapping[str, object] | None, messages: Sequence[Mapping[str, object]] | None,
    more: Mapping[str, object],
) -> dict[str, object]:
    """Return the body of a chat, without the members that are None."""
    told = {"model": model, "message": message, "messages": messages, **more, "stream": True}
    return {name: value for name, value in told.items() if value is not None}


def _sessions(model: str | None) -> str:
    return f"{API}/sessions" if model is None else f"{API}/sessions?{urlencode({'model': model})}"
