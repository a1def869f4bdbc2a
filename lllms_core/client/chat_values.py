"""The events of an answer, and what they are together; pure."""

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, fields_dict, frozen

ReasonToEnd = Literal["stop", "calls", "length", "timeout", "cancelled"]
"""The model ended its answer, or calls tools; or the answer reached a limit of tokens or of time, or was cancelled."""


@frozen
class QueuedEvent:
    """The request waits for its turn."""

    position: int | None
    """In the queue; 1 is next."""
    reason: str | None
    """What else it waits for, like memory."""


@frozen
class LoadingEvent:
    """The model is being fetched or loaded."""

    progress: float | None
    """0 to 1; None: unknown."""
    stage: Literal["downloading", "loading"]
    about: str
    """For people."""


@frozen
class PromptEvent:
    """The prompt is being read, or was."""

    progress: float | None
    tokens: int | None
    """Of the prompt, once it was read, as in the next two."""
    cached: int | None
    """The tokens that did not have to be read again."""
    conversation: str | None
    """The id of the conversation."""


@frozen
class ThoughtsEvent:
    """A piece of the model's thoughts."""

    text: str


@frozen
class TextEvent:
    """A piece of the answer."""

    text: str


@frozen
class CallEvent:
    """A tool that the model calls; it waits for the result."""

    id: str
    name: str
    arguments: Mapping[str, Any] | None
    """None if they are cut off or no object: `text` has what the model wrote."""
    text: str | None = None


@frozen
class UsageEvent:
    """What the answer took."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    timings: Mapping[str, float]
    """Seconds: `queued`, `load`, `prompt`, `answer`."""


@frozen
class DoneEvent:
    """The end of the answer."""

    reason: ReasonToEnd
    stop: str | None
    """The stop string that ended it."""
    conversation: str | None
    """The id of the conversation that it belongs to."""


ChatEvent = (
    QueuedEvent | LoadingEvent | PromptEvent | ThoughtsEvent | TextEvent | CallEvent | UsageEvent | DoneEvent
)

_KINDS: Mapping[str, type[ChatEvent]] = {
    "queued": QueuedEvent, "loading": LoadingEvent, "prompt": PromptEvent, "thoughts": ThoughtsEvent,
    "text": TextEvent, "call": CallEvent, "usage": UsageEvent, "done": DoneEvent,
}


@frozen
class ChatResult:
    """A whole answer."""

    text: str
    thoughts: str = ""
    calls: tuple[CallEvent, ...] = ()
    usage: UsageEvent | None = None
    reason: ReasonToEnd | None = None
    """None for an answer that was not read to its end."""
    stop: str | None = None
    conversation: str | None = None

    @property
    def message(self) -> dict[str, object]:
        """The answer as one of the `messages` of the next request."""
        calls = [
            {"id": one.id, "name": one.name, "arguments": one.arguments} for one in self.calls
            if one.arguments is not None
        ]
        return {
            "role": "assistant", "content": self.text, **({"thoughts": self.thoughts} if self.thoughts else {}),
            **({"calls": calls} if calls else {}),
        }


def read_chat_event(name: str, value: Mapping[str, Any]) -> ChatEvent | None:
    """Return an event; None for one that this version does not know. Members that it does not know are left out."""
    kind = _KINDS.get(name)
    if kind is None:
        return None
    members: dict[str, Any] = {key: value.get(key) for key in fields_dict(kind)}
    return kind(**members)


@frozen
class LoadStep:
    """What a load waits for, or how far it is."""

    state: str
    """queued, memory, downloading or loading."""
    text: str
    """For people."""
    progress: float | None = None
    position: int | None = None
    reason: str | None = None


@frozen
class LoadedModel:
    """A model that is loaded."""

    model: str
    instance: str
    seconds: float
    """That it took; 0 if it was loaded already."""


@frozen
class Unloaded:
    """What became of a model's instances."""

    model: str
    unloaded: list[str] = field(factory=list)
    busy: list[str] = field(factory=list)
    """Unloaded once they are idle."""
    kept: list[str] = field(factory=list)
    """As `min_instances` says."""


@frozen
class ServedModel:
    """A model that can be requested."""

    id: str
    """The name that requests use."""
    state: str
    aliases: list[str] = field(factory=list)
    context_length: int | None = None
    """None: unknown until it is loaded, as are its tasks."""
    tasks: list[str] | None = None


@frozen
class ServedDownload:
    """A download of model files."""

    id: str
    models: list[str]
    source: str
    state: str
    note: str
    done_bytes: int
    total_bytes: int | None
    text: str
    """For people."""


@frozen
class StoredSession:
    """What the server keeps of a conversation that a model has read: it need not read that again."""

    id: str
    model: str
    tokens: int
    bytes: int | None
    last_used: float
    """Seconds since 1970."""
    where: str
    text: str | None = None
    """If it was asked for."""


@frozen
class ChatHistory:
    """A conversation that the server keeps."""

    id: str
    model: str
    created: int
    used: int
    """Seconds since 1970."""
    message_count: int
    system: str | None = None
    messages: list[Mapping[str, Any]] | None = None
    """None in a list."""
