"""From a name to everything needed to run that model: its engine, its file, its options, its defaults."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Self

import attrs
from attrs import define, field, frozen

from lllms_core.caller import NOBODY, Caller
from lllms_core.config import NAME_RULE, Config, ModelConfig, is_model_name
from lllms_core.curated import known_model
from lllms_core.downloads import Downloader, canonical, choose_downloader, scheme, shown
from lllms_core.engines import Engine
from lllms_core.errors import ConfigError, LllmsError, ModelLoadFailed, ModelUnknown
from lllms_core.footprint import Footprint, read_defaults, take_footprint
from lllms_core.gguf import is_gguf
from lllms_core.machine import at_home
from lllms_core.parameters import DEFAULTS, Generation
from lllms_core.parameters.wording import cut
from lllms_core.plugins import Plugins, Provided
from lllms_core.status import Problem
from lllms_core.text.wildcards import NamePattern
from lllms_core.types import Isolation, ModelOffer, ModelSpec
from lllms_core.values.structure import structure, with_folder
from lllms_core.values.violations import StructureError, Violation, closest

Find = Callable[[str, str | None], Path | None]
"""Returns the file to load for a source and the wanted SHA-256, if all files are here and verified."""


def find_nothing(_source: str, _sha256: str | None) -> None:
    """Find nothing: for callers without a store."""


@frozen(eq=False)
class CatalogEntry:
    """One model that can be served."""

    name: str
    aliases: tuple[str, ...]
    engine: Engine
    plugin: str
    """The plugin that provides the engine."""
    version: str | None
    """That plugin's version."""
    spec: ModelSpec
    config: ModelConfig
    defaults: Generation
    """For requests that do not set them."""
    isolation: Isolation
    description: str
    footprint: Footprint
    """The footprint that its last load read, or its next one will read."""
    source: str | None = None
    """The source of the weights, if they may have to be fetched or verified; until then, `spec.file` is None."""

    @property
    def here(self) -> bool:
        """Whether all its files are on this disk."""
        return self.source is None or self.spec.file is not None

    @property
    def fingerprint(self) -> str:
        """Changes with the engine's version, the files and the options; OpenAI's `system_fingerprint`."""
        return self.footprint.fingerprint


@define
class Catalog:
    """The models, by name and alias."""

    entries: tuple[CatalogEntry, ...] = ()
    problems: tuple[Problem, ...] = ()
    _by_name: dict[str, CatalogEntry] = field(init=False, repr=False)
    """By names and aliases, without the patterns."""

    @_by_name.default
    def _index(self) -> dict[str, CatalogEntry]:
        names = ((name, entry) for entry in self.entries for name in (entry.name, *entry.aliases))
        return {name: entry for name, entry in names if "*" not in name}

    @classmethod
    def build(cls, config: Config, plugins: Plugins, find: Find = find_nothing) -> Self:
        """Return the configured models, or the plugins' offers if none is configured; `find` locates their files.

        Raises `ConfigError`, with all reasons, if a configured model cannot be served; an offer only becomes a problem.
        """
        catalog = cls.examine(config, plugins, find)
        faults = [problem.text for problem in catalog.problems if problem.configured]
        if faults:
            raise ConfigError("\n".join(faults))
        return catalog

    @classmethod
    def examine(cls, config: Config, plugins: Plugins, find: Find = find_nothing) -> Self:
        """Like `build`, but with a problem instead of an error for each model that cannot be served."""
        entries: list[CatalogEntry] = []
        problems: list[Problem] = []
        for name, model, provided in _wanted(config, plugins):
            try:
                entries.append(_entry(name, model, provided, config, plugins, find=find))
            except StructureError as error:
                source = "" if provided is None else f" (offered by plugin '{provided.plugin}')"
                problems.append(Problem(name, f"{error}{source}", configured=provided is None))
        return cls(tuple(entries), tuple(problems))

    def add(self, name: str, model: ModelConfig, config: Config, plugins: Plugins, find: Find) -> CatalogEntry:
        """Add a model to those of the configuration; aliases that are taken are left out.

        Raises `ConfigError` with all reasons if it cannot be served.
        """
        free = tuple(alias for alias in model.aliases if alias not in self._by_name)
        try:
            entry = _entry(name, attrs.evolve(model, aliases=free), None, config, plugins, find=find)
        except StructureError as error:
            raise ConfigError(str(error)) from error
        self.entries = (*self.entries, entry)
        self._by_name = self._index()
        return entry

    def keep(self, entry: CatalogEntry) -> None:
        """Go on offering a model beside those that were taken; its aliases that are taken are left out."""
        free = tuple(alias for alias in entry.aliases if alias not in self._by_name)
        self.entries = (*self.entries, entry if free == entry.aliases else attrs.evolve(entry, aliases=free))
        self._by_name = self._index()

    def add_alias(self, name: str, alias: str) -> CatalogEntry:
        """Give a model another name, and return it."""
        entry = self._by_name[name]
        named = attrs.evolve(entry, aliases=(*entry.aliases, alias))
        self.entries = tuple(named if one is entry else one for one in self.entries)
        self._by_name = self._index()
        return named

    def take(self, entries: Iterable[CatalogEntry], problems: Iterable[Problem] = ()) -> None:
        """Offer these models from now on, and no others."""
        self.entries, self.problems = tuple(entries), tuple(problems)
        self._by_name = self._index()

    def place(self, name: str, file: Path | None) -> Footprint:
        """Look at a model's files, which are about to be loaded or have just arrived; `file` holds its weights.

        This updates what depends on them: the fingerprint, and the defaults that the file recommends. A model that is
        not offered any more has none.
        """
        entry = self._by_name.get(name)
        if entry is None:
            return Footprint()
        spec = attrs.evolve(entry.spec, file=file)
        footprint = take_footprint(entry.engine.name, entry.version, spec, entry.source)
        if footprint != entry.footprint or spec != entry.spec:
            defaults = read_defaults(entry.engine, spec, entry.config.defaults)
            placed = attrs.evolve(entry, spec=spec, footprint=footprint, defaults=defaults)
            self.entries = tuple(placed if one is entry else one for one in self.entries)
            self._by_name = self._index()
        return footprint

    def get(self, name: str, caller: Caller = NOBODY) -> CatalogEntry:
        """Look up a model by name or alias, then by the aliases that are patterns, the longest first.

        Raises `ModelUnknown`, also if the caller may not use it, or `ModelLoadFailed` for an offer with a problem.
        """
        entry = self._by_name.get(name)
        if entry is not None and caller.may_use(entry.name, *entry.aliases):
            return entry
        for problem in self.problems:
            if problem.name == name and caller.may_use(name):
                raise ModelLoadFailed(f"model '{name}' cannot be served: {problem.text}")
        usable = self.usable(caller)
        entry = _find_by_pattern(name, usable)
        if entry is not None:
            return entry
        shown = cut(name)
        known = known_model(name)
        fetch = "" if known is None else f"; on the server, lllms serve --model {known.source} offers it"
        if not usable:
            why = "the API key may use none" if self.entries else "none is configured, and no plugin offers one"
            raise ModelUnknown(f"no model '{shown}': {why}{'' if self.entries else fetch}")
        names = [one for entry in usable for one in (entry.name, *entry.aliases) if "*" not in one]
        close = closest(name, names)
        meant = f" (did you mean '{close}'?)" if close else ""
        there_are = ", ".join(entry.name for entry in usable)
        raise ModelUnknown(f"no model '{shown}'{meant}; there are: {there_are}{fetch}")

    def usable(self, caller: Caller) -> tuple[CatalogEntry, ...]:
        """Return the models that a caller may use."""
        return tuple(entry for entry in self.entries if caller.may_use(entry.name, *entry.aliases))


def _find_by_pattern(name: str, entries: Sequence[CatalogEntry]) -> CatalogEntry | None:
    aliases = ((NamePattern(alias), entry) for entry in entries for alias in entry.aliases if "*" in alias)
    fitting = [(pattern.length, entry) for pattern, entry in aliases if pattern.fits(name)]
    return max(fitting, key=lambda one: one[0])[1] if fitting else None  # of equal ones, the first


def model_from_file(path: Path, plugins: Plugins) -> tuple[str, ModelConfig]:
    """Return a name and a configuration for a weights file; its ending determines the engine.

    A GGUF file may have any name: some programs name theirs by hash.
    Raises `ConfigError` if there is no such file, or not exactly one engine for it.
    """
    file = at_home(path).absolute()
    if not file.is_file():
        raise ConfigError(f"no file {file}")
    engine = _engine_for(".gguf" if is_gguf(file) else file.name, file.name, plugins)
    return _as_name(file.stem) or engine, ModelConfig(engine, str(file))


def model_from_source(source: str, plugins: Plugins) -> tuple[str, ModelConfig]:
    """Return a name and a configuration for a source that a downloader knows, like `hf:org/repo:Q4_K_M`.

    The ending of the file determines the engine, the rest of it is the name, and the source itself, as given and in its
    canonical form, is an alias where it can be one.
    Raises `InvalidSource`, or `ConfigError` if there is not exactly one engine for it.
    """
    downloader = choose_downloader(source, _downloaders(plugins))
    if downloader is None:
        raise ConfigError(f"{source} is a path, not a source to fetch from")
    written = downloader.canonical(source)
    file = downloader.file_name(written)
    engine = _engine_for(file, file or shown(source), plugins)
    stem = PurePosixPath(file).stem
    name = stem if is_model_name(stem) else _as_name(stem) or engine
    aliases = tuple(one for one in dict.fromkeys((source, written)) if is_model_name(one) and one != name)
    return name, ModelConfig(engine, url=written, aliases=aliases)


def offered_model(offer: ModelOffer) -> ModelConfig:
    """Return the configuration of a model that a plugin offers."""
    return ModelConfig(offer.engine, None if offer.file is None else str(offer.file), options=offer.options)


def context_length(options: object, details: Mapping[str, str | int | float]) -> int | None:
    """Return the tokens that a request may hold, by the options or as the engine reports; None if unknown.

    `details` are those of `Engine.inspect`.
    """
    told = (details.get("context_length"), details.get("context_trained"))
    for value in (getattr(options, "context_length", None), *told):
        if isinstance(value, int):
            return value
    return None


def _downloaders(plugins: Plugins) -> list[Downloader]:
    return [provided.object for provided in plugins.downloaders.values()]


def _engine_for(ending: str, what: str, plugins: Plugins) -> str:
    """Return the engine that loads files with this ending. Raises `ConfigError` unless there is exactly one."""
    suffixes = {name: provided.object.file_suffixes for name, provided in sorted(plugins.engines.items())}
    fitting = [name for name, endings in suffixes.items() if ending.lower().endswith(endings)]
    fitting = [name for name in fitting if not plugins.engines[name].object.yields_files] or fitting
    if not fitting and ending.lower().endswith(".gguf"):
        raise ConfigError(f"no engine for {what}: {way_to_engine(plugins)}")
    if not fitting:
        known = [f"{name} loads {' '.join(endings)}" for name, endings in suffixes.items() if endings]
        raise ConfigError(f"no engine for {what}: {'; '.join(known) or 'no engine loads files'}")
    if len(fitting) > 1:
        both = " and ".join(fitting)
        raise ConfigError(f'engines {both} load {what}: configure the model, for example with engine = "{fitting[0]}"')
    return fitting[0]


def loads_gguf(plugins: Plugins) -> bool:
    """Whether an engine loads GGUF files, which the models of the catalogue are."""
    return any(".gguf" in provided.object.file_suffixes for provided in plugins.engines.values())


def way_to_engine(plugins: Plugins) -> str:
    """Return how to get an engine that loads GGUF files: mend or enable the plugin that is here, or install one."""
    here = next((report for report in plugins.reports if report.name == "llamacpp"), None)
    if here is not None and here.error:
        return f"the plugin 'llamacpp' failed: {here.error}"
    if here is not None and here.disabled:
        return "the plugin 'llamacpp' is disabled (plugins.disable)"
    return "pip install lllms-llamacpp adds one"


def _as_name(text: str) -> str:
    """Turn a text into a valid model name; empty if nothing of it is left."""
    return re.sub(r"[^A-Za-z0-9_.-]+|\.\.+", "-", text).strip("_.-")


Offered = Provided[ModelOffer] | None


def _wanted(config: Config, plugins: Plugins) -> Iterator[tuple[str, ModelConfig, Offered]]:
    """Yield the models to serve, each with its offer, if it comes from one."""
    for name, model in config.models.items():
        yield name, model, None
    if not config.models:
        for name, provided in sorted(plugins.offers.items()):
            yield name, offered_model(provided.object), provided


def _entry(
    name: str, model: ModelConfig, offered: Offered, config: Config, plugins: Plugins, *, find: Find,
) -> CatalogEntry:
    """Build an entry. Raises `StructureError` with all violations."""
    path = ("models", name)
    violations: list[Violation] = []
    if not is_model_name(name):
        violations.append(Violation(path, f"{name!r} is not a valid model name: {NAME_RULE}"))
    provided = plugins.engines.get(model.engine)
    if provided is None:
        raise StructureError([*violations, Violation((*path, "engine"), plugins.why_no_engine(model.engine))])
    engine = provided.object
    file = source = None
    note = ""
    key = "hf" if model.hf is not None else "file" if model.url is None else "url"
    try:
        if model.file is not None:
            _check_path(model.file, plugins)
        file, source, note = _weights(model, engine, config, plugins, find)
    except (OSError, ValueError, LllmsError) as error:
        violations.append(Violation((*path, key), str(error)))
    options: object = None
    try:
        options = with_folder(structure(model.options, engine.Options, (*path, "options")), config.folder)
    except StructureError as error:
        violations += error.violations
    violations += _unhonoured(model, engine, (*path, "defaults"))
    if model.preload is not None and not engine.can_preload:
        violations.append(Violation((*path, "preload"), f"engine '{engine.name}' cannot preload; leave it out"))
    if violations:
        raise StructureError(violations)
    spec = ModelSpec(name, options, file, preload=model.preload)
    version = next((report.version for report in plugins.reports if report.name == provided.plugin), None)
    return CatalogEntry(
        name=name,
        aliases=model.aliases,
        engine=engine,
        plugin=provided.plugin,
        version=version,
        spec=spec,
        config=model,
        defaults=read_defaults(engine, spec, model.defaults),
        isolation=model.isolation or engine.isolation,
        description=offered.object.description if offered else note,
        footprint=take_footprint(engine.name, version, spec, source),
        source=source,
    )


def _weights(
    model: ModelConfig, engine: Engine, config: Config, plugins: Plugins, find: Find,
) -> tuple[Path | None, str | None, str]:
    """Return the file to load, if it is here; the source, if it may have to be fetched or verified; a note on it.

    Raises `ValueError` or `LllmsError` if there cannot be such a file.
    """
    downloaders = _downloaders(plugins)
    if model.url is None and model.hf is None and not _is_local(model.file or "", downloaders):
        file = _file(model.file, engine, config)
        if file is None or model.sha256 is None:
            return file, None, ""
        return find(str(file), model.sha256), str(file), ""
    assert model.source is not None  # noqa: S101  # it is one of the three
    source = canonical(model.source, downloaders)
    downloader = choose_downloader(source, downloaders)
    # A missing file of this machine is a fault at once.
    note = downloader.resolve(source).note if downloader is not None and downloader.local else ""
    return find(source, model.sha256), source, note


def _check_path(given: str, plugins: Plugins) -> None:
    """Raise `ValueError` for a source in place of a path."""
    downloaders = _downloaders(plugins)
    kinds = {name for one in downloaders for name in one.schemes}
    if scheme(given) in kinds and not _is_local(given, downloaders) and not at_home(given).exists():
        raise ValueError(f'{shown(given)} is not a path; write url = "{shown(given)}" instead')


def _is_local(given: str, downloaders: Sequence[Downloader]) -> bool:
    """Whether this is no path, but another name for a file of this machine, like `ollama:llama3.2`."""
    local = {name for one in downloaders if one.local for name in one.schemes}
    return scheme(given) in local and not at_home(given).exists()


def _file(given: str | None, engine: Engine, config: Config) -> Path | None:
    """Return the absolute path of a model's file. Raises `ValueError` if it is missing."""
    if given is None:
        if engine.needs_file:
            raise ValueError(f"missing; engine '{engine.name}' cannot load a model without file, url or hf")
        return None
    if not given:
        raise ValueError("is empty")
    file = (config.folder / at_home(given)).absolute()
    if not file.exists():
        # Where relative paths started before they started in the configuration's folder.
        before = config.server.models_dir / (
            file.relative_to(config.folder) if file.is_relative_to(config.folder) else file.name
        )
        there = f'; there is one in server.models_dir: write file = "{before}"' if before.is_file() else ""
        raise ValueError(f"there is no file {file}{there}")
    if file.is_dir():
        raise ValueError(f"{file} is a folder")
    return file


def _unhonoured(model: ModelConfig, engine: Engine, path: tuple[str, ...]) -> Iterator[Violation]:
    """Yield the defaults that the engine would ignore."""
    for name in sorted(model.defaults):
        parameter = DEFAULTS[name]
        refused = parameter.verdict(engine.parameters) == "refused"
        if refused and not parameter.asks_for_nothing(parameter.check(model.defaults[name])):
            yield Violation((*path, name), f"engine '{engine.name}' does not honour it; leave it out")
