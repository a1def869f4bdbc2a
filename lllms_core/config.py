"""The configuration: TOML, environment and flags, or the same as Python mappings, to frozen values, strictly."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

from attrs import AttrsInstance, asdict, evolve, field, frozen

from lllms_core.environment import read_environment
from lllms_core.errors import ConfigError, InvalidRequest
from lllms_core.faults import Fault, Key, StructureError, did_you_mean, dotted
from lllms_core.machine import at_home
from lllms_core.parameters import DEFAULTS, Generation, check
from lllms_core.structure import Bytes, Range, structure
from lllms_core.types import Isolation, Preload

FILE_NAME = "lllms.toml"
NAME_RULE = "letters, digits and _ . - : in parts that start with a letter or digit, with / between parts"

PrepareWhen = Literal["on-demand", "blocking", "async"]

T = TypeVar("T")
Keys = tuple[Key, ...]


@frozen
class ServerConfig:
    """`[server]`: where it listens, how much it takes on."""

    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 3000
    """0 lets the system choose a free one."""
    allow_remote: bool = False
    """Must be true for a `host` that other machines can reach: there are no API keys yet, so whoever reaches the port
    may use the models."""
    concurrency: Annotated[int, Range(1)] = 8
    """Completions processed at once over all models; more wait."""
    max_instances: Annotated[int, Range(1)] = 4
    """Instances loaded at once over all models; an idle one is unloaded when another model needs the place."""
    queue_size: Annotated[int, Range(1)] = 512
    """More requests than this waiting: refused."""
    queue_timeout: Annotated[float, Range(0)] = 600.0
    """Seconds that a request may wait."""
    models_dir: Path = field(factory=lambda: at_home("~/.cache/lllms"))
    """Where model files are kept, and where relative names of them start."""
    offline: bool = False
    """Whether model files must not be fetched: what is on the disk serves, and the rest is an error at once."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_format: Literal["console", "json"] = "console"
    allowed_hosts: tuple[str, ...] = ()
    """Names in the Host header that are answered besides this machine's own; `*` answers any."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the API; `*` allows any."""
    max_body: Annotated[int, Bytes()] = 10 * 2**20
    """Bytes of a request body; in a configuration also like "10MiB"."""
    shutdown_timeout: Annotated[float, Range(0)] = 10.0
    """Seconds that running completions get to finish when the server stops."""


@frozen
class ModelConfig:
    """`[models.NAME]`: one model."""

    engine: str
    file: str | None = None
    """The weights: absolute, from `~`, or inside `server.models_dir`."""
    min_instances: Annotated[int, Range(0)] = 0
    max_instances: Annotated[int, Range(1)] = 1
    ttl: Annotated[float, Range(-1)] = 300.0
    """Idle seconds until an instance is unloaded; 0 at once, -1 never."""
    timeout: float | None = None
    """Seconds for one completion; None: no limit."""
    aliases: tuple[str, ...] = ()
    """Other names for the same model."""
    isolation: Isolation | None = None
    """Where instances live; None: as the engine says."""
    defaults: Mapping[str, object] = field(factory=dict)
    """Parameters of generation, by the names of `parameters.DEFAULTS`, for requests that do not give them."""
    options: Mapping[str, object] = field(factory=dict)
    """The engine's own; the catalog checks them against its `Options`."""
    preload: Preload | None = None
    """What is evaluated when an instance loads, and kept for all requests that begin so."""
    sessions: Literal["none"] | None = None
    """"none": nothing of this model's conversations is stored; by default as `[sessions]` says."""
    url: str | None = None
    """Where to fetch the weights: `https://...`, or whatever else a downloader knows; instead of `file`."""
    hf: str | None = None
    """Where they are on Hugging Face: `org/repo`, `org/repo:Q4_K_M`, `org/repo/file.gguf@revision`, an address."""
    sha256: str | None = None
    """What the weights must hash to, as 64 hexadecimal digits."""
    prepare: PrepareWhen = "on-demand"
    """When weights that are not here are fetched: at the first request, before the server is ready, or while it serves
    others. With `min_instances` above 0, always before."""

    @property
    def blocking(self) -> bool:
        """Whether the server is not ready before the weights are here."""
        return self.prepare == "blocking" or self.min_instances > 0

    @property
    def source(self) -> str | None:
        """Where the weights come from, as the store takes it; None if there are none."""
        if self.hf is None:
            return self.url or self.file
        return self.hf if self.hf.startswith(("https://", "http://")) else f"hf:{self.hf.removeprefix('hf:')}"

    @property
    def generation(self) -> Generation:
        """The `defaults`, on top of the core's own."""
        return Generation().override(self.defaults)


@frozen
class SessionsConfig:
    """`[sessions]`: what is kept of conversations that have left their instance, for their next turn."""

    store: str = "memory"
    """`memory`, `disk`, a plugin's, or `none`."""
    max_size: Annotated[int, Bytes()] = 2**30
    """Bytes of all sessions together, also like "1GiB"; the least recently used go."""
    ttl: Annotated[float, Range(-1)] = 86400.0
    """Seconds since its last use until a session is forgotten; -1 never."""
    min_tokens: Annotated[int, Range(1)] = 128
    """A session that saves the evaluation of fewer is neither stored nor loaded."""
    options: Mapping[str, object] = field(factory=dict)
    """The store's own."""


@frozen
class PluginsConfig:
    """`[plugins]`."""

    disable: tuple[str, ...] = ()
    """Names of plugins that are not even imported."""


@frozen
class Config:
    """A checked configuration. Without models, those that the plugins offer are served."""

    server: ServerConfig = field(factory=ServerConfig)
    models: Mapping[str, ModelConfig] = field(factory=dict)
    sessions: SessionsConfig = field(factory=SessionsConfig)
    plugins: PluginsConfig = field(factory=PluginsConfig)
    path: Path | None = None
    """The file that it comes from."""

    @property
    def disabled_plugins(self) -> tuple[str, ...]:
        """What `[plugins] disable` says."""
        return self.plugins.disable

    def with_model(self, name: str, model: ModelConfig) -> "Config":
        """Return this configuration with one more model. Raises `ConfigError` if it does not fit in."""
        models = {**self.models, name: model}
        tables = {"server": self.server, "sessions": self.sessions, "plugins": self.plugins, "models": models}
        return evolve(parse_config(tables), path=self.path)


def parse_config(data: Mapping[str, object]) -> Config:
    """Check a configuration given as Python mappings of the same shape as the file; attrs values may stand for tables.

    Raises `ConfigError` that names everything that is wrong, one fault per line, each with its path.
    """
    return _parse(data, {}, None)


def load_config(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Read the configuration: defaults, then the file, then `LLLMS_*` variables, then `overrides` (flags).

    The file is `path`, else `lllms.toml` in the working directory or in the user's folder for configuration, else none.
    `LLLMS_PORT` and the like stand for every key of `[server]`, lists with commas. `overrides` has the file's shape.
    Raises `ConfigError` that names everything that is wrong, one fault per line, with its path and where it was said.
    """
    file = path or _find(environ)
    data = {} if file is None else _read(file)
    server = read_environment(environ, ServerConfig)
    origins: dict[Keys, str | None] = {("server", key): variable for key, (variable, _) in server.items()}
    data = _merge(data, {"server": {key: value for key, (_, value) in server.items()}})
    flags = (overrides or {}).get("server")
    if isinstance(flags, Mapping):
        origins |= {("server", key): None for key in flags}
    data = _merge(data, overrides or {})
    return evolve(_parse(data, origins, None if file is None else str(file)), path=file)


# -- finding and reading -----------------------------------------------------------------------------------------------


def _find(environ: Mapping[str, str]) -> Path | None:
    user = at_home(environ.get("XDG_CONFIG_HOME") or "~/.config") / "lllms"
    return next((file for file in (Path(FILE_NAME), user / FILE_NAME) if file.is_file()), None)


def _read(file: Path) -> dict[str, object]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {file} is not valid TOML: {error}") from error


def _merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Put `over` on top of `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if not isinstance(value, Mapping) or below is None:
            merged[key] = value
        elif isinstance(below, Mapping):
            merged[key] = _merge(below, value)
        # else: what should be a table is none, and the checks have to see that
    return merged


# -- checks ------------------------------------------------------------------------------------------------------------

# What the design promises and later versions bring: refused, never ignored.
LATER: Mapping[str, frozenset[str]] = {
    "": frozenset(),
    "server": frozenset({"memory_limit", "api_keys"}),
    "models": frozenset(),
}


def _parse(data: Mapping[str, object], origins: Mapping[Keys, str | None], file: str | None) -> Config:
    faults: list[Fault] = []
    data = _without_later(data, (), LATER[""], faults)
    server = _table(data.get("server", {}), ServerConfig, ("server",), LATER["server"], faults)
    plugins = _table(data.get("plugins", {}), PluginsConfig, ("plugins",), frozenset(), faults)
    sessions = _table(data.get("sessions", {}), SessionsConfig, ("sessions",), frozenset(), faults)
    tables = data.get("models", {})
    models: dict[str, ModelConfig] = {}
    if isinstance(tables, Mapping):
        for name, table in tables.items():
            model = _table(table, ModelConfig, ("models", str(name)), LATER["models"], faults)
            if model is not None:
                models[str(name)] = model
            faults += _check_defaults(table, ("models", str(name), "defaults"))
    else:
        faults.append(Fault(("models",), f"expected a table, got {tables!r}"))
    known = ("server", "sessions", "plugins", "models")
    faults += [Fault((str(key),), "unknown key" + did_you_mean(str(key), known)) for key in data if key not in known]
    faults += [] if server is None else _check_server(server)
    faults += _check_models(models)
    if server is not None:
        faults += _check_room(server, models)
    if sessions is not None and -1 < sessions.ttl < 0:
        faults.append(Fault(("sessions", "ttl"), f"expected seconds, or -1 for never, got {sessions.ttl}"))
    if faults or server is None or sessions is None or plugins is None:
        raise ConfigError("\n".join(_line(fault, origins.get(fault.path[:2], file)) for fault in faults))
    return Config(server, models, sessions, plugins)


def _line(fault: Fault, origin: str | None) -> str:
    return f"{fault} ({origin})" if origin else str(fault)


def _table(value: object, into: type[T], path: Keys, later: frozenset[str], faults: list[Fault]) -> T | None:
    """Build one table's value; None, and `faults` longer, if it cannot be."""
    if isinstance(value, into):
        value = asdict(cast("AttrsInstance", value), recurse=False)
    if isinstance(value, Mapping):
        value = _without_later(value, path, later, faults)
    try:
        return structure(value, into, path)
    except StructureError as error:
        faults += error.faults
        return None


def _without_later(
    table: Mapping[str, object], path: Keys, later: frozenset[str], faults: list[Fault],
) -> dict[str, object]:
    faults += [Fault((*path, key), "not supported yet") for key in table if key in later]
    return {key: value for key, value in table.items() if key not in later}


def _check_server(server: ServerConfig) -> Iterator[Fault]:
    if not server.host:
        yield Fault(("server", "host"), "is empty; use 127.0.0.1")
    elif not server.allow_remote and not _is_loopback(server.host):
        yield Fault(
            ("server", "host"),
            f"'{server.host}' can be reached by other machines, and there are no API keys yet: whoever reaches it may"
            " use the models; set server.allow_remote = true (LLLMS_ALLOW_REMOTE=1) if you want that, or use 127.0.0.1",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*(/[A-Za-z0-9][A-Za-z0-9_.:-]*)*")


def is_model_name(name: str) -> bool:
    """Whether a model may have this name: `llama3:8b`, `org/model-1.5`; no spaces, no `..`."""
    return MODEL_NAME.fullmatch(name) is not None and ".." not in name


def _check_room(server: ServerConfig, models: Mapping[str, ModelConfig]) -> Iterator[Fault]:
    """The instances that are kept must fit, and leave a place for the models that keep none."""
    kept = sum(model.min_instances for model in models.values())
    needed = kept + any(model.min_instances == 0 for model in models.values())
    if needed > server.max_instances:
        others = ", and the other models need a place, too" if needed > kept else ""
        text = f"expected at least {needed}, got {server.max_instances}: the models' min_instances are {kept}{others}"
        yield Fault(("server", "max_instances"), text)


def _check_models(models: Mapping[str, ModelConfig]) -> Iterator[Fault]:
    holders: dict[str, str] = {name: name for name in models}
    for name, model in models.items():
        path = ("models", name)
        if not is_model_name(name):
            yield Fault(path, f"{name!r} is no name for a model: {NAME_RULE}")
        for index, alias in enumerate(model.aliases):
            here = (*path, "aliases", index)
            if not is_model_name(alias):
                yield Fault(here, f"{alias!r} is no name for a model: {NAME_RULE}")
            elif alias in holders:
                yield Fault(here, f"'{alias}' is a name of {dotted(('models', holders[alias]))} already")
            holders.setdefault(alias, name)
        yield from _check_source(model, path)
        if model.min_instances > model.max_instances:
            text = f"{model.min_instances} is more than max_instances, which is {model.max_instances}"
            yield Fault((*path, "min_instances"), text)
        preload = model.preload
        if preload is not None and (preload.prefix is None) == (not preload.messages):
            yield Fault((*path, "preload"), "give either messages (tools may be with them) or a prefix of text")
        elif preload is not None and preload.tools and not preload.messages:
            yield Fault((*path, "preload", "tools"), "there are no messages; tools are told in a conversation")
        elif preload is not None and preload.prefix == "":
            yield Fault((*path, "preload", "prefix"), "is empty; leave preload out")
        if -1 < model.ttl < 0:
            yield Fault((*path, "ttl"), f"expected seconds, or -1 for never, got {model.ttl}")
        if model.timeout is not None and model.timeout <= 0:
            text = f"expected more than 0 seconds, got {model.timeout}; leave it out for no limit"
            yield Fault((*path, "timeout"), text)


def _check_source(model: ModelConfig, path: Keys) -> Iterator[Fault]:
    sources = {"file": model.file, "url": model.url, "hf": model.hf}
    given = [key for key, value in sources.items() if value is not None]
    if len(given) > 1:
        yield Fault((*path, given[1]), f"{' and '.join(given)} are given; one of them is enough")
    for key in given:
        if key != "file" and not (sources[key] or "").strip():
            yield Fault((*path, key), "is empty")
    if model.sha256 is not None and re.fullmatch(r"[0-9a-fA-F]{64}", model.sha256) is None:
        yield Fault((*path, "sha256"), f"expected 64 hexadecimal digits, got {model.sha256!r}")
    if model.sha256 is not None and not given:
        yield Fault((*path, "sha256"), "there is no file, url or hf that it could be of")


def _check_defaults(model: object, path: Keys) -> Iterator[Fault]:
    # From the table as it was given, so that its other faults do not hide these.
    defaults = model.get("defaults") if isinstance(model, Mapping) else getattr(model, "defaults", None)
    for name, value in defaults.items() if isinstance(defaults, Mapping) else ():
        try:
            check(name, value)
        except KeyError:
            yield Fault((*path, name), "unknown key" + did_you_mean(name, DEFAULTS))
        except InvalidRequest as error:
            yield Fault((*path, name), error.message)
