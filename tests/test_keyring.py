"""API keys as values: how they are read, found and limited, and that nothing shows them."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.caller import Caller
from lllms_core.config import ApiKey, Keyring, ServerConfig, load_config, open_keyring, parse_config
from lllms_core.config.key_file import exposed
from lllms_core.config.keyring import digest_of, read_keys, read_lines
from lllms_core.config.origins import fault_of_origin
from lllms_core.errors import ConfigError
from lllms_core.values.violations import StructureError
from lllms_core.web.allowance import Allowance

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64).filter(
    lambda text: not text.startswith(("#", "sha256:")),
)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.@-]{0,20}", fullmatch=True)
SECRET = "sEcReT-71923"
HASH = f"sha256:{sha256(SECRET.encode()).hexdigest()}"


def faults(value: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config({"server": {"api_keys": value}})
    return str(caught.value).splitlines()


# -- reading ----------------------------------------------------------------------------------------------------------


@given(st.dictionaries(NAMES, SECRETS, max_size=5).filter(lambda keys: len(set(keys.values())) == len(keys)), st.data())
def test_each_form_of_a_key_is_the_same(named: dict[str, str], data: st.DataObject) -> None:
    """As a string, as a table, as a hash and as a line of a file, a key is found by its secret, and by nothing else."""
    def written(name: str, secret: str) -> object:
        shown = data.draw(st.sampled_from([secret, f"sha256:{digest_of(secret).hex()}"]))
        return data.draw(st.sampled_from([f"{name}: {shown}", {"name": name, "key": shown}]))

    keys = read_keys([written(name, secret) for name, secret in named.items()])
    assert keys == read_lines("\n# keys\n\n" + "\n".join(f"  {name}: {secret} " for name, secret in named.items()))
    ring = Keyring(keys)
    for name, secret in named.items():
        found = ring.find(secret)
        assert found is not None
        assert found.name == name
    other = data.draw(st.text())
    assert (ring.find(other) is not None) == (other in named.values())


def test_a_hash_does_not_open() -> None:
    """Who has read the hash of a key in the configuration cannot use it in place of the key."""
    ring = Keyring(read_keys([HASH]))
    assert ring.find(SECRET) is not None
    assert ring.find(HASH) is None
    assert ring.find(HASH.removeprefix("sha256:")) is None
    assert ring.find("\ud800") is None


def test_keys_without_names_are_numbered() -> None:
    """A key without a name is called by its place, in the list or in the file."""
    assert [key.name for key in read_keys(["a", "phone: b", {"key": "c"}])] == ["key-1", "phone", "key-3"]
    assert [key.name for key in read_lines("# mine\n\na\nphone: b")] == ["line-3", "phone"]


def test_a_table_limits_a_key() -> None:
    """A table may name the models, the rate and the number of requests at once."""
    [key] = read_keys([{"key": "a", "models": ["tiny*"], "requests_per_minute": 6, "concurrency": 2}])
    assert (key.models, key.requests_per_minute, key.concurrency) == (("tiny*",), 6, 2)


@pytest.mark.parametrize(("value", "told"), [
    (SECRET, ["server.api_keys: expected a list of keys"]),
    ({"key": SECRET}, ["server.api_keys: expected a list of keys"]),
    ([5123712], ["server.api_keys[0]: expected a string or a table"]),
    (["a", ""], ["server.api_keys[1]: expected a key: 1 to 512 characters"]),
    ([f"{SECRET} x"], ["server.api_keys[0]: expected a key: 1 to 512 characters"]),
    ([f"sha256:{SECRET}"], ["server.api_keys[0]: expected a key: 1 to 512 characters"]),
    ([f"-bad-: {SECRET}"], ["server.api_keys[0]: expected a name of at most 64 letters"]),
    ([{"name": "a"}], ["server.api_keys[0].key: missing; expected a string"]),
    ([{"key": 5123712}], ["server.api_keys[0].key: expected a string"]),
    ([{"key": [SECRET]}], ["server.api_keys[0].key: expected a string"]),
    ([{"key": SECRET, "models": []}], ["server.api_keys[0].models: is empty"]),
    ([{"key": SECRET, "modles": ["a"], "concurrency": 0}],
     ["server.api_keys[0].modles: unknown key (did you mean 'models'?)",
      "server.api_keys[0].concurrency: expected at least 1, got 0"]),
    ([{"key": SECRET, "requests_per_minute": 1.5}], ["server.api_keys[0].requests_per_minute: expected an integer"]),
    ([f"a: {SECRET}", "a: other"], ["server.api_keys[1]: there is another key named 'a'"]),
    ([f"a: {SECRET}", HASH], ["server.api_keys[1]: is the same key as 'a'"]),
])
def test_a_wrong_key_is_told_and_not_shown(value: object, told: list[str]) -> None:
    """Each fault names its place, and none quotes a value that could be a key."""
    found = faults(value)
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(sorted(found), sorted(told), strict=True))
    assert not any(SECRET in line or "5123712" in line for line in found)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SECRETS.map(lambda text: f"{text} {SECRET}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["key", "x"]), inner, max_size=2),
))
def test_nothing_breaks_the_reader(value: object) -> None:
    """Any value that holds no keys is a list of violations, and these quote no string in the place of a key."""
    told: object = None
    try:
        read_keys(value)
    except StructureError as error:
        told = error
    assert isinstance(told, StructureError) == (value != [])
    assert SECRET not in str(told)


def test_no_repr_shows_a_key() -> None:
    """Neither the configuration, nor a key, nor a ring shows a secret or its hash."""
    config = parse_config({"server": {"api_keys": [SECRET, {"name": "b", "key": f"{SECRET}b"}]}})
    for shown in (repr(config), repr(config.server.api_keys), repr(Keyring(config.server.api_keys))):
        assert SECRET not in shown
        assert digest_of(SECRET).hex() not in shown
        assert repr(digest_of(SECRET)) not in shown
    assert "name='b'" in repr(config)


def test_variables_hold_keys(tmp_path: Path) -> None:
    """`LLLMS_API_KEYS` replaces the keys of the file, and a wrong one is named by the variable, without its value."""
    file = tmp_path / "lllms.toml"
    file.write_text('[server]\napi_keys = ["old"]\n')
    server = load_config(file, environ={"LLLMS_API_KEYS": f"{SECRET}, phone: b"}).server
    assert [key.name for key in server.api_keys] == ["key-1", "phone"]
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={"LLLMS_API_KEYS": f"a b {SECRET}"})
    assert str(caught.value).endswith("(LLLMS_API_KEYS)")
    assert SECRET not in str(caught.value)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_adds_keys(tmp_path: Path) -> None:
    """The file's keys count beside those of the list; a relative path starts in the folder of the configuration."""
    (tmp_path / "keys").write_text(f"phone: {SECRET}\n")
    (tmp_path / "lllms.toml").write_text('[server]\napi_keys = ["a"]\napi_keys_file = "keys"\n')
    ring = open_keyring(load_config(tmp_path / "lllms.toml", environ={}).server)
    assert [key.name for key in ring.keys] == ["key-1", "phone"]


@pytest.mark.parametrize(("content", "told"), [
    (b"", "holds no key"),
    (b"# only this\n", "holds no key"),
    (b"\xff\xfa", "is not UTF-8 text"),
    (f"a: x\nb: {SECRET} y\n".encode(), "line 2: expected a key"),
    (b"key-1: x\n", "there is another key named 'key-1'"),
    (b"other: a\n", "is the same key as 'key-1'"),
])
def test_a_wrong_file_opens_nothing(tmp_path: Path, content: bytes, told: str) -> None:
    """A file without a key, or with a wrong line, is an error that names it: never a server without keys."""
    file = tmp_path / "keys"
    file.write_bytes(content)
    server = parse_config({"server": {"api_keys": ["a"], "api_keys_file": str(file)}}).server
    with pytest.raises(ConfigError) as caught:
        open_keyring(server)
    assert told in str(caught.value)
    assert "server.api_keys_file" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error of the configuration, as is a pipe, for which nobody waits."""
    with pytest.raises(ConfigError, match="none cannot be read: No such file"):
        open_keyring(ServerConfig(api_keys_file=tmp_path / "none"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe cannot be read"):
        open_keyring(ServerConfig(api_keys_file=tmp_path / "pipe"))


def test_a_file_that_others_can_read_is_told(tmp_path: Path) -> None:
    """A file of keys that every user of the machine can read gets a warning with the way out."""
    file = tmp_path / "keys"
    file.write_text("a")
    file.chmod(0o600)
    assert exposed(file) is None
    assert exposed(None) is None
    file.chmod(0o644)
    assert f"chmod 600 {file}" in (exposed(file) or "")


def test_a_trusted_key_must_exist(tmp_path: Path) -> None:
    """`trusted_clients` names keys of the list or of the file; an unknown name is an error."""
    with pytest.raises(ConfigError, match=r"server.trusted_clients\[0\]: there is no key named 'phone'"):
        parse_config({"server": {"trusted_clients": ["phone"], "api_keys": ["laptop: a"]}})
    (tmp_path / "keys").write_text("phone: b")
    server: dict[str, Any] = {"trusted_clients": ["phone", "10.0.0.0/8"], "api_keys_file": str(tmp_path / "keys")}
    assert open_keyring(parse_config({"server": server}).server).keys
    server["trusted_clients"] = ["tablet"]
    with pytest.raises(ConfigError, match="'tablet' is neither an address, nor a network, nor the name of a key"):
        open_keyring(parse_config({"server": server}).server)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_rate_is_kept() -> None:
    """A minute's requests may come at once; then one is let in as often as the rate says, and the wait is told."""
    allowance = Allowance(ApiKey("a", b"", requests_per_minute=6))
    assert [allowance.enter(100.0) for _ in range(6)] == [None] * 6
    assert allowance.enter(100.0) == ("6 requests a minute", 10)
    assert allowance.enter(103.5) == ("6 requests a minute", 7)
    assert allowance.enter(110.0) is None
    assert allowance.enter(110.0) == ("6 requests a minute", 10)
    assert [allowance.enter(10_000.0) for _ in range(7)].count(None) == 6


@given(
    st.integers(1, 600), st.lists(st.floats(0, 100), min_size=1, max_size=80),
)
def test_no_window_exceeds_the_rate(rate: int, pauses: list[float]) -> None:
    """Whenever requests come: within any time, no more are let in than a minute's and those that the time earns.

    After the wait that a refusal tells, the next request is let in.
    """
    allowance, now, entered = Allowance(ApiKey("a", b"", requests_per_minute=rate)), 0.0, []
    for pause in pauses:
        now += pause
        refused = allowance.enter(now)
        if refused is not None:
            assert refused[1] >= 1
            now += refused[1]
            assert allowance.enter(now) is None
        entered.append(now)
    for start in range(len(entered)):
        for end in range(start, len(entered)):
            assert end - start + 1 <= rate + (entered[end] - entered[start]) * rate / 60 + 1e-6


def test_places_are_given_back() -> None:
    """At most as many requests are open as the key allows; a refused one costs nothing of the rate."""
    allowance = Allowance(ApiKey("a", b"", requests_per_minute=3, concurrency=2))
    assert [allowance.enter(0.0) for _ in range(4)] == [None, None, *[("2 requests at once", 1)] * 2]
    allowance.leave()
    assert allowance.enter(0.0) is None
    allowance.leave()
    assert allowance.enter(0.0) == ("3 requests a minute", 20)


# -- models and origins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("models", "names", "expected"), [
    (None, ("tiny",), True), (("tiny",), ("tiny",), True), (("tiny*",), ("tiny-chat", "x"), True),
    ((), ("tiny",), False),
    (("gpt-4",), ("tiny", "gpt-4"), True), (("Tiny",), ("tiny",), False), (("*",), ("tiny",), True),
    (("tin",), ("tiny",), False), (("claude-*",), ("tiny", "claude-*"), True), (("a*z",), ("ab",), False),
])
def test_patterns_of_models(models: tuple[str, ...] | None, names: tuple[str, ...], expected: bool) -> None:
    """A caller may use a model if one of its patterns fits the name or an alias of the model."""
    assert Caller(models=models).may_use(*names) is expected


@pytest.mark.parametrize("origin", [
    "*", "null", "https://app.example", "http://localhost:5173", "http://127.0.0.1:8080", "http://[::1]:3000",
    "chrome-extension://abcdefgh", "vscode-webview://1a2b", "app://obsidian.md", "https://xn--bcher-kva.example",
])
def test_origins_that_browsers_send(origin: str) -> None:
    """Origins in the form in which browsers send them are accepted."""
    assert fault_of_origin(origin) is None
    assert parse_config({"server": {"cors_origins": [origin]}}).server.cors_origins == (origin,)


@pytest.mark.parametrize(("origin", "right"), [
    ("http://x/", "http://x"), ("localhost:3000", "http://localhost:3000"), ("app.example", "http://app.example"),
    ("https://app.example/chat", "https://app.example"), ("HTTPS://App.Example", "https://app.example"),
    ("https://app.example:443", "https://app.example"), ("http://app.example:80/", "http://app.example"),
    ("file:///home/me/page.html", "null"), (" https://app.example", "https://app.example"),
    ("https://user:pw@app.example", "https://app.example"), ("https://bücher.example", "https://xn--bcher-kva.example"),
    ("http://[::1]:3000/", "http://[::1]:3000"), ("https://*.example", None), ("", None), ("https://", None),
    ("http://x:99999", None), ("https://a b", None), ("**", None),
])
def test_origins_that_never_match(origin: str, right: str | None) -> None:
    """An origin that no browser sends is an error, with the right form if it is clear."""
    with pytest.raises(ConfigError) as caught:
        parse_config({"server": {"cors_origins": ["https://fine.example", origin]}})
    [line] = str(caught.value).splitlines()
    assert line.startswith("server.cors_origins[1]: no page has the origin")
    assert line.endswith(f'write "{right}"' if right else 'like "https://app.example" or "http://localhost:5173"')


@given(st.text())
def test_the_right_form_is_right(text: str) -> None:
    """The form that is suggested in place of a wrong origin is accepted itself, whatever the text."""
    fault = fault_of_origin(text)
    if fault is not None and "; write \"" in fault:
        assert fault_of_origin(json.loads(fault.rpartition("write ")[2])) is None
