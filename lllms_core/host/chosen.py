"""What a configuration chooses among plugins by name, with its options: the session store and the placement."""

from collections.abc import Mapping
from pathlib import Path

from lllms_core.config import Config
from lllms_core.errors import ConfigError
from lllms_core.placements import LOCAL
from lllms_core.plugins import Plugins
from lllms_core.pool.far_places import FarPlaces
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.needs import session_limits
from lllms_core.sessions import SessionStore
from lllms_core.values.structure import structure, with_folder
from lllms_core.values.violations import StructureError


def choose_session_store(configuration: Config, plugins: Plugins) -> tuple[SessionStore, object] | None:
    """Return the store that a configuration asks for, and its options; None for `none`. Nothing is opened.

    Raises `ConfigError` if the store or an option is unknown.
    """
    config = configuration.sessions
    if config.store == "none":
        return None
    provided = plugins.session_stores.get(config.store)
    if provided is None:
        there_are = ", ".join(["none", *sorted(plugins.session_stores)])
        raise ConfigError(f"sessions.store: there is no store '{config.store}'; there are: {there_are}")
    store = provided.object
    return store, _options("sessions", config.options, store.Options, configuration.folder)


def choose_placement(configuration: Config, plugins: Plugins) -> FarPlaces | None:
    """Return the places of the placement that a configuration asks for; None for `local`. Nothing is opened.

    Raises `ConfigError` if the placement or an option is unknown.
    """
    config = configuration.placement
    if config.kind == LOCAL:
        return None
    provided = plugins.placements.get(config.kind)
    if provided is None:
        there_are = ", ".join([LOCAL, *sorted(plugins.placements)])
        raise ConfigError(f"placement.kind: there is no placement '{config.kind}'; there are: {there_are}")
    placement = provided.object
    options = _options("placement", config.options, placement.Options, configuration.folder)
    return FarPlaces(placement, options, configuration.server.gpu_memory_limit)


def open_keeper(config: Config, plugins: Plugins) -> SessionKeeper | None:
    """Return the keeper of sessions that a configuration asks for, with its store opened; None for `none`.

    Raises `ConfigError` if the store is unknown or cannot be opened.
    """
    chosen = choose_session_store(config, plugins)
    if chosen is None:
        return None
    store, options = chosen
    store.open(options)
    return SessionKeeper(store, session_limits(config.server, config.sessions, in_memory=store.in_memory))


def _options(section: str, given: Mapping[str, object], kind: type, folder: Path) -> object:
    """Structure a section's options; relative paths in them start at the folder of the configuration."""
    try:
        options: object = structure(given, kind, (section, "options"))
    except StructureError as error:
        raise ConfigError(str(error)) from error
    return with_folder(options, folder)
