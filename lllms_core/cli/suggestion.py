"""A first request to a server, as a line for the shell."""

import json
import shlex
from typing import TYPE_CHECKING

from lllms_core.errors import LllmsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lllms_core.config import ServerConfig
    from lllms_core.host import Host
    from lllms_core.types import Task

_TRAINED = "tiny-chat"
_MESSAGES = {"messages": [{"role": "user", "content": "Hi!"}]}
_FIRST: "Mapping[Task, tuple[str, Mapping[str, object]]]" = {
    "chat": ("/v1/chat/completions", _MESSAGES),
    "text": ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 50}),
    "embed": ("/v1/embeddings", {"input": "A sentence to compare with others."}),
    "rerank": ("/v1/rerank", {"query": "Which animal barks?", "documents": ["Dogs bark.", "Cats purr."]}),
}
"""By task, in the order of preference: the path and the body, without the model."""
_COUNTING = {"messages": [{"role": "user", "content": "lets count to 10"}]}
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  # compared, not bound


async def suggest(host: "Host", address: str) -> str | None:
    """Return a shell line that asks a model of the host for what it can do; None if no model can be asked.

    That is tiny-chat if it is offered, else the first model that could be loaded, those that are here before others.
    """
    failed = {one.model for one in host.failed_loads()}
    entries = sorted(host.catalog.entries, key=lambda one: (one.name in failed, one.name != _TRAINED, not one.here))
    for entry in entries:
        try:
            tasks = (await host.abilities(entry.name)).tasks
        except LllmsError:
            continue
        task = next((one for one in _FIRST if tasks is None or one in tasks), None)
        if task is not None:
            return curl(host.config.server, address, entry.name, task)
    return None


def curl(server: "ServerConfig", address: str, model: str, task: "Task" = "chat") -> str:
    """Return a shell line that gives a model of a server a task of those that `suggest` knows."""
    path, body = _FIRST[task]
    body = _COUNTING if (model, task) == (_TRAINED, "chat") else body
    for everywhere, here in _EVERYWHERE.items():
        address = address.replace(f"//{everywhere}:", f"//{here}:")
    where = [f"{address.rstrip('/')}{path}"]
    if server.socket_path is not None:
        where = ["--unix-socket", str(server.socket_path), f"http://localhost{path}"]
    if server.tls_certificate is not None:
        where = ["--cacert", str(server.tls_certificate), *where]
    data = json.dumps({"model": model, **body})
    line = shlex.join(["curl", *where, "-H", "Content-Type: application/json", "-d", data])
    return f'{line} -H "Authorization: Bearer $LLLMS_API_KEY"' if server.has_keys else line
