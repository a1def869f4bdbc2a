"""The part of `lllms check` about other machines: what is there, and whether workers can run there."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click
from attrs import Factory, define, evolve

from lllms_core.downloads import shown
from lllms_core.errors import ConfigError, LllmsError, PlaceFull, PlacementFailed
from lllms_core.tracebacks import described
from lllms_core.values.sizes import human_size

if TYPE_CHECKING:
    from lllms_core.catalog import Catalog, CatalogEntry
    from lllms_core.config import Config
    from lllms_core.engines import Engine
    from lllms_core.placements import Place
    from lllms_core.plugins import Plugins
    from lllms_core.pool.budget import Need
    from lllms_core.pool.far_places import FarPlaces
    from lllms_core.pool.fleet import PlaceEntry
    from lllms_core.pool.load_files import LoadFiles
    from lllms_core.pool.models import PoolModel

OPEN_SECONDS, PLACE_SECONDS, CLOSE_SECONDS = 60.0, 90.0, 20.0
"""Limits for finding the places, for all that is done at one of them, and for ending everything; all places are tried
at once."""


@define
class ClusterFindings:
    """What was found."""

    problems: list[str] = Factory(list)
    warnings: list[str] = Factory(list)


def check_cluster(
    config: "Config", plugins: "Plugins", catalog: "Catalog", entries: "Sequence[CatalogEntry]",
) -> ClusterFindings:
    """Open the placement of a configuration, try each of its places, and describe them; nothing is left running.

    `entries` are the models whose files are here.
    """
    from lllms_core.host import choose_placement
    from lllms_core.worker.rehearsal import kept_warnings

    try:
        far = choose_placement(config, plugins)
    except ConfigError as error:
        return ClusterFindings(error.message.splitlines())
    if far is None:
        return ClusterFindings()
    models = _models(config, plugins, catalog, entries)
    with kept_warnings() as logged:
        found = asyncio.run(_Cluster(config.placement.kind, far, models).check())
    found.warnings += [text for text in dict.fromkeys(logged) if text not in found.warnings]
    return found


def _models(
    config: "Config", plugins: "Plugins", catalog: "Catalog", entries: "Sequence[CatalogEntry]",
) -> "Mapping[str, PoolModel]":
    """Return the models as a server's pool knows them."""
    from lllms_core.pool.models import PoolModel
    from lllms_core.store import Fetcher
    from lllms_core.store.weights import Weights, open_store, recorded_hash

    store = open_store(config, plugins)
    fetcher = Fetcher(store)
    return {
        entry.name: PoolModel.of(
            entry,
            None if entry.source is None else Weights(fetcher, catalog, entry.name, entry.source, entry.config.sha256),
            recorded=partial(recorded_hash, store),
        )
        for entry in entries
    }


class _Cluster:
    """Takes note of the places, and tries them."""

    def __init__(self, kind: str, far: "FarPlaces", models: "Mapping[str, PoolModel]") -> None:
        self._kind = kind
        self._placement, self._options, self._gpu_memory = far.placement, far.options, far.gpu_memory
        self._models = models
        self._places: dict[str, Place] = {}
        self._full: dict[str, list[str]] = {}
        """By model: why its files find no room, for each place where they do not."""
        self._found = ClusterFindings()

    # -- PlaceEvents --------------------------------------------------------------------------------------------------

    def there(self, place: "Place") -> None:
        """Note a place."""
        self._places[place.id] = place

    def gone(self, place: str, reason: str) -> None:
        """Note that one is lost."""
        name = self._places[place].name if place in self._places else place
        self._found.problems.append(f"place {name} was lost during the check: {reason}")

    # -- the check ----------------------------------------------------------------------------------------------------

    async def check(self) -> ClusterFindings:
        """Open, try and close."""
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._placement.open(self._options, self)
        except TimeoutError:
            self._found.problems.append(f"placement '{self._kind}' did not open within {OPEN_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001  # of a plugin
            self._found.problems.append(f"placement '{self._kind}' cannot be opened: {_text(error)}")
        else:
            await self._try_all()
        finally:
            await self._close()
        return self._found

    async def _try_all(self) -> None:
        places = sorted(self._places.values(), key=lambda one: (one.name, one.id))
        click.echo(f"placement {self._kind}: {len(places)} places")
        if not places:
            self._found.problems.append(
                f"placement '{self._kind}' has no places: no model can be loaded until one is there",
            )
        from lllms_core.pool.load_files import LoadFiles

        files = {
            name: await asyncio.to_thread(LoadFiles.of, model, model.spec)
            for name, model in self._models.items() if model.has_files
        }
        for lines in await asyncio.gather(*(self._try(place, files) for place in places)):
            for line in lines:
                click.echo(line)
        for name, reasons in self._full.items():
            nowhere = len(reasons) == len(places)  # else it is loaded elsewhere
            told = self._found.problems if nowhere else self._found.warnings
            told += [f"models.{name}: {why}" for why in reasons]
        if places:
            self._found.problems += await asyncio.to_thread(lambda: [*self._about_memory(places)])

    def _about_memory(self, places: "Sequence[Place]") -> Iterator[str]:
        """Yield the models that fit at no place, and whether those that are kept loaded are too many for all places."""
        from lllms_core.pool.budget import used
        from lllms_core.pool.devices import rooms_of
        from lllms_core.pool.fleet import PlaceEntry
        from lllms_core.pool.shortages import fits_nowhere

        entries = [PlaceEntry(place, rooms_of(place.devices, self._gpu_memory)) for place in places]
        needs = {name: [(entry, self._need(model, entry)) for entry in entries] for name, model in self._models.items()}
        for name, told in needs.items():
            if why := fits_nowhere(told):
                yield f"models.{name}: {why}"
        limits = [place.memory for place in places if place.memory is not None]
        least = {name: min((need for _, need in told), key=lambda need: need.total) for name, told in needs.items()}
        kept = used((), [
            least[name] for name, model in self._models.items() for _ in range(model.limits.min_instances)
        ])
        if len(limits) == len(places) and kept > sum(limits):
            yield (
                f"the instances that models keep loaded (min_instances) need about {human_size(kept)}, but all places"
                f" together give them {human_size(sum(limits))}; keep fewer, or add a place"
            )

    def _need(self, model: "PoolModel", entry: "PlaceEntry") -> "Need":
        from lllms_core.pool.devices import limits_of
        from lllms_core.pool.needs import need_of

        return need_of(
            model, evolve(model.spec, devices=entry.place.devices), entry.memory, alone=len(self._models) == 1,
            devices=limits_of(entry.devices),
        ).least

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._placement.close()
        except TimeoutError:
            self._found.problems.append(f"placement '{self._kind}' did not close within {CLOSE_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001  # of a plugin
            self._found.problems.append(f"placement '{self._kind}' cannot be closed: {_text(error)}")

    async def _try(self, place: "Place", files: "Mapping[str, LoadFiles]") -> Sequence[str]:
        """Return the lines about a place; note what is wrong with it."""
        from lllms_core.rendezvous import different, versions

        lines = [_about(place)]
        if place.versions and (told := different(place.versions, versions())):
            self._found.problems.append(
                f"place {place.name} is not used: the versions must be equal, but {told}; install the same ones there",
            )
            return lines
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                for engine in self._engines():
                    lines += await self._try_engine(place, engine)
                for name, wanted in files.items():
                    lines += await self._look_for_files(place, name, wanted)
        except TimeoutError:
            self._found.problems.append(
                f"place {place.name} could not be checked within {PLACE_SECONDS:g} s: is the way to it slow, or is it"
                " busy?",
            )
        return lines

    def _engines(self) -> "Sequence[Engine]":
        """Return the engines of the models; without models, one that does nothing."""
        from lllms_core.worker.place_trial import RoundTrip

        return list({model.engine.name: model.engine for model in self._models.values()}.values()) or [RoundTrip()]

    async def _try_engine(self, place: "Place", engine: "Engine") -> Sequence[str]:
        from lllms_core.worker.place_trial import try_place

        try:
            trial = await try_place(self._placement, place, engine)
        except Exception as error:  # noqa: BLE001  # of a plugin
            self._found.problems.append(
                f"place {place.name}: a worker with engine '{engine.name}' does not run there: {_text(error)}",
            )
            return []
        told = (
            f"a worker starts in {trial.start:.1f} s, with the same versions as here, imports engine {engine.name} in"
            f" {trial.engine:.1f} s, and answers in {1000 * trial.answer:.1f} ms"
        )
        return [f"place {place.name}: {told}"]

    async def _look_for_files(self, place: "Place", name: str, files: "LoadFiles") -> Sequence[str]:
        """Tell where a place gets the files of a model from; note those that it can neither find nor fetch."""
        from lllms_core.pool.fetches import check_fetch, lacks_named

        try:
            there = {file.path: await self._placement.find(place.id, file) for file in files.all}
        except Exception as error:  # noqa: BLE001  # of a plugin
            self._found.problems.append(f"models.{name}: cannot look for its files at {place.name}: {_text(error)}")
            return []
        named = [file for file in files.named if there[file.path] is None]
        self._found.problems += [f"models.{name}: {lacks_named(place, file)}" for file in named]
        missing = [file for file in files.weights if there[file.path] is None]
        try:
            if missing:
                check_fetch(place, files, missing[0])
        except PlaceFull as error:
            self._full.setdefault(name, []).append(error.message)
            return []
        except PlacementFailed as error:
            self._found.problems.append(f"models.{name}: {error.message}")
            return []
        if missing:
            told = f"fetches the files of model {name} ({human_size(files.size)}) from {shown(files.source)}"
            return [f"place {place.name}: {told} before its first load there"]
        return [] if named else [f"place {place.name}: has the files of model {name}"]


def _about(place: "Place") -> str:
    parts = [f"{place.cores} cores", "memory without limit" if place.memory is None else
             f"{human_size(place.memory)} of memory for instances"]
    parts += [] if place.disk is None else [f"{human_size(place.disk)} of disk free"]
    parts += [f"GPU {gpu.name} with {human_size(gpu.total)}" for gpu in place.devices]
    version = place.versions.get("lllms-core")
    return f"place {place.name}: {', '.join([*parts, *([f'lllms-core {version}'] if version else [])])}"


def _text(error: Exception) -> str:
    return error.message if isinstance(error, LllmsError) else described(error)
