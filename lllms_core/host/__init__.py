"""The facade: a server without HTTP, the models as APIs see them, and tools that the host runs."""

from lllms_core.host.chosen import choose_placement, choose_session_store
from lllms_core.host.conversation import Conversation, Handler, ServerTool
from lllms_core.host.host import Host

__all__ = ["Conversation", "Handler", "Host", "ServerTool", "choose_placement", "choose_session_store"]
