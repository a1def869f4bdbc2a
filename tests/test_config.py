from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.config import (
    ApiKey,
    Config,
    ModelConfig,
    ServerConfig,
    is_model_name,
    load_config,
    parse_config,
    with_model,
)
from lllms_core.config.keyring import digest_of
from lllms_core.errors import ConfigError
from lllms_core.parameters import Generation
from lllms_core.types import Sampling

FULL = """
[server]
host = "127.0.0.1"
port = 3001
concurrency = 2
max_instances = 3
queue_size = 5
queue_timeout = 60
max_wait_before_swap = 20
min_residency = 5
trusted_clients = ["::1"]
memory_limit = "10GB"
gpu_memory_limit = "8GB"
models_dir = "~/models"
log_level = "debug"
log_format = "json"
allowed_hosts = ["box.local"]
cors_origins = ["*"]
max_body = "1MiB"
shutdown_timeout = 0

[plugins]
disable = ["mock"]

[models."llama3:8b"]
engine = "llamacpp"
file = "llama.gguf"
min_instances = 1
max_instances = 2
ttl = -1
timeout = 120
load_timeout = 600
watchdog = 0
memory = "5GiB"
priority = "high"
aliases = ["llama3", "org/llama-3.0"]
isolation = "thread"
[models."llama3:8b".defaults]
temperature = 0
stop = "END"
[models."llama3:8b".options]
context_length = 4096
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, so that no real lllms.toml is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def faults(data):
    with pytest.raises(ConfigError) as caught:
        parse_config(data)
    return str(caught.value).splitlines()


def model_faults(**keys):
    return faults({"models": {"m": {"engine": "mock", **keys}}})


def test_without_a_file_the_defaults_hold():
    """No configuration file is needed."""
    assert load_config(environ={}) == parse_config({}) == Config()


def test_every_key_of_a_file_arrives(tmp_path):
    """A complete file becomes frozen values of the declared types."""
    file = tmp_path / "some.toml"
    file.write_text(FULL)
    config = load_config(file, environ={})
    assert config.server == ServerConfig(
        port=3001, concurrency=2, max_instances=3, queue_size=5, queue_timeout=60.0, models_dir=Path.home() / "models",
        log_level="debug", log_format="json", allowed_hosts=("box.local",), cors_origins=("*",), max_body=2**20,
        shutdown_timeout=0.0, memory_limit=10_000_000_000, max_wait_before_swap=20.0, min_residency=5.0,
        trusted_clients=("::1",), gpu_memory_limit=8_000_000_000,
    )
    assert config.disabled_plugins == ("mock",)
    assert config.path == file
    assert config.models == {
        "llama3:8b": ModelConfig(
            "llamacpp", str(tmp_path / "llama.gguf"), 1, 2, -1.0, 120.0, ("llama3", "org/llama-3.0"), "thread",
            {"temperature": 0, "stop": "END"}, {"context_length": 4096}, load_timeout=600.0, watchdog=0.0,
            memory=5 * 2**30, priority="high",
        ),
    }
    defaults = Generation().override(config.models["llama3:8b"].defaults)
    assert defaults == Generation(Sampling(temperature=0.0), stop=("END",))


def test_flags_beat_variables_beat_the_file_beat_defaults(tmp_path):
    """Each layer overrides the ones below, key by key."""
    file = tmp_path / "some.toml"
    file.write_text("[server]\nport = 1\nconcurrency = 1\nqueue_size = 1\n")
    config = load_config(
        file, environ={"LLLMS_PORT": "2", "LLLMS_CONCURRENCY": "2"}, overrides={"server": {"port": 3}},
    )
    assert (config.server.port, config.server.concurrency, config.server.queue_size) == (3, 2, 1)
    assert config.server.queue_timeout == ServerConfig().queue_timeout


def test_every_server_key_has_a_variable():
    """`LLLMS_*` variables can set all keys of `[server]`, for every type of value."""
    given = {
        "host": "::1", "port": "0", "allow_remote": "true", "concurrency": "3", "max_instances": "2", "queue_size": "5",
        "insecure": "1",
        "queue_timeout": "1.5", "models_dir": "~/m", "log_level": "error", "log_format": "json",
        "allowed_hosts": "a, b,", "cors_origins": "", "max_body": "2048", "shutdown_timeout": "0",
        "offline": "1", "max_json_depth": "32", "unknown_parameters": "name", "memory_limit": "10GB",
        "spare_workers": "2", "gpu_memory_limit": "8GB",
        "max_wait_before_swap": "5", "min_residency": "0", "trusted_clients": "127.0.0.1, 10.0.0.0/8",
        "api_keys": "open-sesame, phone: sk-123", "api_keys_file": "~/k", "tls_certificate": "~/c", "tls_key": "~/d",
        "pull": "1",
    }
    expected = ServerConfig(
        host="::1", port=0, allow_remote=True, concurrency=3, max_instances=2, queue_size=5, queue_timeout=1.5,
        insecure=True,
        models_dir=Path.home() / "m", log_level="error", log_format="json", allowed_hosts=("a", "b"), cors_origins=(),
        max_body=2048, shutdown_timeout=0.0, offline=True, max_json_depth=32, unknown_parameters="name",
        memory_limit=10_000_000_000, max_wait_before_swap=5.0, min_residency=0.0, spare_workers=2, pull=True,
        trusted_clients=("127.0.0.1", "10.0.0.0/8"), api_keys_file=Path.home() / "k", tls_certificate=Path.home() / "c",
        tls_key=Path.home() / "d",
        api_keys=(ApiKey("key-1", digest_of("open-sesame")), ApiKey("phone", digest_of("sk-123"))),
        gpu_memory_limit=8_000_000_000,
    )
    assert {attribute.name for attribute in attrs.fields(ServerConfig)} == given.keys()
    assert load_config(environ={f"LLLMS_{key.upper()}": value for key, value in given.items()}).server == expected


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("LLLMS_PORT", "x", "server.port: expected an integer, got 'x' (LLLMS_PORT)"),
        ("LLLMS_PORT", "", "server.port: expected an integer, got '' (LLLMS_PORT)"),
        ("LLLMS_PORT", "65536", "server.port: expected 0 to 65535, got 65536 (LLLMS_PORT)"),
        ("LLLMS_QUEUE_TIMEOUT", "nan", "server.queue_timeout: expected a number, got nan (LLLMS_QUEUE_TIMEOUT)"),
        ("LLLMS_ALLOW_REMOTE", "hm", "server.allow_remote: expected true or false, got 'hm' (LLLMS_ALLOW_REMOTE)"),
        ("LLLMS_HOST", "", "server.host: is empty; use 127.0.0.1 (LLLMS_HOST)"),
    ],
)
def test_a_wrong_variable_is_named(variable, value, fault):
    """The fault names the variable; the empty string counts as a value."""
    with pytest.raises(ConfigError) as caught:
        load_config(environ={variable: value})
    assert str(caught.value) == fault


def test_faults_name_the_file_or_the_variable_and_come_together(tmp_path):
    """All faults are reported at once, one line each, with their origin."""
    file = tmp_path / "some.toml"
    file.write_text("[server]\nport = 'x'\nconcurrency = 'y'\n[models.a]\nengin = 'mock'\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={"LLLMS_PORT": "z"}, overrides={"server": {"queue_size": "q"}})
    assert set(str(caught.value).splitlines()) == {
        "server.port: expected an integer, got 'z' (LLLMS_PORT)",
        f"server.concurrency: expected an integer, got 'y' ({file})",
        "server.queue_size: expected an integer, got 'q'",
        f"models.a.engine: missing; expected a string ({file})",
        f"models.a.engin: unknown key (did you mean 'engine'?) ({file})",
    }


def test_the_file_is_found_here_then_in_the_users_folder(tmp_path):
    """`lllms.toml` in the working directory takes precedence over the user's own."""
    user = tmp_path / "config" / "lllms" / "lllms.toml"
    user.parent.mkdir(parents=True)
    user.write_text("[server]\nport = 1\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert load_config(environ=environ).path == user
    Path("lllms.toml").write_text("[server]\nport = 2\n")
    assert load_config(environ=environ).server.port == 2


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfa"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    """A broken file is a configuration error that names the file."""
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        load_config(file, environ={})


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    """A named file that does not exist is an error: no other file is used instead."""
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        load_config(tmp_path / "none.toml", environ={})


HASH = "0" * 64


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ({"hf": "https://huggingface.co/org/repo/tree/main"}, "https://huggingface.co/org/repo/tree/main"),
        ({"url": "https://h/x"}, "https://h/x"), ({"hf": "org/repo:Q8_0"}, "hf:org/repo:Q8_0"),
        ({"hf": "hf:org/repo"}, "hf:org/repo"), ({"file": "/x", "sha256": HASH}, "/x"), ({}, None),
    ],
)
def test_sources_of_models(model, source):
    """A model has one source: a file, an address, or a Hugging Face repository."""
    assert parse_config({"models": {"m": {"engine": "mock", **model}}}).models["m"].source == source


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ({"file": "x", "url": "y"}, "models.m.url: file and url are given; one of them is enough"),
        ({"url": "x", "hf": "y"}, "models.m.hf: url and hf are given; one of them is enough"),
        ({"url": ""}, "models.m.url: is empty"),
        ({"hf": " "}, "models.m.hf: is empty"),
        ({"file": "x", "sha256": "ab"}, "models.m.sha256: expected 64 hexadecimal digits, got 'ab'"),
        ({"sha256": HASH}, "models.m.sha256: there is no file, url or hf to check against it"),
        ({"prepare": "x"}, "models.m.prepare: expected 'on-demand', 'blocking' or 'async', got 'x'"),
    ],
)
def test_sources_that_make_no_sense(model, fault):
    """Contradictory or empty sources are refused by name."""
    assert faults({"models": {"m": {"engine": "mock", **model}}}) == [fault]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"sever": {}}, "sever: unknown key (did you mean 'server'?)"),
        ({"server": 3}, "server: expected a table, got 3"),
        ({"models": []}, "models: expected a table, got []"),
        ({"models": {"m": 3}}, "models.m: expected a table, got 3"),
        ({"plugins": {"disable": "mock"}}, "plugins.disable: expected a list, got 'mock'"),
        ({"server": {"log_format": "xml"}}, "server.log_format: expected 'console' or 'json', got 'xml'"),
        ({"server": {"concurrency": 0}}, "server.concurrency: expected at least 1, got 0"),
        ({"server": {"port": -1}}, "server.port: expected 0 to 65535, got -1"),
        (
            {"server": {"trusted_clients": ["::1", "10.0.0.1/8"]}},
            (
                "server.trusted_clients[1]: 10.0.0.1/8 has host bits set; expected an address, a network like"
                " 10.0.0.0/8, or the name of a key"
            ),
        ),
        ({"server": {"max_body": "big"}}, "server.max_body: expected a size like 1048576 or \"10MiB\", got 'big'"),
    ],
)
def test_what_does_not_fit_is_refused(data, fault):
    """Unknown keys, wrong types and wrong ranges are errors that name the path."""
    assert faults(data) == [fault]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"max_instances": "two"}, "models.m.max_instances: expected an integer, got 'two'"),
        ({"max_instances": 0}, "models.m.max_instances: expected at least 1, got 0"),
        ({"min_instances": 2}, "models.m.min_instances: 2 is more than max_instances, which is 1"),
        ({"ttl": -2}, "models.m.ttl: expected at least -1, got -2.0"),
        ({"ttl": -0.5}, "models.m.ttl: expected seconds, or -1 for never, got -0.5"),
        ({"timeout": 0}, "models.m.timeout: expected more than 0 seconds, got 0.0; leave it out for no limit"),
        ({"load_timeout": -1}, "models.m.load_timeout: expected at least 0, got -1.0"),
        ({"watchdog": -1}, "models.m.watchdog: expected at least 0, got -1.0"),
        ({"priority": 1}, "models.m.priority: expected 'low', 'normal' or 'high', got 1"),
        ({"isolation": "none"}, "models.m.isolation: expected 'process' or 'thread', got 'none'"),
        ({"aliases": ["m"]}, "models.m.aliases[0]: 'm' is already a name of models.m"),
        ({"aliases": ["x", "x"]}, "models.m.aliases[1]: 'x' is already a name of models.m"),
        ({"aliases": ["a b-*"]}, (
            "models.m.aliases[0]: 'a b-*' is not a valid model name: beside its '*', letters, digits and _ . - : /"
        )),
        ({"aliases": ["*", "*"]}, "models.m.aliases[1]: '*' is already a name of models.m"),
        ({"defaults": {"temprature": 1}}, "models.m.defaults.temprature: unknown key (did you mean 'temperature'?)"),
        ({"options": 3}, "models.m.options: expected a table, got 3"),
    ],
)
def test_a_models_faults_name_its_key(keys, fault):
    """A fault in a model is reported with its path."""
    assert model_faults(**keys) == [fault]


def test_defaults_have_the_ranges_of_requests():
    """A default outside the range of requests is refused, even next to another fault of the same model."""
    found = model_faults(max_instances="two", defaults={"temperature": 3})
    assert found[0] == "models.m.max_instances: expected an integer, got 'two'"
    assert found[1].startswith("models.m.defaults.temperature: Invalid 'temperature': decimal above maximum value.")


def test_two_models_cannot_share_a_name():
    """A name that is already taken, as a name or an alias, is an error that names both models."""
    data = {"models": {name: {"engine": "mock", "aliases": aliases} for name, aliases in
                       {"a": ["b", "x", "gpt-*"], "b": ["x", "gpt-*"]}.items()}}
    assert faults(data) == [
        "models.a.aliases[0]: 'b' is already a name of models.b",
        "models.b.aliases[0]: 'x' is already a name of models.a",
        "models.b.aliases[1]: 'gpt-*' is already a name of models.a",
    ]


def test_min_instances_must_fit_into_the_pool():
    """The instances that are always loaded cannot exceed the maximum number of instances."""
    models = {name: {"engine": "mock", "min_instances": 1} for name in ("a", "b")}
    assert faults({"server": {"max_instances": 1}, "models": models}) == [
        "server.max_instances: expected at least 2, got 1: the models' min_instances add up to 2",
    ]


@pytest.mark.parametrize("name", ["llama3:8b", "phi-3.5_mini", "org/model", "A", "3"])
def test_good_model_names(name):
    """Common names of models are valid."""
    assert is_model_name(name)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/../b", "a..b", "/a", "a/", "a//b", ".a", "a\n", "é", "a/.b"])
def test_bad_model_names(name):
    """Names that would read as paths, or are hard to write in one, are invalid."""
    assert not is_model_name(name)
    assert faults({"models": {name: {"engine": "mock"}}})[0].endswith("with / between parts")


@given(st.text())
def test_a_model_name_is_safe_in_a_path(name):
    """No name leaves the folder to which it is joined."""
    if is_model_name(name):
        assert Path("/base", name).resolve().is_relative_to("/base")
        assert name.isascii()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "box.local"])
def test_a_host_that_others_reach_must_be_allowed(host):
    """Listening for other machines needs API keys, or explicit permission, also by its old name."""
    [fault] = faults({"server": {"host": host}})
    assert fault.startswith(f"server.host: other machines can reach '{host}', and there are no API keys")
    assert "server.insecure = true (--insecure" in fault
    assert faults({"server": {"host": host, "api_keys": []}}) == [fault]
    for allowed in ({"insecure": True}, {"allow_remote": True}, {"api_keys": ["k"]}, {"api_keys_file": "/keys"}):
        assert parse_config({"server": {"host": host, **allowed}}).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_a_loopback_host_needs_no_permission(host):
    """This machine's own names are fine."""
    assert parse_config({"server": {"host": host}}).server.host == host


def test_attrs_values_stand_for_tables_and_are_checked():
    """The Python twin takes attrs values, and checks them like mappings."""
    assert parse_config({"server": ServerConfig(port=1), "models": {"m": ModelConfig("mock")}}) == Config(
        ServerConfig(port=1), {"m": ModelConfig("mock")},
    )
    found = faults({"models": {"m": ModelConfig("mock", max_instances=0, defaults={"top_k": -2})}})
    assert found[0] == "models.m.max_instances: expected at least 1, got 0"
    assert found[1].startswith("models.m.defaults.top_k:")


def test_a_model_can_be_added():
    """`with_model` adds to the configured models, with the same checks."""
    config = with_model(parse_config({"models": {"a": {"engine": "mock"}}}), "b", ModelConfig("mock"))
    assert list(config.models) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"is already a name of models\.a"):
        with_model(config, "c", ModelConfig("mock", aliases=("a",)))


@pytest.mark.parametrize(
    ("models", "fits"),
    [
        ({"a": {"engine": "mock", "min_instances": 1}, "b": {"engine": "mock", "min_instances": 1}}, True),
        ({"a": {"engine": "mock", "min_instances": 1}, "b": {"engine": "mock"}}, True),
        ({"a": {"engine": "mock", "min_instances": 2, "max_instances": 2}, "b": {"engine": "mock"}}, False),
    ],
)
def test_kept_instances_leave_a_place(models, fits):
    """The instances that are kept must fit into the pool, and leave room if another model keeps none."""
    data = {"server": {"max_instances": 2}, "models": models}
    if fits:
        assert parse_config(data).server.max_instances == 2
    else:
        with pytest.raises(ConfigError, match=r"server\.max_instances: expected at least 3, got 2"):
            parse_config(data)


@pytest.mark.parametrize(
    ("preload", "fault"),
    [
        ({}, ": give either messages (optionally with tools) or a prefix of text"),
        ({"prefix": "a", "messages": [{"role": "user", "content": "a"}]},
         ": give either messages (optionally with tools) or a prefix of text"),
        ({"prefix": ""}, ".prefix: is empty; leave preload out"),
        ({"prefix": "a", "tools": [{"name": "add"}]},
         ".tools: there are no messages; tools are only part of a conversation"),
        ({"messages": [{"role": "systm", "content": "a"}]},
         ".messages[0].role: expected 'system', 'developer', 'user', 'assistant' or 'tool', got 'systm'"),
    ],
)
def test_faults_of_a_preload_are_named(preload, fault):
    """A preload is messages, optionally with tools, or a prefix; anything else is refused by name."""
    assert faults({"models": {"m": {"engine": "llamacpp", "preload": preload}}}) == [f"models.m.preload{fault}"]


@pytest.mark.parametrize(
    ("sessions", "fault"),
    [
        ({"size": "1GiB"}, "sessions.size: unknown key (did you mean 'max_size'?)"),
        ({"max_size": "much"}, "sessions.max_size: expected a size like 1048576 or \"10MiB\", got 'much'"),
        ({"ttl": -0.5}, "sessions.ttl: expected seconds, or -1 for never, got -0.5"),
        ({"min_tokens": 0}, "sessions.min_tokens: expected at least 1, got 0"),
        ({"responses_size": 0}, "sessions.responses_size: expected at least 1, got 0"),
        ({"responses_ttl": -0.5}, "sessions.responses_ttl: expected seconds, or -1 for never, got -0.5"),
        ({"store": 3}, "sessions.store: expected a string, got 3"),
    ],
)
def test_faults_of_sessions_are_named(sessions, fault):
    """`[sessions]` is checked like every other table."""
    assert faults({"sessions": sessions}) == [fault]


@pytest.mark.parametrize(("server", "may"), [
    ({}, True), ({"allow_remote": True}, False), ({"allow_remote": True, "pull": True}, True), ({"pull": False}, False),
])
def test_clients_may_pull_unless_others_reach_the_server(server, may):
    """By default only the clients of a server that no other machine reaches may add models."""
    assert parse_config({"server": server}).server.may_pull is may
