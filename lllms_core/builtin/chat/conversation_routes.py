"""The routes that show, list and delete kept conversations."""

from quart import Blueprint, Response

from lllms_core.apis.own_machine import refuse_other_machines
from lllms_core.apis.replies import reply, reply_large
from lllms_core.builtin.chat.kept_conversations import ConversationUnknown, KeptConversations


def add_conversation_routes(routes: Blueprint, kept: KeptConversations) -> None:
    """Add the routes over `kept`."""

    @routes.get("/conversations")
    async def conversations() -> Response:
        refuse_other_machines("the list of conversations, whose ids give access to them,")  # not so each of them
        return reply({"object": "list", "data": [*await kept.list()]})

    @routes.get("/conversations/<conversation_id>")
    async def conversation(conversation_id: str) -> Response:
        found = await kept.find(conversation_id)
        if found is None:
            raise ConversationUnknown(conversation_id)
        return await reply_large(found.weight, lambda: found.value)

    @routes.delete("/conversations/<conversation_id>")
    async def drop(conversation_id: str) -> Response:
        if not await kept.drop(conversation_id):
            raise ConversationUnknown(conversation_id)
        return reply({"deleted": [conversation_id]})
