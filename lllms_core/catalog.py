"""From a name to everything that is needed to run that model: its engine, its file, its options, its defaults."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import attrs
from attrs import define, field, frozen

from lllms_core.config import NAME_RULE, Config, ModelConfig, is_model_name
from lllms_core.engines import Engine
from lllms_core.errors import ConfigError, ModelLoadFailed, ModelUnknown
from lllms_core.faults import Fault, StructureError, closest
from lllms_core.gguf import is_gguf
from lllms_core.parameters import DEFAULTS, Generation
from lllms_core.plugins import Plugins, Provided
from lllms_core.structure import structure
from lllms_core.types import Isolation, ModelOffer, ModelSpec


@frozen(eq=False)
class CatalogEntry:
    """One model that can be served."""

    name: str
    aliases: tuple[str, ...]
    engine: Engine
    plugin: str
    """The plugin that provides the engine."""
    spec: ModelSpec
    config: ModelConfig
    defaults: Generation
    """For requests that do not say otherwise."""
    isolation: Isolation
    description: str
    fingerprint: str
    """Changes with the engine's version, the file and the options; OpenAI's `system_fingerprint`."""


@frozen
class Problem:
    """A model that cannot be served, and everything that is wrong with it, one fault per line."""

    name: str
    text: str
    configured: bool
    """Whether the configuration asks for it; otherwise a plugin merely offers it."""


@define
class Catalog:
    """The models, by name and alias."""

    entries: tuple[CatalogEntry, ...] = ()
    problems: tuple[Problem, ...] = ()
    _by_name: dict[str, CatalogEntry] = field(init=False, repr=False)

    @_by_name.default
    def _index(self) -> dict[str, CatalogEntry]:
        return {name: entry for entry in self.entries for name in (entry.name, *entry.aliases)}

    @classmethod
    def build(cls, config: Config, plugins: Plugins) -> Self:
        """Return the configured models, or the plugins' offers if none is configured.

        Raises `ConfigError` if any configured model cannot be served, and says why of each; offers only get a problem.
        """
        catalog = cls.examine(config, plugins)
        faults = [problem.text for problem in catalog.problems if problem.configured]
        if faults:
            raise ConfigError("\n".join(faults))
        return catalog

    @classmethod
    def examine(cls, config: Config, plugins: Plugins) -> Self:
        """Return what `build` does, with a problem instead of an error for each model that cannot be served."""
        entries: list[CatalogEntry] = []
        problems: list[Problem] = []
        for name, model, provided in _wanted(config, plugins):
            try:
                entries.append(_entry(name, model, provided, config, plugins))
            except StructureError as error:
                source = "" if provided is None else f" (offered by plugin '{provided.plugin}')"
                problems.append(Problem(name, f"{error}{source}", configured=provided is None))
        return cls(tuple(entries), tuple(problems))

    def get(self, name: str) -> CatalogEntry:
        """Look up a model by name or alias. Raises `ModelUnknown`, `ModelLoadFailed` for an offer with a problem."""
        entry = self._by_name.get(name)
        if entry is not None:
            return entry
        for problem in self.problems:
            if problem.name == name:
                raise ModelLoadFailed(f"model '{name}' cannot be served: {problem.text}")
        if not self._by_name:
            raise ModelUnknown(f"no model '{name}': none is configured, and no plugin offers one")
        close = closest(name, self._by_name)
        meant = f" (did you mean '{close}'?)" if close else ""
        raise ModelUnknown(f"no model '{name}'{meant}; there are: {', '.join(entry.name for entry in self.entries)}")


def model_from_file(path: Path, plugins: Plugins) -> tuple[str, ModelConfig]:
    """Return a name and a configuration for a file of weights: the engine is found by the file's ending.

    A GGUF file may have any name: other programs keep some under their hashes.
    Raises `ConfigError` if there is no such file, or not exactly one engine for it.
    """
    file = path.expanduser().absolute()
    if not file.is_file():
        raise ConfigError(f"no file {file}")
    suffixes = {name: provided.object.file_suffixes for name, provided in sorted(plugins.engines.items())}
    ending = ".gguf" if is_gguf(file) else file.name.lower()
    fitting = [name for name, endings in suffixes.items() if ending.endswith(endings)]
    if not fitting:
        known = [f"{name} loads {' '.join(endings)}" for name, endings in suffixes.items() if endings]
        raise ConfigError(f"no engine for {file.name}: {'; '.join(known) or 'no engine loads files'}")
    if len(fitting) > 1:
        both = " and ".join(fitting)
        raise ConfigError(f'engines {both} load {file.name}: configure the model, with engine = "{fitting[0]}" or so')
    name = re.sub(r"[^A-Za-z0-9_.-]+|\.\.+", "-", file.stem).strip("_.-")
    return name or fitting[0], ModelConfig(fitting[0], str(file))


Offered = Provided[ModelOffer] | None


def _wanted(config: Config, plugins: Plugins) -> Iterator[tuple[str, ModelConfig, Offered]]:
    """Name the models to serve, with the offer that they come from, if any."""
    for name, model in config.models.items():
        yield name, model, None
    if not config.models:
        for name, provided in sorted(plugins.offers.items()):
            offer = provided.object
            file = None if offer.file is None else str(offer.file)
            yield name, ModelConfig(offer.engine, file, options=offer.options), provided


def _entry(name: str, model: ModelConfig, offered: Offered, config: Config, plugins: Plugins) -> CatalogEntry:
    """Put an entry together. Raises `StructureError` with everything that is wrong."""
    path = ("models", name)
    faults: list[Fault] = []
    if not is_model_name(name):
        faults.append(Fault(path, f"{name!r} is no name for a model: {NAME_RULE}"))
    provided = plugins.engines.get(model.engine)
    if provided is None:
        raise StructureError([*faults, Fault((*path, "engine"), plugins.why_no_engine(model.engine))])
    engine = provided.object
    file = None
    try:
        file = _file(model.file, engine, config.server.models_dir)
    except (OSError, ValueError) as error:
        faults.append(Fault((*path, "file"), str(error)))
    options: object = None
    try:
        options = structure(model.options, engine.Options, (*path, "options"))
    except StructureError as error:
        faults += error.faults
    faults += _unhonoured(model, engine, (*path, "defaults"))
    if model.preload is not None and not engine.can_preload:
        faults.append(Fault((*path, "preload"), f"engine '{engine.name}' keeps nothing evaluated; leave it out"))
    if faults:
        raise StructureError(faults)
    spec = ModelSpec(name, options, file, preload=model.preload)
    version = next((report.version for report in plugins.reports if report.name == provided.plugin), None)
    return CatalogEntry(
        name=name,
        aliases=model.aliases,
        engine=engine,
        plugin=provided.plugin,
        spec=spec,
        config=model,
        defaults=model.generation,
        isolation=model.isolation or engine.isolation,
        description=offered.object.description if offered else "",
        fingerprint=_fingerprint(engine.name, version, spec),
    )


def _file(given: str | None, engine: Engine, models_dir: Path) -> Path | None:
    """Return the absolute path of a model's file. Raises `ValueError` if it is not there."""
    if given is None:
        if engine.needs_file:
            raise ValueError(f"missing; engine '{engine.name}' cannot load a model without a file")
        return None
    if not given:
        raise ValueError("is empty")
    file = (models_dir / Path(given).expanduser()).absolute()
    if not file.exists():
        raise ValueError(f"there is no file {file}")
    if file.is_dir():
        raise ValueError(f"{file} is a folder")
    return file


def _unhonoured(model: ModelConfig, engine: Engine, path: tuple[str, ...]) -> Iterator[Fault]:
    """Name the defaults that the engine would ignore."""
    for name in sorted(model.defaults):
        parameter = DEFAULTS[name]
        refused = parameter.verdict(engine.parameters) == "refused"
        if refused and not parameter.asks_for_nothing(parameter.check(model.defaults[name])):
            yield Fault((*path, name), f"engine '{engine.name}' does not honour it; leave it out")


def _fingerprint(engine: str, version: str | None, spec: ModelSpec) -> str:
    options: object = attrs.asdict(spec.options) if attrs.has(type(spec.options)) else spec.options  # type: ignore[arg-type]
    parts: list[object] = [engine, version, options]
    if spec.file is not None:
        status = spec.file.stat()
        parts += [spec.file.name, status.st_size, status.st_mtime_ns]
    text = json.dumps(parts, sort_keys=True, default=str)
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:12]
