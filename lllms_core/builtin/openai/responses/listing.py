"""A page of the items that a response answers."""

from collections.abc import Mapping, Sequence

from lllms_core.builtin.openai.responses.input_items import Item
from lllms_core.builtin.openai.responses.query import read_number
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.kinds import OneOf
from lllms_core.parameters.wording import cut

MOST = 100
DEFAULT = 20


def list_items(items: Sequence[Item], arguments: Mapping[str, str]) -> Mapping[str, object]:
    """Return a page of the items, the last one first unless `order` says otherwise. Raises `InvalidRequest`."""
    limit = read_number(arguments, "limit", DEFAULT, least=1, most=MOST)
    order = OneOf(("asc", "desc")).check("order", arguments.get("order", "desc"))
    ordered = [*items] if order == "asc" else [*reversed(items)]
    if "after" in arguments:
        ids = [item.get("id") for item in ordered]
        if arguments["after"] not in ids:
            text = f"Item with id '{cut(arguments['after'])}' not found in this response."
            raise InvalidRequest(text, "after", "item_not_found")
        ordered = ordered[ids.index(arguments["after"]) + 1 :]
    page = ordered[:limit]
    return {
        "object": "list", "data": page, "has_more": len(ordered) > limit,
        "first_id": page[0].get("id") if page else "", "last_id": page[-1].get("id") if page else "",
    }
