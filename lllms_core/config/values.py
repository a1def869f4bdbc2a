"""What a configuration says, as frozen values: the tables of `lllms.toml` and their defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from attrs import field, frozen

from lllms_core.machine import at_home
from lllms_core.parameters import Generation
from lllms_core.structure import Bytes, Range
from lllms_core.types import Isolation, Preload

PrepareWhen = Literal["on-demand", "blocking", "async"]


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
    max_json_depth: Annotated[int, Range(8, 256)] = 64
    """Arrays and objects inside of each other in a request, also in the arguments of calls; deeper ones are refused."""
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
    load_timeout: Annotated[float, Range(0)] = 300.0
    """Seconds for a load, without the fetching of files; a worker that takes longer is killed. 0: no limit."""
    watchdog: Annotated[float, Range(0)] | None = None
    """Seconds that an instance with work may show no sign of getting on (no token, no part of a prompt) until it is
    killed and replaced; 0: no limit; None: as the engine says, mostly 30."""

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
