"""Models that users may want next, wherever they are: the facts of each, whether it fits, and the command for it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import frozen

from lllms_core.curated import CuratedModel, Space, curated_models, is_named, ranked
from lllms_core.downloads import SearchHit, shown
from lllms_core.errors import Offline
from lllms_core.values.sizes import human_size

if TYPE_CHECKING:
    from lllms_core.cli.inventory import Listed
    from lllms_core.config import Config
    from lllms_core.plugins import Plugins
    from lllms_core.store import Store
    from lllms_core.store.other_programs import FoundModel

COLUMNS = ("name", "where", "size", "context", "licence", "fits", "command")


@frozen
class Suggestion:
    """One model."""

    where: str
    """`catalog`, `here`, another program, or the downloader that found it."""
    name: str
    source: str
    size: int | None
    about: bool
    """Whether the size is rounded or estimated."""
    context_length: int | None
    licence: str
    fits: bool | None
    """Whether it fits this machine's memory; None if unknown."""
    here: str | None
    """What to write for it, if its files are on this machine."""
    parameters: int | None = None
    good_at: str = ""
    note: str = ""
    chats: bool = True
    """Whether it can be talked with, as far as is known: embedders are only served."""

    @property
    def command(self) -> str:
        """The command that fetches it, or runs it if it is here."""
        if self.here is None:
            return f"lllms pull {self.source}"
        return f"lllms chat {self.here}" if self.chats else f"lllms serve --model {self.here}"

    def row(self) -> list[str]:
        """Return its cells, under `COLUMNS`."""
        return [
            self.name, self.where, size_text(self), str(self.context_length or "-"),
            "; ".join(filter(None, (self.licence, self.note))) or "-", fits_text(self), self.command,
        ]

    def table(self) -> dict[str, object]:
        """Return its facts for JSON."""
        return {
            "where": self.where, "name": self.name, "source": self.source, "size": self.size, "about": self.about,
            "parameters": self.parameters, "context_length": self.context_length, "license": self.licence or None,
            "good_at": self.good_at or None, "fits": self.fits, "here": self.here, "note": self.note or None,
            "command": self.command,
        }


def size_text(one: Suggestion) -> str:
    """Return its size for people."""
    if one.size is None:
        return "-"
    return f"about {human_size(one.size)}" if one.about else human_size(one.size)


def fits_text(one: Suggestion) -> str:
    """Say whether it fits."""
    return "-" if one.fits is None else "yes" if one.fits else "no"


def machine_space(config: "Config", plugins: "Plugins") -> Space:
    """Return the memory for models here, as the pool computes it; on a machine with GPUs, looking takes a second."""
    from lllms_core.pool.devices import device_rooms, limits_of
    from lllms_core.pool.needs import memory_limit

    limit = memory_limit(config.server, config.server.spare_workers)
    engines = [one.object for one in plugins.engines.values() if ".gguf" in one.object.file_suffixes]
    devices = limits_of(device_rooms(config.server, engines))
    return Space(None if limit is None else limit.instances, sum(devices.values()))


def of_catalog(models: Iterable[CuratedModel], space: Space, store: "Store") -> list[Suggestion]:
    """Return models of the catalogue; those that were fetched, or that Ollama has, are `here`."""
    from lllms_core.store.other_programs import find_ollama

    ollama = {model.name for model in find_ollama().models}
    return [
        Suggestion(
            "catalog", model.name, model.source, model.size, True, model.context_length, model.licence,
            space.holds(model.size), _here(model, store, ollama), model.parameters, model.good_at,
            chats=model.task == "chat",
        )
        for model in models
    ]


def _here(model: CuratedModel, store: "Store", ollama: set[str]) -> str | None:
    if is_here(model.source, store):
        return model.name
    names = (name if ":" in name else f"{name}:latest" for name in (model.name, *model.names))
    return next((f"ollama:{name}" for name in names if name in ollama), None)


def is_here(source: str, store: "Store") -> bool:
    """Whether all files of a source are on this machine: in the store, or where its downloader finds them."""
    if store.find(source) is not None:
        return True
    downloader = store.downloader(source)
    with suppress(Offline):  # only some of them
        found = None if downloader is None else downloader.find(source)
        return found is not None and all(file.path is not None for file in found.files)
    return False


def search_catalog(word: str, space: Space, store: "Store") -> list[Suggestion]:
    """Return the models of the catalogue that a word may mean, in the order of `ranked`."""
    return of_catalog(ranked(word, curated_models(), space), space, store)


def search_listed(word: str, models: Iterable["Listed"], space: Space) -> Iterator[Suggestion]:
    """Yield the configured, offered and fetched models whose names or sources have all of a word."""
    for model in models:
        if model.here and is_named(word, shown(model.name), shown(model.source or "")):
            fits = None if model.size is None else space.holds(model.size)
            name = shown(model.name)
            yield Suggestion(
                "here", name, shown(model.source or name), model.size, False, model.context_length, "", fits, name,
            )


def search_programs(word: str, models: Iterable["FoundModel"], space: Space) -> Iterator[Suggestion]:
    """Yield the models of other programs whose names have all of a word."""
    for model in models:
        if is_named(word, model.name):
            note = f"left out: {', '.join(model.left_out)}" if model.left_out else ""
            yield Suggestion(
                model.place, model.name, model.source, model.size, False, None, "", space.holds(model.size),
                model.source, note=note,
            )


def of_hits(hits: Sequence[SearchHit], where: str, space: Space) -> list[Suggestion]:
    """Return the hits of a downloader: those that fit first, then those of unknown size, otherwise in its order."""
    found = [
        Suggestion(
            where, hit.source.partition(":")[2], hit.source, hit.size, True, hit.context_length, hit.licence,
            None if hit.size is None else space.holds(hit.size), None, hit.parameters, note=hit.note,
        )
        for hit in hits
    ]
    return sorted(found, key=lambda one: {True: 0, None: 1, False: 2}[one.fits])


def without_known(found: Iterable[Suggestion], known: Sequence[Suggestion]) -> list[Suggestion]:
    """Leave out sources that are `known`, also if their quantisation was left open there: `hf:org/repo`."""
    there = {one.source.casefold() for one in known}
    sources = ((one, one.source.casefold()) for one in found)
    return [one for one, source in sources if there.isdisjoint({source, source.rpartition(":")[0]})]
