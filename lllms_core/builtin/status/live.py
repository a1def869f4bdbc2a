"""The state of a server as events, for the pages that are open: sections, whenever they change.

All pages of callers with the same rights share one look at the server, which is taken at most twice a second, and none
while no page is open.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.metadata import version

from attrs import define, field

from lllms_core.apis import Abilities, Server
from lllms_core.apis.writing import comment, dumps, event
from lllms_core.builtin.status.paces import Paces
from lllms_core.builtin.status.report import downloads
from lllms_core.builtin.status.sections import Seen, make_sections
from lllms_core.caller import CALLER, Caller
from lllms_core.errors import LllmsError, ModelLoadFailed

LOOK = 0.5
"""Seconds between two looks at the server, if a look takes no time."""
SHARE = 20
"""A look that takes long is followed by a pause that is this many times as long."""
INTERVAL = 10.0
"""Seconds of silence, after which a comment shows that the connection is alive."""
ABILITIES = 5.0
"""Seconds after which the abilities of models are asked for again: files change, and are looked at in threads."""
MOST_PAGES = 64
"""Pages that can be open at a time."""

Rights = Sequence[str] | None


@define(eq=False)
class View:
    """What callers with the same rights see of a server."""

    server: Server
    pages: int = 0
    """The number of them that are open."""
    pause: float = LOOK
    """Seconds until the next look."""
    _sections: Mapping[str, bytes] = field(factory=dict)
    _looked: float = -1.0
    _paces: Paces = field(factory=Paces)
    _abilities: dict[str, Abilities | None] = field(factory=dict)
    _asked: float = -ABILITIES
    _asking: asyncio.Task[None] | None = None

    def look(self) -> Mapping[str, bytes]:
        """Return the encoded sections, not older than `pause` seconds; call it as one of these callers."""
        began = time.monotonic()
        if self._looked < 0 or began - self._looked >= self.pause:
            self._sections = {name: dumps(one) for name, one in make_sections(self._see(began)).items()}
            self._looked = time.monotonic()
            self.pause = max(LOOK, SHARE * (self._looked - began))
        return self._sections

    def _see(self, now: float) -> Seen:
        server, requests = self.server, self.server.requests()
        cards = server.models()
        if now - self._asked >= ABILITIES and (self._asking is None or self._asking.done()):
            self._asked = now
            self._asking = asyncio.create_task(self._ask([card.name for card in cards]))
        return Seen(
            pool=server.status(), cards=cards, abilities=self._abilities, problems=server.problems(),
            lacks=server.lacks(), failed=server.failed_loads(), requests=requests, ended=server.ended_requests(),
            downloads=server.downloads(), told_downloads=downloads(server), version=version("lllms-core"),
            ready=server.ready, now=time.time(), paces=self._paces.look(requests, now),
        )

    async def _ask(self, names: Sequence[str]) -> None:
        """Find out what the models can do."""
        found: dict[str, Abilities | None] = {}
        for name in names:
            try:
                found[name] = await self.server.abilities(name)
            except ModelLoadFailed:
                found[name] = None
            except LllmsError:
                continue  # it has just been removed
            if name not in self._abilities:
                self._abilities[name] = found[name]  # shown at once: others may have large files
        if found != self._abilities:
            self._abilities = found


class OpenPages:
    """The views of all pages that are open, by the rights of their callers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._views: dict[Rights, View] = {}

    @property
    def full(self) -> bool:
        """Whether no more page can be opened."""
        return sum(view.pages for view in self._views.values()) >= MOST_PAGES

    def follow(self) -> AsyncIterator[bytes]:
        """Return the events for the page whose HTTP request the current task serves; it has left when that ends."""
        caller = CALLER.get()
        view = self._views.setdefault(caller.models, View(self._server))
        view.pages += 1
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # views run in tasks
        task.add_done_callback(lambda _: self._leave(caller.models))
        return self._events(view, caller)

    def _leave(self, rights: Rights) -> None:
        self._views[rights].pages -= 1
        if not self._views[rights].pages:
            del self._views[rights]

    async def _events(self, view: View, caller: Caller) -> AsyncIterator[bytes]:
        """Yield who the caller is, then the sections that have changed; end when the server stops."""
        yield event({"now": round(time.time(), 3), "key": caller.key, "interval": INTERVAL}, "hello")
        told: Mapping[str, bytes] = {}
        wrote, was_ready = time.monotonic(), False
        while True:
            ready, sections = self._server.ready, view.look()
            changed = [(name, one) for name, one in sections.items() if told.get(name) != one]
            now = time.monotonic()
            if changed:
                told, wrote = sections, now
                yield b"data: {" + b",".join(b'"%b":%b' % (name.encode(), one) for name, one in changed) + b"}\n\n"
            elif now - wrote >= INTERVAL:
                wrote = now
                yield comment("alive")
            if was_ready and not ready:
                return  # it is stopping, and would wait for this answer
            was_ready = was_ready or ready
            await asyncio.sleep(view.pause)
