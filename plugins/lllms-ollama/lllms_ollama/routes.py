"""The routes: read a request, submit it, answer whole or as lines of JSON."""

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version

from quart import Blueprint, Response, request

from lllms_core.apis import Api, Fault, ModelCard, Server
from lllms_core.apis.bodies import read_request
from lllms_core.apis.fault import INVALID
from lllms_core.apis.replies import reply, reply_answers, reply_fault
from lllms_core.apis.streaming import PATIENCE, gather_answers, stream_answer
from lllms_core.errors import UnsupportedParameter
from lllms_core.queries import Prepared
from lllms_ollama.embedding import embed, embed_one
from lllms_ollama.jobs import Job, read_chat, read_generate
from lllms_ollama.lines import Head, LineEncoder, empty_answer, whole_answer
from lllms_ollama.members import take_flag, take_name
from lllms_ollama.models import list_loaded, list_models, show_model
from lllms_ollama.names import find_model
from lllms_ollama.pulling import pull

LEVEL = "0.13.5"
"""The version of Ollama whose API this is; clients ask for it before they use newer parts."""
ABSENT = {
    "/api/create": ["POST"], "/api/copy": ["POST"], "/api/delete": ["DELETE"], "/api/push": ["POST"],
    "/api/blobs/<path:digest>": ["HEAD", "GET", "POST"], "/api/me": ["POST"], "/api/signout": ["POST"],
}
"""Routes of Ollama that change its own store of models, or its account; none of them is served."""
WHY_ABSENT = (
    "is not served: lllms builds, copies, deletes and pushes no models; they are configured, fetched by `lllms pull` "
    "and deleted by `lllms rm`"
)

LONG_PATIENCE = 240.0
"""Seconds until the headers of a stream are sent whose request may be refused for its `think: false`."""

Read = Callable[[Server, dict[str, object]], Job]


def make_blueprint(server: Server, api: Api) -> Blueprint:
    """Return the routes of `api` over `server`."""
    routes = Blueprint("ollama", __name__)

    async def tags() -> Response:
        return reply({"models": await list_models(server)})

    async def running() -> Response:
        return reply({"models": await list_loaded(server)})

    async def told_version() -> Response:
        return reply({"version": api_version()})

    async def show() -> Response:
        card = await read_request(server, lambda values: _read_show(server, values), any_type=True)
        return reply(await show_model(server, card))

    async def absent(**_: str) -> Response:
        fault = Fault(404, f"{request.path} {WHY_ABSENT}", INVALID, None, "not_found", {})
        return reply_fault(fault, api)

    gets: dict[str, Callable[[], Awaitable[Response]]] = {
        "/api/tags": tags, "/api/ps": running, "/api/version": told_version,
    }
    posts: dict[str, Callable[[], Awaitable[Response]]] = {
        "/api/chat": partial(complete, server, read_chat, chat=True),
        "/api/generate": partial(complete, server, read_generate, chat=False),
        "/api/embed": partial(embed, server), "/api/embeddings": partial(embed_one, server),
        "/api/show": show, "/api/pull": partial(pull, server),
    }
    for path, view in gets.items():
        routes.add_url_rule(path, path.rpartition("/")[2], view)
    for path, view in posts.items():
        routes.add_url_rule(path, path.rpartition("/")[2], view, methods=["POST"])
    for path, methods in ABSENT.items():
        routes.add_url_rule(path, f"absent {path}".replace(".", ""), absent, methods=methods)
    return routes


def api_version() -> str:
    """Return the version of the API, and of lllms: clients compare the former, and accept the latter as a suffix."""
    return f"{LEVEL}-lllms.{version('lllms-core')}"


async def complete(server: Server, read: Read, *, chat: bool) -> Response:
    """Answer a conversation or a prompt; without one, load or unload the model."""
    job = await read_request(server, lambda values: read(server, values), any_type=True)
    head = Head(job.name, chat)
    if job.request is None:
        return await _load(server, job, head)
    wanted = job.request
    if job.plain is not None:
        tasks = (await server.abilities(job.card.name)).tasks
        if tasks is not None and "chat" not in tasks and "text" in tasks:
            wanted = job.plain()
    if job.thinking is None or (await server.abilities(job.card.name)).thinks is False:
        return await _answer(server, wanted, head, stream=job.stream)
    try:
        return await _answer(server, wanted, head, stream=job.stream, patience=LONG_PATIENCE)
    except UnsupportedParameter as error:
        if error.param != "reasoning_effort":
            raise
        return await _answer(server, job.thinking(), head, stream=job.stream)


async def _answer(
    server: Server, wanted: Prepared, head: Head, *, stream: bool, patience: float = PATIENCE,
) -> Response:
    submitted = server.submit(wanted)
    if stream:
        return await stream_answer(server, [submitted], LineEncoder(head), patience=patience)
    [answer] = await gather_answers([submitted])
    size = len(answer.text) + 100 * len(answer.choices[0].scores)
    return await reply_answers(
        [submitted], [answer], size, lambda: whole_answer(head, answer.choices[0], answer.finish),
    )


async def _load(server: Server, job: Job, head: Head) -> Response:
    if job.ttl == 0:
        await server.unload(job.card.name)
        return reply(empty_answer(head, "unload"))
    await server.load(job.card.name, ttl=job.ttl)
    return reply(empty_answer(head, "load"))


def _read_show(server: Server, values: dict[str, object]) -> ModelCard:
    card = find_model(server, take_name(values))
    take_flag(values, "verbose", default=False)
    for older in ("system", "template", "options"):
        values.pop(older, None)
    return card
