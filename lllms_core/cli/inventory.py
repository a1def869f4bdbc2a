"""The models as file commands see them: those configured or offered, and the store's others."""

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Self

import attrs
from attrs import field, frozen

from lllms_core.catalog import Catalog, context_length, model_from_file
from lllms_core.config import Config
from lllms_core.downloads import scheme, shown
from lllms_core.errors import InvalidSource, LllmsError
from lllms_core.plugins import Plugins
from lllms_core.store import Store, StoredModel
from lllms_core.store.pulled import read_pulled
from lllms_core.store.weights import finder, open_store
from lllms_core.types import ModelSpec


@frozen
class Listed:
    """One model, and the facts known without loading it."""

    name: str
    """For a model that only the store knows, its source."""
    engine: str | None
    source: str | None
    """The source of its files: a path, or a form that a downloader knows; None for an engine that needs no file."""
    path: Path | None = None
    """The file that is loaded, if it is on this disk."""
    size: int | None = None
    """Bytes of all its files."""
    details: Mapping[str, str | int | float] = field(factory=dict)
    context_length: int | None = None
    """Tokens per request, as configured, else as the model was trained."""
    here: bool = False
    """Whether all its files are on this disk."""
    used: float | None = None
    """When it was last fetched or loaded, in seconds since 1970; None if unknown."""
    problem: str | None = None
    """Why it cannot be served."""


@frozen(slots=False)
class Inventory:
    """The models of a configuration and of the plugins, and the files of all of them."""

    config: Config
    plugins: Plugins
    store: Store

    @classmethod
    def open(cls, config: Config) -> Self:
        """Load the plugins and open the store."""
        plugins = Plugins.discover(disable=config.disabled_plugins)
        return cls(config, plugins, open_store(config, plugins))

    @cached_property
    def sources(self) -> dict[str, str | None]:
        """The sources of the models by name: of the configured models, or, without any, of the plugins'."""
        return {name: source for name, source in self.known.items() if name in self.config.models} or self.known

    @cached_property
    def known(self) -> dict[str, str | None]:
        """The same for all models with a name: the configured ones, and those that plugins offer as well."""
        configured = {name: self._canonical(model.source) for name, model in self.config.models.items()}
        offers = {name: provided.object for name, provided in sorted(self.plugins.offers.items())}
        offered = {name: None if offer.file is None else str(offer.file) for name, offer in offers.items()}
        return {**configured, **{name: source for name, source in offered.items() if name not in configured}}

    def name(self, name: str) -> str:
        """Return the name of the model with this alias; any other name unchanged."""
        return next((own for own, model in self.config.models.items() if name in model.aliases), name)

    def source(self, name: str) -> tuple[str | None, str | None]:
        """Return the source of a model, and the SHA-256 configured for its file, if any.

        `name` is a model of `known`, an alias, a name by which a client pulled a model, a source, or a name of the
        catalogue whose files are here, or that the user agrees to fetch. Raises `ModelUnknown`.
        """
        name = self.name(name)
        if name in self.known:
            configured = self.config.models.get(name)
            return self.known[name], None if configured is None else configured.sha256
        pulled = next((one.source for one in read_pulled(self.store) if one.name == name), None)
        if pulled is not None:
            return pulled, None
        if scheme(name) or "/" in name or name.endswith(".gguf"):
            source = self.store.canonical(name)
            # `ls` hides passwords and queries: accept its form of a source if it is unambiguous.
            called = {one.source for one in self.store.models() if shown(one.source) == source}
            return called.pop() if len(called) == 1 else source, None
        from lllms_core.cli.unknown_models import curated_source

        return curated_source(name, self.config, self.plugins, self.store, self.known), None

    def models(self) -> list[Listed]:
        """Return the models of `sources`, in their order, then those that only the store has."""
        catalog = Catalog.examine(self.config, self.plugins, finder(self.store))
        rest = [model for model in self.store.models() if model.source not in self.sources.values()]
        return [
            *(self._configured(name, source, catalog) for name, source in self.sources.items()),
            *(self._unconfigured(model) for model in rest),
        ]

    def stored(self, source: str) -> StoredModel | None:
        """Return the files of a source on this disk, even if they have changed since they were verified."""
        recorded = (model for model in self.store.models() if model.source == source)
        return next(recorded, None) or self.store.find(source)

    def users(self, model: StoredModel) -> list[str]:
        """Return the names of the models with the same source, and of those that name one of its files directly."""
        paths = {str(file.path) for file in model.files}
        return [
            name for name, source in self.known.items()
            if source is not None and (source == model.source or self._plain(source) in paths)
        ]

    def needs(self, path: Path) -> bool:
        """Whether a model names this file directly."""
        return str(path) in {self._plain(source) for source in self.known.values() if source is not None}

    def _canonical(self, source: str | None) -> str | None:
        """Return the canonical form of a source; an invalid one unchanged, because its model reports the problem."""
        with suppress(InvalidSource):
            return None if source is None else self.store.canonical(source)
        return source

    def _plain(self, source: str) -> str | None:
        """Return the file that a source names directly; None if a downloader provides it."""
        return None if scheme(source) else str(self.store.path(source))

    def _configured(self, name: str, source: str | None, catalog: Catalog) -> Listed:
        problem = next((one.text for one in catalog.problems if one.name == name), None)
        found = None
        with suppress(InvalidSource):  # reported as `problem`
            found = None if source is None else self.store.find(source)
        known = Listed(
            name, self._engine(name), source, here=source is None or found is not None, problem=problem,
            size=None if found is None else found.size, used=None if found is None else found.used or None,
        )
        if problem is not None:
            return known
        entry = catalog.get(name)
        known = attrs.evolve(known, path=entry.spec.file)
        if not entry.here:
            return attrs.evolve(known, context_length=context_length(entry.spec.options, {}))
        try:
            details = entry.engine.inspect(entry.spec)
        except LllmsError as error:
            return attrs.evolve(known, problem=error.message)
        return attrs.evolve(known, details=details, context_length=context_length(entry.spec.options, details))

    def _engine(self, name: str) -> str:
        if name in self.config.models:
            return self.config.models[name].engine
        return self.plugins.offers[name].object.engine

    def _unconfigured(self, model: StoredModel) -> Listed:
        known = Listed(
            model.source, None, model.source, model.path, model.size, here=True, used=model.used or None,
        )
        try:
            _, configured = model_from_file(model.path, self.plugins)
            engine = self.plugins.engines[configured.engine].object
            options = engine.Options()
            details = engine.inspect(ModelSpec(model.source, options, model.path))
        except LllmsError as error:
            return attrs.evolve(known, problem=error.message)
        length = context_length(options, details)
        return attrs.evolve(known, engine=engine.name, details=details, context_length=length)
