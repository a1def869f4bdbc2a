"""The conversations that the server keeps for clients of the native chat, among its documents.

Each is one document; another lists them. They are bounded and expire as all documents do. Whoever knows an id may read
its conversation.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from attrs import evolve, frozen
from werkzeug.exceptions import Conflict, NotFound

from lllms_core.apis import Documents
from lllms_core.apis.writing import dumps
from lllms_core.builtin.chat.said_messages import Said
from lllms_core.caller import CALLER
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut

MOST_MESSAGES = 10_000
MOST_BYTES = 8 * 2**20
"""Of one conversation."""
MOST_LISTED = 1000
_PREFIX = "chat-"
_LIST = "chats"


class ConversationUnknown(NotFound):
    """No conversation has this id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no conversation '{cut(name)}'; it may have expired, or made room for others")


class ConversationBusy(Conflict):
    """An answer in this conversation is being written."""

    def __init__(self, name: str) -> None:
        super().__init__(f"conversation '{cut(name)}' is waiting for an answer; send its next message after that")


@frozen
class KeptConversation:
    """A conversation as far as it is complete: it ends with an answer, or is empty."""

    id: str
    model: str
    """Of its last answer."""
    created: int
    used: int
    """Times of its first and last answer, in seconds since 1970."""
    system: str | None = None
    messages: Sequence[Said] = ()

    @classmethod
    def new(cls, name: str) -> "KeptConversation":
        """Return an empty one."""
        now = int(time.time())
        return cls(name, "", now, now)

    @property
    def weight(self) -> int:
        """About how many bytes of JSON it is."""
        return sum(200 + len(str(one.get("content"))) for one in self.messages)

    @property
    def value(self) -> dict[str, object]:
        """The conversation in JSON's types."""
        return {**self.head, "system": self.system, "messages": [*self.messages]}

    @property
    def head(self) -> dict[str, object]:
        """What a list tells of it."""
        return {
            "id": self.id, "model": self.model, "created": self.created, "used": self.used,
            "message_count": len(self.messages),
        }

    def check(self) -> None:
        """Raise `InvalidRequest` if it has become too large to be kept."""
        if len(self.messages) > MOST_MESSAGES or len(dumps(self.value)) > MOST_BYTES:
            raise InvalidRequest(
                f"conversation '{self.id}' is full: it may have {MOST_MESSAGES} messages and {MOST_BYTES} bytes; begin "
                "another one", "conversation", "conversation_full",
            )

    def continued(self, model: str, system: str | None, said: Sequence[Said]) -> "KeptConversation":
        """Return it with more messages, and with another system message if one is given."""
        return evolve(
            self, model=model, used=int(time.time()), system=self.system if system is None else system,
            messages=(*self.messages, *said),
        )


class KeptConversations:
    """Keeps them among the server's documents; call it from the event loop."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._busy: dict[tuple[str | None, str], object] = {}
        """By the API key of their caller, who alone finds his documents, and by their ids."""
        self._lists: dict[str | None, dict[str, Mapping[str, object]]] = {}
        """By the API key of the caller."""

    def claim(self, name: str) -> Callable[[], None]:
        """Reserve a conversation for one answer, until the returned function is called. Raises `ConversationBusy`."""
        place = CALLER.get().key, name
        if place in self._busy:
            raise ConversationBusy(name)
        claim = self._busy[place] = object()

        def release() -> None:
            if self._busy.get(place) is claim:  # it may be called again when another answer has claimed it
                del self._busy[place]

        return release

    async def find(self, name: str) -> KeptConversation | None:
        """Return a conversation; None if it is unknown."""
        found = await self._documents.find(_PREFIX + name)
        if not isinstance(found, dict):
            return None
        return KeptConversation(
            name, found["model"], found["created"], found["used"], found["system"], found["messages"],
        )

    async def prepare(self) -> dict[str, Mapping[str, object]]:
        """Return the caller's list, which `keep` extends, after it was read once."""
        key = CALLER.get().key
        if key not in self._lists:
            found = await self._documents.find(_LIST)
            read = cast("dict[str, Mapping[str, object]]", dict(found)) if isinstance(found, dict) else {}
            self._lists.setdefault(key, read)  # unless another one was faster
        return self._lists[key]

    def keep(self, conversation: KeptConversation) -> None:
        """Keep a conversation, in place of its earlier state; `prepare` was awaited before."""
        listed = self._lists[CALLER.get().key]
        self._documents.keep(_PREFIX + conversation.id, conversation.value)
        listed.pop(conversation.id, None)
        listed[conversation.id] = conversation.head
        while len(listed) > MOST_LISTED:
            del listed[next(iter(listed))]
        self._documents.keep(_LIST, dict(listed))

    async def drop(self, name: str) -> bool:
        """Delete a conversation; return whether it existed. Raises `ConversationBusy`."""
        release = self.claim(name)
        try:
            listed = await self.prepare()
            if listed.pop(name, None) is not None:
                self._documents.keep(_LIST, dict(listed))
            return await self._documents.drop(_PREFIX + name)
        finally:
            release()

    async def list(self) -> Sequence[Mapping[str, object]]:
        """Return what is known of the last ones, the most recently used first."""
        listed = {_PREFIX + name: head for name, head in (await self.prepare()).items()}
        there = set(await self._documents.there([*listed]))
        return [head for name, head in reversed(listed.items()) if name in there]
