"""Find plugins and collect what each provides: a broken one is reported, and affects no other."""

import os
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, version
from typing import Generic, Self, TypeVar, cast

import click
from attrs import define, field, frozen

from lllms_core import hookspecs
from lllms_core.apis import Api
from lllms_core.config.environment import is_true
from lllms_core.downloads import Downloader
from lllms_core.engines import Engine
from lllms_core.engines.promises import check_engine
from lllms_core.errors import PluginConflict, PluginError, PluginLoadFailed
from lllms_core.placements import Placement
from lllms_core.plugins.inspection import find_hooks, named_objects
from lllms_core.sessions import SessionStore
from lllms_core.tracebacks import described
from lllms_core.types import ModelOffer

BUILTINS: Mapping[str, str] = {
    "chat": "lllms_core.builtin.chat",
    "downloaders": "lllms_core.builtin.downloaders",
    "native": "lllms_core.builtin.native",
    "openai": "lllms_core.builtin.openai",
    "session_routes": "lllms_core.builtin.session_routes",
    "sessions": "lllms_core.builtin.sessions",
    "status": "lllms_core.builtin.status",
}
"""The core's own plugins, by name, each with the module that implements its hooks."""

CORE_DISTRIBUTION = "lllms-core"

T = TypeVar("T")


@frozen
class Provided(Generic[T]):
    """An object and the name of the plugin that provides it."""

    object: T
    plugin: str


@frozen
class PluginReport:
    """The result of loading one plugin."""

    name: str
    version: str | None = None
    distribution: str | None = None
    """The installed distribution that it belongs to; None for a plugin object passed in by an embedding program."""
    provides: tuple[str, ...] = ()
    """The objects in use, like `engine llamacpp`, `model tiny-chat`, `api openai`, `commands`."""
    error: str | None = None
    """Why it, or part of it, is not in use."""
    traceback: str | None = None
    """The traceback of the first error, for plugin authors."""
    disabled: bool = False
    """Whether the configuration or `LLLMS_PLUGINS` excludes it; then it is not even imported."""


@frozen
class _Source:
    """A known plugin that is not yet imported."""

    name: str
    load: Callable[[], object]
    version: str | None = None
    distribution: str | None = None


@define
class _Candidate:
    """A plugin while it is being loaded."""

    source: _Source
    hooks: dict[str, Callable[..., object]] = field(factory=dict)
    provides: list[str] = field(factory=list)
    errors: list[str] = field(factory=list)
    traceback: str | None = None
    disabled: bool = False

    @property
    def report(self) -> PluginReport:
        source = self.source
        return PluginReport(
            source.name, source.version, source.distribution, tuple(self.provides),
            "; ".join(self.errors) or None, self.traceback, self.disabled,
        )


@define
class Plugins:
    """The installed plugins and everything that they provide, by name. Each call of `discover` searches again."""

    engines: dict[str, Provided[Engine]] = field(factory=dict, init=False)
    downloaders: dict[str, Provided[Downloader]] = field(factory=dict, init=False)
    session_stores: dict[str, Provided[SessionStore]] = field(factory=dict, init=False)
    placements: dict[str, Provided[Placement]] = field(factory=dict, init=False)
    apis: dict[str, Provided[Api]] = field(factory=dict, init=False)
    offers: dict[str, Provided[ModelOffer]] = field(factory=dict, init=False)
    _strict: bool = False
    _candidates: list[_Candidate] = field(factory=list, init=False)

    @classmethod
    def discover(
        cls,
        *,
        environ: Mapping[str, str] = os.environ,
        disable: Collection[str] = (),
        extra: Mapping[str, object] | None = None,
    ) -> Self:
        """Load the built-in plugins, then the installed ones sorted by name, then `extra` (name -> plugin object).

        `LLLMS_PLUGINS=a,b` in `environ` allows only these of the installed ones, an empty value none. Failures are in
        `reports`; with `LLLMS_STRICT=1` they raise `PluginError` instead.
        """
        plugins = cls(strict=is_true(environ.get("LLLMS_STRICT", "")))
        installed = list(_installed())
        allowed = _allowed(environ)
        known = {*BUILTINS, *(source.name for source in installed), *(extra or {})}
        for source in _builtins():
            plugins._add(source, disabled=source.name in disable)
        for source in installed:
            left_out = allowed is not None and source.name not in allowed
            plugins._add(source, disabled=left_out or source.name in disable)
        for name, plugin in (extra or {}).items():
            plugins._add(_Source(name, _returning(plugin)), disabled=name in disable)
        for name in sorted((allowed or set()) - {source.name for source in installed} - set(BUILTINS)):
            plugins._missing(name, "LLLMS_PLUGINS", installed)
        for name in sorted(set(disable) - known):
            plugins._missing(name, "plugins.disable", installed)
        return plugins

    @property
    def reports(self) -> tuple[PluginReport, ...]:
        """One report for each plugin, in the order in which they were loaded."""
        return tuple(candidate.report for candidate in self._candidates)

    def add_commands(self, cli: click.Group) -> None:
        """Let each plugin add its commands to `cli`; if one fails, none of its commands is added."""
        for candidate in self._candidates:
            hook = candidate.hooks.get("lllms_commands")
            if hook is not None:
                self._add_commands_of(candidate, hook, cli)

    def why_no_engine(self, name: str) -> str:
        """Explain why there is no engine `name`: plugins that failed or are disabled, and the engines that exist."""
        suspects = [report for report in self.reports if report.error or report.disabled]
        suspects = [report for report in suspects if report.name == name] or suspects
        reasons = [
            f"plugin '{report.name}' " + ("is disabled" if report.disabled else f"failed: {report.error}")
            for report in suspects
        ]
        there_are = f"there are: {', '.join(sorted(self.engines))}" if self.engines else "no plugin provides any engine"
        return f"no engine '{name}' ({there_are})" + "".join(f"; {reason}" for reason in reasons)

    def _add(self, source: _Source, *, disabled: bool) -> None:
        candidate = _Candidate(source, disabled=disabled)
        namesake = next((other.source for other in self._candidates if other.source.name == source.name), None)
        self._candidates.append(candidate)
        if disabled:
            return
        if namesake is None:
            self._ask(candidate)
        else:
            origin = namesake.distribution or "the embedding program"
            self._fail(candidate, PluginConflict(f"there is already a plugin '{source.name}' from {origin}"))

    def _ask(self, candidate: _Candidate) -> None:
        try:
            plugin = candidate.source.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin may raise anything
            self._fail(candidate, error, f"cannot be imported: {described(error)}")
            return
        try:
            candidate.hooks, faults = find_hooks(plugin, candidate.source.name)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin's properties may raise anything
            self._fail(candidate, error, f"cannot be registered: {described(error)}")
            return
        for fault in faults:
            self._fail(candidate, PluginLoadFailed(fault))
        self._collect(candidate, "lllms_engines", "engine", Engine, self.engines)
        self._collect(candidate, "lllms_downloaders", "downloader", Downloader, self.downloaders)
        self._check_schemes(candidate)
        self._collect(candidate, "lllms_session_stores", "session store", SessionStore, self.session_stores)
        self._collect(candidate, "lllms_placements", "placement", Placement, self.placements)
        self._collect(candidate, "lllms_apis", "api", Api, self.apis)
        self._collect(candidate, "lllms_models", "model", ModelOffer, self.offers)

    def _collect(
        self, candidate: _Candidate, hook: str, kind: str, base: type, into: dict[str, Provided[T]],
    ) -> None:
        """Call one hook and register its objects: all, or none if any of them is invalid."""
        if hook not in candidate.hooks:
            return
        try:
            found = named_objects(candidate.hooks[hook](), hook, base)
            for _, one in found:
                if isinstance(one, Engine):
                    check_engine(one)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin may raise anything
            text = str(error) if isinstance(error, PluginError) else f"{hook} raised {described(error)}"
            self._fail(candidate, error, text)
            return
        for name, provided in found:
            if name in into:
                both = f"plugins '{into[name].plugin}' and '{candidate.source.name}' both provide {kind} '{name}'"
                self._fail(candidate, PluginConflict(f"{both}, and the first keeps it: disable one of the two"))
            else:
                into[name] = Provided(cast("T", provided), candidate.source.name)
                candidate.provides.append(f"{kind} {name}")

    def _check_schemes(self, candidate: _Candidate) -> None:
        """Drop the downloaders of a plugin whose schemes are already taken."""
        name = candidate.source.name
        for downloader in [one for one in self.downloaders.values() if one.plugin == name]:
            others = [one for one in self.downloaders.values() if one is not downloader]
            for other in others:
                shared = sorted(downloader.object.schemes & other.object.schemes)
                if shared and downloader.object.name in self.downloaders:
                    del self.downloaders[downloader.object.name]
                    candidate.provides.remove(f"downloader {downloader.object.name}")
                    self._fail(candidate, PluginConflict(
                        f"downloader '{downloader.object.name}' is for '{shared[0]}:', and so is"
                        f" '{other.object.name}' of plugin '{other.plugin}': disable one of the two",
                    ))

    def _add_commands_of(self, candidate: _Candidate, hook: Callable[..., object], cli: click.Group) -> None:
        # The plugin works on a copy, so that a failure half-way leaves no traces.
        trial = copy(cli)
        trial.commands = dict(cli.commands)
        taken = set(cli.list_commands(click.Context(cli)))
        try:
            hook(trial)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin may raise anything
            self._fail(candidate, error, f"lllms_commands raised {described(error)}")
            return
        for name, command in trial.commands.items():
            if command is cli.commands.get(name):
                continue
            if name in taken:
                self._fail(candidate, PluginConflict(f"there is already a command '{name}'"))
            else:
                cli.add_command(command, name)
        if "commands" not in candidate.provides:
            candidate.provides.append("commands")

    def _missing(self, name: str, where: str, installed: Iterable[_Source]) -> None:
        """Report a name in a setting that no plugin has."""
        candidate = _Candidate(_Source(name, _returning(None)))
        self._candidates.append(candidate)
        names = ", ".join(source.name for source in installed) or "none"
        self._fail(candidate, PluginLoadFailed(f"{where} names it, but it is not installed (installed: {names})"))

    def _fail(self, candidate: _Candidate, error: BaseException, text: str | None = None) -> None:
        text = text or str(error)
        if self._strict:
            kind = type(error) if isinstance(error, PluginError) else PluginLoadFailed
            raise kind(f"plugin '{candidate.source.name}': {text}") from error
        candidate.errors.append(text)
        if candidate.traceback is None:
            candidate.traceback = "".join(traceback.format_exception(error))


def _builtins() -> Iterator[_Source]:
    for name, module in BUILTINS.items():
        yield _Source(name, _importing(module), version(CORE_DISTRIBUTION), CORE_DISTRIBUTION)


def _installed() -> Iterator[_Source]:
    found = entry_points(group=hookspecs.ENTRY_POINT_GROUP)
    for point in sorted(found, key=lambda point: (point.name, _distribution(point) or "")):
        yield _Source(point.name, point.load, point.dist.version if point.dist else None, _distribution(point))


def _distribution(point: EntryPoint) -> str | None:
    return point.dist.name if point.dist else None


def _importing(module: str) -> Callable[[], object]:
    return lambda: import_module(module)


def _returning(plugin: object) -> Callable[[], object]:
    return lambda: plugin


def _allowed(environ: Mapping[str, str]) -> set[str] | None:
    """Return the names in LLLMS_PLUGINS; None if it is not set."""
    names = environ.get("LLLMS_PLUGINS")
    return None if names is None else {name.strip() for name in names.split(",")} - {""}
