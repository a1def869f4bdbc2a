"""The complete interface between the core and plugins: two markers and the hooks.

A plugin is a module or object that a distribution names in its entry-point group `lllms`:

    [project.entry-points.lllms]
    parrot = "lllms_parrot"

Hooks are synchronous and return iterables of objects with a `name`; a plugin implements the hooks that it needs.
"""

from typing import TYPE_CHECKING

import click
import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lllms_core.apis import Api
    from lllms_core.downloads import Downloader
    from lllms_core.engines import Engine
    from lllms_core.placements import Placement
    from lllms_core.sessions import SessionStore
    from lllms_core.types import ModelOffer

PROJECT = "lllms"
ENTRY_POINT_GROUP = "lllms"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def lllms_engines() -> "Iterable[Engine]":
    """Provide engines, for `engine = "parrot"` in the configuration.

        class Parrot(SerialModel):
            context_length = 4096

            def chat(self, request):
                yield request.messages[-1].content

        class ParrotEngine(Engine):
            name = "parrot"
            isolation = "thread"
            needs_file = False

            def load(self, spec, progress):
                return Parrot()

        @hookimpl
        def lllms_engines():
            return [ParrotEngine()]
    """
    raise AssertionError  # pluggy never calls a specification


@hookspec
def lllms_models() -> "Iterable[ModelOffer]":
    """Offer models that work without any configuration.

        @hookimpl
        def lllms_models():
            return [ModelOffer("parrot", engine="parrot", description="repeats your words")]
    """
    raise AssertionError


@hookspec
def lllms_downloaders() -> "Iterable[Downloader]":
    """Provide sources of model files, for `url = "shelf:tiny.gguf"` in the configuration.

        class Shelf(Downloader):
            name = "shelf"
            schemes = frozenset({"shelf"})

            def resolve(self, source):
                file = Path("/srv/models", store_name(source.removeprefix("shelf:")))
                return RemoteModel([RemoteFile(store_name("shelf", file.name), str(file), file.stat().st_size)])

            def fetch(self, file, part):
                part.begin(file.size, version=None)
                with open(file.url, "rb") as source:
                    for start, stop in part.missing:
                        source.seek(start)
                        part.write(start, source.read(stop - start))

        @hookimpl
        def lllms_downloaders():
            return [Shelf()]
    """
    raise AssertionError


@hookspec
def lllms_session_stores() -> "Iterable[SessionStore]":
    """Provide session stores, for `[sessions] store = "attic"` in the configuration; new ones at each call.

        class Attic(SessionStore):
            name = "attic"

            def __init__(self):
                self.boxes = {}

            def put(self, entry, data):
                self.boxes[entry.id] = entry, data

            def get(self, session_id):
                return self.boxes[session_id][1] if session_id in self.boxes else None

            def delete(self, session_id):
                return self.boxes.pop(session_id, None) is not None

            def list(self):
                return [entry for entry, _ in list(self.boxes.values())]

        @hookimpl
        def lllms_session_stores():
            return [Attic()]
    """
    raise AssertionError


@hookspec
def lllms_placements() -> "Iterable[Placement]":
    """Provide placements, for `kind = "garage"` in `[placement]`: where the instances of models run.

        class Garage(Placement):
            name = "garage"

            async def open(self, options, events):
                self.rendezvous = Rendezvous()
                await self.rendezvous.open("10.0.0.1")
                events.there(Place("attic", "the machine in the attic", cores=8, memory=32 * 2**30))

            async def launch(self, place, launch):
                expected = self.rendezvous.expect(launch.sockets)
                runner = await self.run(place, command(launch.label, launch.sockets), expected.environment)
                arrival = await expected.arrived(60)
                return GarageProcess(runner, arrival.pid, arrival.sockets)

            async def find(self, place, file):
                return file.path  # the disk is shared

            async def fetch(self, place, source, file, progress):
                raise PlacementFailed(f"{file.path} is not on the shared disk")

            async def close(self):
                await self.rendezvous.close()

        @hookimpl
        def lllms_placements():
            return [Garage()]
    """
    raise AssertionError


@hookspec
def lllms_apis() -> "Iterable[Api]":
    """Provide HTTP APIs, each a Quart blueprint over the server.

        class Version(Api):
            name = "version"

            def blueprint(self, server):
                routes = Blueprint("version", __name__)

                @routes.get("/version")
                async def version():
                    return {"version": "1.0"}

                return routes

        @hookimpl
        def lllms_apis():
            return [Version()]
    """
    raise AssertionError


@hookspec
def lllms_commands(cli: click.Group) -> None:  # noqa: ARG001  # the specification names what implementations get
    """Add commands to `lllms`.

        @hookimpl
        def lllms_commands(cli):
            @cli.command()
            def squawk():
                click.echo("squawk!")
    """
    raise AssertionError
