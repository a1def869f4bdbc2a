"""Where settings come from: the lines of a file, variables, flags; and variables that nothing reads."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from programs_for_tests import Program

from lllms_core.cli.model_options import with_given
from lllms_core.cli.setup import select
from lllms_core.config import changes, in_force, load_config, parse_config
from lllms_core.config.environment import unknown_variables
from lllms_core.config.setting_list import list_settings
from lllms_core.config.toml_lines import find_lines
from lllms_core.plugins import Plugins

FILE = '''\
# a comment
[server]
port = 8080
api_keys = [
    "phone: sk-very-secret",
    { name = "laptop", key = "sk-also-secret", models = ["m"] },
]

[models."llama3.2"]   # a quoted name
engine = "mock"
options = { slots = 2, api_token = "sk-third-secret" }
url = "https://me:sk-fourth-secret@example.org/x.gguf?sig=sk-fifth-secret"
[models."llama3.2".defaults]
temperature = 0.5
stop = """
a
b
"""'''


def test_each_key_has_the_line_of_its_statement() -> None:
    """Tables, keys, items of arrays and inline tables; comments, empty lines and long values in between."""
    lines = find_lines(FILE)
    wanted = {
        ("server",): 2, ("server", "port"): 3, ("server", "api_keys"): 4, ("server", "api_keys", 1): 4,
        ("models", "llama3.2"): 9, ("models", "llama3.2", "options", "slots"): 11,
        ("models", "llama3.2", "defaults", "temperature"): 14, ("models", "llama3.2", "defaults", "stop"): 15,
    }
    assert {path: lines[path] for path in wanted} == wanted


def test_arrays_of_tables_are_counted() -> None:
    """Each `[[...]]` opens the next item, and the tables below belong to it."""
    lines = find_lines("[[a.b]]\nx = 1\n[[a.b]]\nx = 2\n[a.b.c]\ny = 3\nd.e = 4\n")
    assert (lines["a", "b", 0, "x"], lines["a", "b", 1, "x"], lines["a", "b", 1, "c", "y"]) == (2, 4, 6)
    assert lines["a", "b", 1, "c", "d", "e"] == 7


KEYS = st.sampled_from(["a", "b c", "d.e", 'f"g', "#", "ü", "[x]"])
VALUES = st.integers() | st.booleans() | st.text() | st.lists(st.text("a]}'\"\n#=", max_size=6), max_size=3)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, min_size=1), min_size=1), st.data())
def test_every_key_of_a_file_is_found(tables: Mapping[str, Mapping[str, object]], data: st.DataObject) -> None:
    """Whatever names and values there are, each key is found on the line on which its statement was written."""
    lines, wanted = [], {}
    for table, keys in tables.items():
        lines += data.draw(st.sampled_from([[], [""], ["# [no] = table"]]))
        lines.append(f"[{json.dumps(table)}]")
        wanted[table,] = len(lines)
        for key, value in keys.items():
            written = json.dumps(value, ensure_ascii=False)
            if isinstance(value, list) and data.draw(st.booleans()):
                written = written.replace('", "', '",\n  # comment ]\n  "')
            lines.append(f"{json.dumps(key)} = {written}")
            wanted[table, key] = len(lines)
            lines[-1:] = lines[-1].split("\n")
    text = "\n".join(lines).replace("\x7f", "")
    found = find_lines(text)
    assert {path: line for path, line in found.items() if len(path) < 3} == wanted
    assert tomllib.loads(text).keys() == tables.keys()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "lllms.toml"
    made.write_text(FILE.replace('url = "h', '# url = "h'))
    return made


def test_every_setting_has_its_origin(file: Path) -> None:
    """The line of the file, the variable or the flag that set it; all others are defaults."""
    config = load_config(file, environ={"LLLMS_QUEUE_SIZE": "7"}, overrides={"server": {"log_level": "debug"}})
    told = {one.name: (one.value, one.origin) for one in list_settings(config)}
    assert told["server.port"] == (8080, f"{file}:3")
    assert told["server.queue_size"] == (7, "LLLMS_QUEUE_SIZE")
    assert told["server.log_level"] == ("debug", "--log-level")
    assert told["server.host"] == ("127.0.0.1", "default")
    assert told['models."llama3.2".options.slots'] == (2, f"{file}:11")
    assert told['models."llama3.2".defaults.temperature'] == (0.5, f"{file}:14")
    assert told['models."llama3.2".ttl'] == (300.0, "default")


def test_what_a_command_line_or_a_program_has_given(file: Path) -> None:
    """Flags of models are named; without a file, what is no default was given at the start."""
    plugins = Plugins.discover()
    config = load_config(file, environ={})
    config = evolve(config, models={"llama3.2": evolve(config.models["llama3.2"], options={"slots": 2})})
    config = with_given(select(config, plugins, ["llama3.2"]), plugins, {"slots": ("--slots", "4")})
    told = {one.name: (one.value, one.origin) for one in list_settings(config)}
    assert told['models."llama3.2".options.slots'] == (4, "--slots")
    assert told["server.pull"] == (False, "--model")
    config = parse_config({"server": {"port": 1}, "models": {"m": {"engine": "mock", "ttl": 300}}})
    told = {one.name: (one.value, one.origin) for one in list_settings(config)}
    others = {name: value for name, value in told.items() if value[1] != "default"}
    assert others == {name: (value, "given at the start") for name, value in {
        "server.port": 1, "models.m.engine": "mock",
    }.items()}


def test_a_variable_hides_the_line(file: Path) -> None:
    """The origin is that of the value in force."""
    config = load_config(file, environ={"LLLMS_PORT": "1"})
    [port] = [one for one in list_settings(config) if one.name == "server.port"]
    assert (port.value, port.origin) == (1, "LLLMS_PORT")


def test_secrets_are_never_shown(file: Path) -> None:
    """Neither keys, nor their hashes, nor secret options, nor what an address holds of passwords."""
    file.write_text(FILE)
    config = load_config(file, environ={})
    shown = json.dumps([(one.name, one.value) for one in list_settings(config)])
    assert "secret" not in shown
    assert not any(key.digest.hex()[:8] in shown for key in config.server.api_keys)
    assert '"phone"' in shown
    assert "https://example.org/x.gguf?..." in shown


def test_the_command_shows_them(file: Path, tmp_path: Path) -> None:
    """`lllms config show` prints a line or JSON for each, and with --set no defaults."""
    lllms = Program(tmp_path)
    printed = lllms.here("config", "show", "--set")
    assert "server.port = 8080" in printed
    assert "# lllms.toml:3\n" in printed
    assert "# default" not in printed
    assert "server.host" in lllms.here("config", "show")
    found = {one["name"]: one for one in json.loads(lllms.here("config", "show", "--json", "--offline"))}
    assert found["server.offline"] == {"name": "server.offline", "value": True, "origin": "--offline"}


def test_what_stays_until_a_restart_keeps_its_origin(file: Path) -> None:
    """A setting that a reload cannot take is shown with the value and the origin that are in force."""
    old = load_config(file, environ={})
    file.write_text("\n" + file.read_text().replace("8080", "9090"))
    new = load_config(file, environ={})
    assert changes(old, new).restart == ("server.port",)
    told = {one.name: (one.value, one.origin) for one in list_settings(in_force(old, new))}
    assert told["server.port"] == (8080, f"{file}:3")
    assert told['models."llama3.2".engine'] == ("mock", f"{file}:11")


@pytest.mark.parametrize(("name", "told"), [
    ("LLLMS_PROT", "the variable LLLMS_PROT has no effect (did you mean LLLMS_PORT?)"),
    ("LLLMS_QUEUE_SIZ", "the variable LLLMS_QUEUE_SIZ has no effect (did you mean LLLMS_QUEUE_SIZE?)"),
    ("LLLMS_XQZ", "the variable LLLMS_XQZ has no effect; variables are named for the keys of [server]"),
])
def test_unknown_variables_are_told(name: str, told: str) -> None:
    """With the name that is probably meant, if there is one."""
    assert unknown_variables({name: "1", "LLLMS_PORT": "2", "PATH": "x"}) == [told]


@pytest.mark.parametrize("name", [
    "LLLMS_PORT", "LLLMS_API_KEY", "LLLMS_PLUGINS", "LLLMS_STRICT", "LLLMS_PARROT_HOME", "lllms_prot", "LLLM_X",
])
def test_known_variables_are_fine(name: str) -> None:
    """Those that are read elsewhere, and those that begin with the name of a plugin, are known."""
    assert unknown_variables({name: "1"}, plugins=["parrot"]) == []


def test_no_variable_of_our_own_is_unknown() -> None:
    """Each `LLLMS_*` variable that our code names is a key of `[server]`, or among those that are read elsewhere."""
    root = Path(__file__).parent.parent
    files = [*(root / "lllms_core").rglob("*.py"), *(root / "plugins").glob("*/lllms_*/**/*.py")]
    names = {name for file in files for name in re.findall(r"(?<![A-Z_])LLLMS_[A-Z_]*[A-Z]", file.read_text())}
    assert "LLLMS_PLUGINS" in names
    assert unknown_variables(dict.fromkeys(names, ""), plugins=[]) == []


def test_commands_warn_of_unknown_variables(tmp_path: Path) -> None:
    """A warning on stderr; the command goes on, and its output is unaffected."""
    lllms = Program(tmp_path)
    plain = lllms.here("config", "show")
    assert lllms.errors == ""
    lllms.environ["LLLMS_PROT"] = "1"
    assert lllms.here("config", "show") == plain
    assert lllms.errors == "Warning: the variable LLLMS_PROT has no effect (did you mean LLLMS_PORT?)\n"


# -- comparing ---------------------------------------------------------------------------------------------------------

MODELS = st.dictionaries(st.sampled_from("abc"), st.fixed_dictionaries({"engine": st.just("mock")}, optional={
    "ttl": st.sampled_from([0, 5]), "options": st.sampled_from([{}, {"slots": 2}]), "aliases": st.just([]),
}))
CONFIGS = st.fixed_dictionaries({
    "models": MODELS,
    "server": st.fixed_dictionaries({}, optional={"port": st.integers(0, 9), "queue_size": st.integers(1, 9)}),
})


@given(CONFIGS, CONFIGS)
def test_changes_are_exactly_the_differences(one: dict[str, object], other: dict[str, object]) -> None:
    """Each model is in the right list, and in one only; nothing has changed between equal configurations."""
    old, new = parse_config(one), parse_config(other)
    found = changes(old, new)
    assert set(found.added) == new.models.keys() - old.models.keys()
    assert set(found.removed) == old.models.keys() - new.models.keys()
    both = new.models.keys() & old.models.keys()
    assert set(found.replaced) == {name for name in both if old.models[name].options != new.models[name].options}
    differ = {name for name in both if old.models[name] != new.models[name]}
    assert set(found.adjusted) == differ - set(found.replaced)
    assert found.restart == (("server.port",) if old.server.port != new.server.port else ())
    assert found.settings == (("server.queue_size",) if old.server.queue_size != new.server.queue_size else ())
    assert changes(new, new).lines == []
    taken = in_force(old, new)
    assert changes(taken, new).restart == found.restart
    assert changes(old, taken).restart == ()
