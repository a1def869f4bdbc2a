"""The configuration as frozen values: the tables of `lllms.toml` and their defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from attrs import field, frozen

from lllms_core.caller import Priority
from lllms_core.config.keyring import KEYS_SCHEMA, NAME, ApiKey, read_keys
from lllms_core.machine import at_home
from lllms_core.parameters.bounds import LEVELS, MOST_LEVELS
from lllms_core.types import Isolation, Preload
from lllms_core.values.structure import Bytes, Range, Reads
from lllms_core.values.violations import Keys

UNIX = "unix:"
"""What the `host` of a server that listens on a Unix socket begins with."""

PrepareWhen = Literal["on-demand", "blocking", "async"]


@frozen
class ServerConfig:
    """`[server]`: where it listens, and its limits."""

    host: str = "127.0.0.1"
    """An address or a name of this machine, or `unix:PATH` for a socket that only its owner can use."""
    port: Annotated[int, Range(0, 65535)] = 3000
    """0: a free port that the system chooses."""
    api_keys: Annotated[tuple[ApiKey, ...], Reads(read_keys, KEYS_SCHEMA)] = ()
    """The keys of which every request needs one, except for `/health` and the empty page at `/`: strings ("KEY" or
    "NAME: KEY"), or tables with `key`, and if you like `name`, `models` (names with `*`), `requests_per_minute` and
    `concurrency`. "sha256:..." may stand for a KEY; it is as safe as the key is random (`lllms key` makes one). In a
    variable, commas separate them."""
    api_keys_file: Path | None = None
    """A file with further keys, one a line: "KEY" or "NAME: KEY"."""
    insecure: bool = False
    """Must be true for a `host` that other machines can reach if there are no keys: whoever reaches the port may use
    the models."""
    allow_remote: bool = False
    """The name of `insecure` before there were keys; it means the same."""
    tls_certificate: Path | None = None
    """A PEM file with the server's certificate and those between it and its authority; the server then speaks HTTPS."""
    tls_key: Path | None = None
    """A PEM file with the certificate's private key; unset: it is in the same file as the certificate."""
    concurrency: Annotated[int, Range(1)] = 8
    """Completions processed at once, over all models; more wait."""
    max_instances: Annotated[int, Range(1)] = 4
    """Instances loaded at once, over all models; an idle one is unloaded when another model needs the place."""
    memory_limit: Annotated[int, Bytes()] | None = None
    """Bytes for the server, its sessions in memory and all instances, as estimated or as measured if that is more, or
    like "10GB"; sessions and idle instances make room for others. Unset: the memory that lllms may use here, less 10 %,
    but at least 1 GiB (half of a small one)."""
    gpu_memory_limit: Annotated[int, Bytes()] | None = None
    """Bytes for all instances on each GPU, as estimated, or like "10GB". Unset: its memory less 10 %, but at least
    512 MiB."""
    spare_workers: Annotated[int, Range(0)] = 1
    """Worker processes kept ready, with the libraries of the engines used last imported, so that loads begin at once;
    each takes some 50 MB, all together at most a sixteenth of `memory_limit`. 0: none. Models with isolation "thread"
    have none."""
    queue_size: Annotated[int, Range(1)] = 512
    """Requests that may wait; more are refused."""
    queue_timeout: Annotated[float, Range(0)] = 600.0
    """Seconds that a request may wait; one may set less for itself, by the header `X-Queue-Timeout`."""
    max_wait_before_swap: Annotated[float, Range(0)] = 30.0
    """Requests for a loaded model go before those whose model would take its place, until one of these has waited for
    this many seconds."""
    min_residency: Annotated[float, Range(0)] = 10.0
    """Seconds after its load for which an instance that is in use makes no room for another model."""
    trusted_clients: tuple[str, ...] = ()
    """The clients whose header `X-Priority` has an effect: addresses, networks (`10.0.0.0/8`) or names of keys."""
    models_dir: Path = field(factory=lambda: at_home("~/.cache/lllms"))
    """The folder of fetched model files. Like any path, it is relative to the folder of the configuration file, or, in
    a variable or flag, to the working directory."""
    offline: bool = False
    """Whether fetching model files is forbidden: files on the disk are used, a missing one is an error at once."""
    pull: bool | None = None
    """Whether clients may fetch models that are not configured, as `POST /api/pull` of lllms-ollama does. Unset: only
    if no other machine can reach the server, and it has no API keys."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """The least important lines of the log; "debug" has one for each step of each request."""
    log_format: Literal["console", "json"] = "console"
    """Lines for people, or a JSON object in each line."""
    allowed_hosts: tuple[str, ...] = ()
    """Names accepted in the Host header besides this machine's own; `*` accepts any."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the API, like `https://app.example`; `*` allows any, `null` pages in files."""
    max_body: Annotated[int, Bytes()] = 10 * 2**20
    """Bytes of a request body at most; a configuration may also write "10MiB"."""
    max_json_depth: Annotated[int, Range(8, MOST_LEVELS)] = LEVELS
    """How deeply arrays and objects may be nested in a request, also in the arguments of calls."""
    unknown_parameters: Literal["refuse", "name"] = "refuse"
    """How to treat a request with an unknown parameter: refuse it with a 400, or answer without the parameter and name
    it in the header `x-lllms-ignored`. Known ones that ask for other text than the model writes are always refused."""
    shutdown_timeout: Annotated[float, Range(0)] = 10.0
    """Seconds for running completions to finish when the server stops."""

    @property
    def has_keys(self) -> bool:
        """Whether requests need a key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    @property
    def trusted_keys(self) -> tuple[str, ...]:
        """The names of keys in `trusted_clients`."""
        return tuple(one for one in self.trusted_clients if NAME.fullmatch(one) is not None)

    @property
    def socket_path(self) -> Path | None:
        """The path of the Unix socket to listen on; None: it listens on a port."""
        return Path(self.host.removeprefix(UNIX)) if self.host.startswith(UNIX) else None

    @property
    def may_pull(self) -> bool:
        """Whether clients may fetch models that are not configured."""
        return not (self.allow_remote or self.insecure or self.has_keys) if self.pull is None else self.pull


@frozen
class ModelConfig:
    """`[models.NAME]`: one model."""

    engine: str
    """The engine that loads the model, as `lllms plugins` lists it."""
    file: str | None = None
    """The weights: absolute, from `~`, or relative to the folder of the configuration file; of a split model the first
    part. `ollama:NAME` is a model that Ollama has on this machine."""
    min_instances: Annotated[int, Range(0)] = 0
    """Instances that are kept loaded from the start, and replaced if they die."""
    max_instances: Annotated[int, Range(1)] = 1
    """The most instances loaded at once: more make sense for engines whose instances run one request at a time."""
    ttl: Annotated[float, Range(-1)] = 300.0
    """Idle seconds until an instance is unloaded; 0: at once, -1: never."""
    timeout: float | None = None
    """Seconds for one completion; unset: no limit."""
    aliases: tuple[str, ...] = ()
    """Other names for the same model. `*` stands for any text: `claude-*` takes every name that begins so, and that no
    model has; of several patterns that fit, the longest counts."""
    isolation: Isolation | None = None
    """Where instances live; unset: the engine's default."""
    defaults: Mapping[str, object] = field(factory=dict)
    """Generation parameters, by the names of `parameters.DEFAULTS`, for requests that do not set them."""
    options: Mapping[str, object] = field(factory=dict)
    """The engine's own options; the catalog checks them against its `Options`. Paths are relative as `file` is."""
    preload: Preload | None = None
    """A prefix that is evaluated when an instance loads, and kept for all requests that begin with it."""
    sessions: Literal["none"] | None = None
    """"none": this model's conversations are not stored; unset: as `[sessions]` says."""
    url: str | None = None
    """Where to fetch the weights, instead of `file`: `https://...`, or any other form a downloader knows."""
    hf: str | None = None
    """Their place on Hugging Face: `org/repo`, `org/repo:Q4_K_M`, `org/repo/file.gguf@revision` or an address."""
    sha256: str | None = None
    """The expected hash of the weights, as 64 hexadecimal digits."""
    prepare: PrepareWhen = "on-demand"
    """When missing weights are fetched: at the first request, before the server is ready, or while it serves other
    models. With `min_instances` above 0, always before it is ready."""
    load_timeout: Annotated[float, Range(0)] = 300.0
    """Seconds for a load, without fetching files; a worker that takes longer is killed. 0: no limit."""
    watchdog: Annotated[float, Range(0)] | None = None
    """Seconds that a busy instance may show no progress (a token, a part of a prompt) before it is killed and replaced;
    0: no limit; unset: the engine's default, usually 30."""
    priority: Priority = "normal"
    """Which requests get free slots first: "high", "normal" or "low"."""
    memory: Annotated[int, Bytes()] | None = None
    """Bytes that an instance counts against `server.memory_limit`, or like "5GB"; unset: the engine's estimate, or what
    was measured if that is more."""

    @property
    def blocking(self) -> bool:
        """Whether the server waits for the weights before it is ready."""
        return self.prepare == "blocking" or self.min_instances > 0

    @property
    def source(self) -> str | None:
        """The source of the weights, in the store's form; None if there are none."""
        if self.hf is None:
            return self.url or self.file
        return self.hf if self.hf.startswith(("https://", "http://")) else f"hf:{self.hf.removeprefix('hf:')}"


@frozen
class SessionsConfig:
    """`[sessions]`: how conversations evicted from their instance are kept for their next turn."""

    store: str = "memory"
    """`memory`, `disk`, a plugin's store, or `none`."""
    max_size: Annotated[int, Bytes()] = 2**30
    """Bytes of all sessions together, or like "1GiB"; the least recently used are evicted."""
    ttl: Annotated[float, Range(-1)] = 86400.0
    """Seconds since its last use until a session is deleted; -1: never."""
    min_tokens: Annotated[int, Range(1)] = 128
    """A session that would save the evaluation of fewer tokens is neither stored nor loaded."""
    options: Mapping[str, object] = field(factory=dict)
    """The store's own options."""
    responses_size: Annotated[int, Bytes()] = 64 * 2**20
    """Bytes of the answers that the Responses API keeps for `previous_response_id`, or like "64MiB"; the least recently
    used make room. They are kept on disk if the sessions are, else in memory."""
    responses_ttl: Annotated[float, Range(-1)] = 86400.0
    """Seconds since its last use until such an answer is deleted; -1: never."""


@frozen
class PlacementConfig:
    """`[placement]`: on which machines the models' instances run."""

    kind: str = "local"
    """`local`: on this one; or a plugin's placement: on those that it knows."""
    options: Mapping[str, object] = field(factory=dict)
    """The placement's own options."""


@frozen
class PluginsConfig:
    """`[plugins]`."""

    disable: tuple[str, ...] = ()
    """Names of plugins that are not loaded, not even imported."""


@frozen
class Config:
    """A checked configuration. Without models, it serves those that the plugins offer."""

    server: ServerConfig = field(factory=ServerConfig)
    models: Mapping[str, ModelConfig] = field(factory=dict)
    sessions: SessionsConfig = field(factory=SessionsConfig)
    placement: PlacementConfig = field(factory=PlacementConfig)
    plugins: PluginsConfig = field(factory=PluginsConfig)
    path: Path | None = None
    """The file that it was read from."""
    folder: Path = field(factory=Path.cwd)
    """Where relative paths start: the folder of that file, else the working directory."""
    origins: Mapping[Keys, str] = field(factory=dict, eq=False, repr=False)
    """By their paths: where the keys were set, as `FILE:LINE`, or the name of a variable or a flag."""

    @property
    def disabled_plugins(self) -> tuple[str, ...]:
        """The value of `[plugins] disable`."""
        return self.plugins.disable
