"""The responses that the server keeps: to be retrieved, listed, and continued by `previous_response_id`."""

from collections.abc import Mapping, Sequence
from typing import cast

from attrs import frozen
from werkzeug.exceptions import NotFound

from lllms_core.apis import Documents
from lllms_core.builtin.openai.responses.input_items import Item, Placed, reference_of
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut

_FOUND_BEFORE = 10_000
"""Responses of one conversation at most."""


class ResponseUnknown(NotFound):
    """No response has this id."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id '{cut(response_id)}' not found.")


@frozen
class KeptResponse:
    """A response as it was answered, with what it answered."""

    value: Mapping[str, object]
    items: Sequence[Item]
    """Its own input, without that of the responses before it."""
    previous: str | None

    @property
    def output(self) -> Sequence[Item]:
        """Its items."""
        return cast("Sequence[Item]", self.value["output"])

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.value["status"] not in {"queued", "in_progress"}


class KeptResponses:
    """Keeps them among the server's documents; call it from the event loop."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def keep(self, response: KeptResponse) -> None:
        """Keep a response, in place of one with the same id."""
        document = {"response": response.value, "input": list(response.items), "previous": response.previous}
        self._documents.keep(_document(str(response.value["id"])), document)

    async def find(self, response_id: str) -> KeptResponse | None:
        """Return a response; None if it is unknown, expired or has made room for others.

        One that was still being written when the server ended has failed.
        """
        found = await self._documents.find(_document(response_id))
        if not isinstance(found, dict) or not isinstance(found.get("response"), dict):
            return None
        return KeptResponse(found["response"], found["input"], found["previous"])

    async def drop(self, response_id: str) -> bool:
        """Delete a response; return whether it existed. Those that continue it cannot be continued any more."""
        return await self._documents.drop(_document(response_id))

    async def before(self, response_id: str | None, *, whole: bool = True) -> list[Item]:
        """Return the items of a response and of all before it: each its input, then its output.

        With `whole`, raises `InvalidRequest` unless all are here and have ended.
        """
        chain: list[KeptResponse] = []
        while response_id is not None and len(chain) < _FOUND_BEFORE:
            found = await self.find(response_id)
            if not whole and (found is None or not found.ended):
                break
            if found is None:
                text = f"Previous response with id '{cut(response_id)}' not found."
                raise InvalidRequest(text, "previous_response_id", "previous_response_not_found")
            if not found.ended:
                text = f"Response '{cut(response_id)}' is still being written; wait for its end."
                raise InvalidRequest(text, "previous_response_id", "previous_response_not_completed")
            chain.append(found)
            response_id = found.previous
        return [item for one in reversed(chain) for item in (*one.items, *one.output)]

    async def resolve(self, items: Sequence[Placed]) -> list[Placed]:
        """Return the items with each reference replaced by the item it names. Raises `InvalidRequest`."""
        known: dict[str, Mapping[object, Item]] = {}
        resolved = []
        for one in items:
            if one.item["type"] != "item_reference":
                resolved.append(one)
                continue
            source = reference_of(one.item)
            if source is not None and source not in known:
                found = await self.find(source)
                known[source] = {} if found is None else {item["id"]: item for item in (*found.items, *found.output)}
            item = known.get(source or "", {}).get(one.item["id"])
            if item is None:
                text = (
                    f"Item with id '{cut(str(one.item['id']))}' not found: only items of responses that are kept here "
                    "can be referred to. Send the item itself."
                )
                raise InvalidRequest(text, f"{one.path}.id", "item_not_found")
            resolved.append(Placed(item, one.path))
        return resolved


def _document(response_id: str) -> str:
    return f"openai-{response_id}"
