"""Rules between a configuration's values; each broken one is a violation with its path; pure."""

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

from lllms_core.config.origins import fault_of_origin
from lllms_core.config.settings import UNIX, ModelConfig, ServerConfig, SessionsConfig
from lllms_core.errors import InvalidRequest
from lllms_core.parameters import DEFAULTS, check
from lllms_core.types import Preload
from lllms_core.values.violations import Keys, Violation, did_you_mean, dotted

NAME_RULE = "letters, digits and _ . - : in parts that start with a letter or digit, with / between parts"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*(/[A-Za-z0-9][A-Za-z0-9_.:-]*)*")
PATTERN = re.compile(r"[A-Za-z0-9_.:/*-]+")
PATTERN_RULE = "beside its '*', letters, digits and _ . - : /"


def is_model_name(name: str) -> bool:
    """Whether a model may have this name: `llama3:8b`, `org/model-1.5`; no spaces, no `..`."""
    return MODEL_NAME.fullmatch(name) is not None and ".." not in name


def is_alias(name: str) -> bool:
    """Whether a model may have this alias: a name, or a pattern like `claude-*`, whose stars stand for any text."""
    return is_model_name(name) or ("*" in name and PATTERN.fullmatch(name) is not None and ".." not in name)


def check_server(server: ServerConfig) -> Iterator[Violation]:
    """Check `[server]` by itself: its address, its keys, the clients that it trusts."""
    if not server.host:
        yield Violation(("server", "host"), "is empty; use 127.0.0.1")
    elif server.host == UNIX:
        yield Violation(("server", "host"), 'there is no path after "unix:"; expected one like unix:/run/lllms.sock')
    elif not is_loopback(server.host) and not (server.has_keys or server.insecure or server.allow_remote):
        yield Violation(
            ("server", "host"),
            f"other machines can reach '{server.host}', and there are no API keys, so anyone could use the models; set"
            " server.api_keys (LLLMS_API_KEYS; lllms key makes one), or allow it by server.insecure = true (--insecure,"
            " LLLMS_INSECURE=1), or use 127.0.0.1",
        )
    for index, one in enumerate(server.trusted_clients):
        if one in server.trusted_keys:
            if server.api_keys_file is None and one not in {key.name for key in server.api_keys}:
                yield Violation(("server", "trusted_clients", index), f"there is no key named '{one}'")
            continue
        try:
            ip_network(one)
        except ValueError as error:
            text = f"{error}; expected an address, a network like 10.0.0.0/8, or the name of a key"
            yield Violation(("server", "trusted_clients", index), text)
    for index, one in enumerate(server.cors_origins):
        fault = fault_of_origin(one)
        if fault is not None:
            yield Violation(("server", "cors_origins", index), fault)
    if server.tls_key is not None and server.tls_certificate is None:
        yield Violation(("server", "tls_key"), "there is no certificate for it; set server.tls_certificate, too")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server with this `host`."""
    if host.startswith(UNIX):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_room(server: ServerConfig, models: Mapping[str, ModelConfig]) -> Iterator[Violation]:
    """Check that all `min_instances` fit, with a place left if any model keeps none loaded."""
    kept = sum(model.min_instances for model in models.values())
    needed = kept + any(model.min_instances == 0 for model in models.values())
    if needed > server.max_instances:
        others = ", and the other models need a place, too" if needed > kept else ""
        sums = f"the models' min_instances add up to {kept}{others}"
        text = f"expected at least {needed}, got {server.max_instances}: {sums}"
        yield Violation(("server", "max_instances"), text)


def check_models(models: Mapping[str, ModelConfig]) -> Iterator[Violation]:
    """Check the names of models, and the keys of one model that contradict each other."""
    holders: dict[str, str] = {name: name for name in models}
    for name, model in models.items():
        path = ("models", name)
        if not is_model_name(name):
            yield Violation(path, f"{name!r} is not a valid model name: {NAME_RULE}")
        for index, alias in enumerate(model.aliases):
            here = (*path, "aliases", index)
            if not is_alias(alias):
                rule = PATTERN_RULE if "*" in alias else NAME_RULE
                yield Violation(here, f"{alias!r} is not a valid model name: {rule}")
            elif alias in holders:
                yield Violation(here, f"'{alias}' is already a name of {dotted(('models', holders[alias]))}")
            holders.setdefault(alias, name)
        yield from _check_source(model, path)
        if model.min_instances > model.max_instances:
            text = f"{model.min_instances} is more than max_instances, which is {model.max_instances}"
            yield Violation((*path, "min_instances"), text)
        if model.preload is not None:
            yield from _check_preload(model.preload, (*path, "preload"))
        yield from _check_ttl(model.ttl, path)
        if model.timeout is not None and model.timeout <= 0:
            text = f"expected more than 0 seconds, got {model.timeout}; leave it out for no limit"
            yield Violation((*path, "timeout"), text)


def check_sessions(sessions: SessionsConfig) -> Iterator[Violation]:
    """Check `[sessions]`."""
    yield from _check_ttl(sessions.ttl, ("sessions",))
    yield from _check_ttl(sessions.responses_ttl, ("sessions",), "responses_ttl")


def _check_ttl(ttl: float, path: Keys, name: str = "ttl") -> Iterator[Violation]:
    if -1 < ttl < 0:
        yield Violation((*path, name), f"expected seconds, or -1 for never, got {ttl}")


def _check_preload(preload: Preload, path: Keys) -> Iterator[Violation]:
    if (preload.prefix is None) == (not preload.messages):
        yield Violation(path, "give either messages (optionally with tools) or a prefix of text")
    elif preload.tools and not preload.messages:
        yield Violation((*path, "tools"), "there are no messages; tools are only part of a conversation")
    elif preload.prefix == "":
        yield Violation((*path, "prefix"), "is empty; leave preload out")


def _check_source(model: ModelConfig, path: Keys) -> Iterator[Violation]:
    sources = {"file": model.file, "url": model.url, "hf": model.hf}
    given = [key for key, value in sources.items() if value is not None]
    if len(given) > 1:
        yield Violation((*path, given[1]), f"{' and '.join(given)} are given; one of them is enough")
    for key in given:
        if key != "file" and not (sources[key] or "").strip():
            yield Violation((*path, key), "is empty")
    if model.sha256 is not None and re.fullmatch(r"[0-9a-fA-F]{64}", model.sha256) is None:
        yield Violation((*path, "sha256"), f"expected 64 hexadecimal digits, got {model.sha256!r}")
    if model.sha256 is not None and not given:
        yield Violation((*path, "sha256"), "there is no file, url or hf to check against it")


def check_defaults(model: object, path: Keys) -> Iterator[Violation]:
    """Check a model's `defaults`, in its table as given, so that other violations do not hide theirs."""
    defaults = model.get("defaults") if isinstance(model, Mapping) else getattr(model, "defaults", None)
    for name, value in defaults.items() if isinstance(defaults, Mapping) else ():
        try:
            check(name, value)
        except KeyError:
            yield Violation((*path, name), "unknown key" + did_you_mean(name, DEFAULTS))
        except InvalidRequest as error:
            yield Violation((*path, name), error.message)
