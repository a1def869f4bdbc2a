"""What changes when one configuration follows another, and what of that a running server can take; pure."""

from collections.abc import Iterator, Mapping

from attrs import asdict, evolve, fields

from lllms_core.config.settings import Config, ModelConfig
from lllms_core.status import Changes

NEEDS_RESTART: Mapping[str, frozenset[str]] = {
    "server": frozenset({"host", "port", "models_dir", "offline"}),
    "sessions": frozenset({"store", "min_tokens", "options", "responses_size", "responses_ttl"}),
    "placement": frozenset({"kind", "options"}),
    "plugins": frozenset({"disable"}),
}
"""The settings, by table, that take effect only when a server starts. `server.tls_certificate` and `tls_key` are among
them if HTTPS is switched on or off."""
NEEDS_INSTANCE = frozenset({
    "engine", "file", "url", "hf", "sha256", "options", "isolation", "preload", "sessions", "memory",
})
"""The keys of a model that an instance takes when it is loaded, so that a change replaces it."""
TLS = ("tls_certificate", "tls_key")


def changes(old: Config, new: Config) -> Changes:
    """Compare two configurations."""
    both = [name for name in new.models if name in old.models and new.models[name] != old.models[name]]
    moved = old.folder != new.folder  # where the paths of options start
    replaced = {
        name for name in new.models if name in old.models
        and (_differ(old.models[name], new.models[name]) & NEEDS_INSTANCE or (moved and new.models[name].options))
    }
    settings: list[str] = []
    restart: list[str] = []
    for table, key in _changed_settings(old, new):
        (restart if _needs_restart(table, key, old, new) else settings).append(f"{table}.{key}")
    return Changes(
        added=tuple(name for name in new.models if name not in old.models),
        removed=tuple(name for name in old.models if name not in new.models),
        replaced=tuple(name for name in new.models if name in replaced),
        adjusted=tuple(name for name in both if name not in replaced),
        settings=tuple(settings),
        restart=tuple(restart),
    )


def in_force(old: Config, new: Config) -> Config:
    """Return the new configuration as far as a server that runs with the old one can take it."""
    kept: dict[str, dict[str, object]] = {table: {} for table in NEEDS_RESTART}
    for table, key in _changed_settings(old, new):
        if _needs_restart(table, key, old, new):
            kept[table][key] = getattr(getattr(old, table), key)
    tables = {table: evolve(getattr(new, table), **values) for table, values in kept.items() if values}
    stay = {(table, key) for table, values in kept.items() for key in values}
    origins = {path: origin for path, origin in new.origins.items() if path[:2] not in stay}
    origins |= {path: origin for path, origin in old.origins.items() if path[:2] in stay}
    return evolve(new, **tables, origins=origins)


def _changed_settings(old: Config, new: Config) -> Iterator[tuple[str, str]]:
    for table in NEEDS_RESTART:
        before, after = getattr(old, table), getattr(new, table)
        for attribute in fields(type(after)):
            if getattr(before, attribute.name) != getattr(after, attribute.name):
                yield table, attribute.name


def _needs_restart(table: str, key: str, old: Config, new: Config) -> bool:
    if table == "server" and key in TLS:
        return (old.server.tls_certificate is None) != (new.server.tls_certificate is None)
    return key in NEEDS_RESTART[table]


def _differ(old: ModelConfig, new: ModelConfig) -> set[str]:
    before, after = asdict(old, recurse=False), asdict(new, recurse=False)
    return {key for key, value in after.items() if value != before[key]}
