"""The part of `lllms check` about other machines: what is there, and whether workers can run there."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

import click
from attrs import Factory, define

from lllms_core.downloads import shown
from lllms_core.errors import ConfigError, LllmsError
from lllms_core.tracebacks import described
from lllms_core.values.sizes import human_size

if TYPE_CHECKING:
    from lllms_core.catalog import CatalogEntry
    from lllms_core.config import Config
    from lllms_core.engines import Engine
    from lllms_core.placements import FileKey, Place
    from lllms_core.plugins import Plugins
    from lllms_core.pool.far_places import FarPlaces

OPEN_SECONDS, PLACE_SECONDS, CLOSE_SECONDS = 60.0, 90.0, 20.0
"""Limits for finding the places, for all that is done at one of them, and for ending everything; all places are tried
at once."""


@define
class ClusterFindings:
    """What was found."""

    problems: list[str] = Factory(list)
    warnings: list[str] = Factory(list)


def check_cluster(config: "Config", plugins: "Plugins", entries: "Sequence[CatalogEntry]") -> ClusterFindings:
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
    with kept_warnings() as logged:
        found = asyncio.run(_Cluster(config.placement.kind, far, entries).check())
    found.warnings += [text for text in dict.fromkeys(logged) if text not in found.warnings]
    return found


class _Cluster:
    """Takes note of the places, and tries them."""

    def __init__(self, kind: str, far: "FarPlaces", entries: "Sequence[CatalogEntry]") -> None:
        self._kind = kind
        self._placement, self._options = far.placement, far.options
        self._entries = entries
        self._places: dict[str, Place] = {}
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
        files = {entry.name: key for entry in self._entries if (key := await asyncio.to_thread(_key, entry))}
        for lines in await asyncio.gather(*(self._try(place, files) for place in places)):
            for line in lines:
                click.echo(line)
        if places:
            self._found.problems += _about_memory(self._entries, places)

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._placement.close()
        except TimeoutError:
            self._found.problems.append(f"placement '{self._kind}' did not close within {CLOSE_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001  # of a plugin
            self._found.problems.append(f"placement '{self._kind}' cannot be closed: {_text(error)}")

    async def _try(self, place: "Place", files: "Mapping[str, FileKey]") -> Sequence[str]:
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
                lines += await self._look_for_files(place, files)
        except TimeoutError:
            self._found.problems.append(
                f"place {place.name} could not be checked within {PLACE_SECONDS:g} s: is the way to it slow, or is it"
                " busy?",
            )
        return lines

    def _engines(self) -> "Sequence[Engine]":
        """Return the engines of the models; without models, one that does nothing."""
        from lllms_core.worker.place_trial import RoundTrip

        return list({entry.engine.name: entry.engine for entry in self._entries}.values()) or [RoundTrip()]

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

    async def _look_for_files(self, place: "Place", files: "Mapping[str, FileKey]") -> Sequence[str]:
        """Tell which models' files are at a place, and note those that can neither be found nor fetched."""
        lines, missing = [], 0
        for entry in [entry for entry in self._entries if entry.name in files]:
            key = files[entry.name]
            try:
                there = await self._placement.find(place.id, key)
            except Exception as error:  # noqa: BLE001  # of a plugin
                self._found.problems.append(f"place {place.name}: cannot look for {key.path}: {_text(error)}")
                continue
            lines.append(_about_file(place, entry, key, there))
            if there is None and entry.source:
                missing += key.size
            elif there is None:
                self._found.problems.append(
                    f"models.{entry.name}: {place.name} has no file {key.path}; share its folder, or name a source from"
                    " which that can fetch it (url or hf in the configuration)",
                )
        if place.disk is not None and missing > place.disk:
            self._found.warnings.append(
                f"place {place.name}: its disk has {human_size(place.disk)} free, less than the {human_size(missing)}"
                " that it may have to fetch; a model whose file finds no room there is loaded elsewhere",
            )
        return lines


def _key(entry: "CatalogEntry") -> "FileKey | None":
    """Return what identifies a model's file; None if it has none."""
    from lllms_core.placements import FileKey

    file = entry.spec.file
    with contextlib.suppress(OSError):  # gone meanwhile; the check of the model itself says so
        return None if file is None else FileKey(file, file.stat().st_size, entry.config.sha256 or "")
    return None


def _about(place: "Place") -> str:
    parts = [f"{place.cores} cores", "memory without limit" if place.memory is None else
             f"{human_size(place.memory)} of memory for instances"]
    parts += [] if place.disk is None else [f"{human_size(place.disk)} of disk free"]
    parts += [f"GPU {gpu.name} with {human_size(gpu.total)}" for gpu in place.devices]
    version = place.versions.get("lllms-core")
    return f"place {place.name}: {', '.join([*parts, *([f'lllms-core {version}'] if version else [])])}"


def _about_file(place: "Place", entry: "CatalogEntry", key: "FileKey", there: PurePath | None) -> str:
    if there is not None:
        return f"place {place.name}: has the file of model {entry.name}: {there}"
    if entry.source:
        return (
            f"place {place.name}: fetches the file of model {entry.name} ({human_size(key.size)}) from"
            f" {shown(entry.source)} before its first load"
        )
    return f"place {place.name}: lacks the file of model {entry.name}"


def _about_memory(entries: "Sequence[CatalogEntry]", places: "Sequence[Place]") -> Iterator[str]:
    """Yield the models that fit at no place, and whether those that are kept loaded are too many for all places."""
    from lllms_core.pool.budget import used
    from lllms_core.pool.models import PoolModel
    from lllms_core.pool.needs import need_of
    from lllms_core.pool.shortages import too_large_everywhere

    limits = {place.name: place.memory for place in places if place.memory is not None}
    if len(limits) < len(places):
        return  # there is one without a limit
    largest = max(limits, key=lambda name: limits[name])
    needs = {
        entry.name: need_of(PoolModel.of(entry), entry.spec, limits[largest], alone=len(entries) == 1).least
        for entry in entries
    }
    for name, need in needs.items():
        if need.total > limits[largest]:
            yield f"models.{name}: {too_large_everywhere(need, 0, largest, limits[largest])}"
    kept = used((), [needs[entry.name] for entry in entries for _ in range(entry.config.min_instances)])
    if kept > sum(limits.values()):
        yield (
            f"the instances that models keep loaded (min_instances) need about {human_size(kept)}, but all places"
            f" together give them {human_size(sum(limits.values()))}; keep fewer, or add a place"
        )


def _text(error: Exception) -> str:
    return error.message if isinstance(error, LllmsError) else described(error)
