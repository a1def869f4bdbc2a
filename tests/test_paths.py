"""What relative paths are relative to, and how text files that people write are read: one rule for all of them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import field, frozen
from programs_for_tests import Program

from lllms_core.builtin.sessions.disk_store import DiskOptions
from lllms_core.catalog import Catalog
from lllms_core.config import ModelConfig, load_config, parse_config, with_model
from lllms_core.errors import ConfigError
from lllms_core.host import Host, choose_session_store
from lllms_core.machine import decode_text
from lllms_core.plugins import Plugins
from lllms_core.values.structure import structure, with_folder

RULES = 'rules = [{ pattern = "ping", replies = ["pong"] }]\n'
FILE = """
[server]
models_dir = "store"
[sessions]
store = "disk"
options = { folder = "sessions" }
[models.m]
engine = "mock"
file = "weights/x.gguf"
options = { rules = "texts/rules.toml" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a configuration with all kinds of relative paths; the working directory is another."""
    place = tmp_path / "conf"
    for name, text in {"lllms.toml": FILE, "weights/x.gguf": "GGUF", "texts/rules.toml": RULES}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return place


@pytest.mark.parametrize("given", ["../conf/lllms.toml", "{folder}/lllms.toml"])
def test_paths_of_a_file_start_in_its_folder(folder: Path, given: str) -> None:
    """Weights, options of engines and stores, and the folder of models, wherever the program was started."""
    config = load_config(Path(given.format(folder=folder)), environ={})
    plugins = Plugins.discover()
    [entry] = Catalog.build(config, plugins).entries
    chosen = choose_session_store(config, plugins)
    assert chosen is not None
    assert isinstance(chosen[1], DiskOptions)
    found = [entry.spec.file, entry.spec.options.rules, config.server.models_dir, chosen[1].folder]
    wanted = [folder / name for name in ("weights/x.gguf", "texts/rules.toml", "store", "sessions")]
    assert [path.resolve() for path in found] == wanted
    assert all(path.is_absolute() for path in found)


def test_the_file_that_is_found_has_a_folder_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lllms.toml` in the working directory, or in the user's folder, is no exception."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder.parent))
    folder.rename(folder.parent / "lllms")
    assert load_config().models["m"].file == str(folder.parent / "lllms/weights/x.gguf")
    monkeypatch.chdir(folder.parent / "lllms")
    assert load_config(environ={}).models["m"].file == str(folder.parent / "lllms/weights/x.gguf")


def test_variables_and_flags_start_in_the_working_directory(folder: Path) -> None:
    """A path typed in a shell means the same as for other programs."""
    given = folder / "lllms.toml"
    for config in (
        load_config(given, environ={"LLLMS_MODELS_DIR": "x"}),
        load_config(given, environ={}, overrides={"server": {"models_dir": "x"}}),
    ):
        assert config.server.models_dir == Path.cwd() / "x"
        assert config.models["m"].file == str(folder / "weights/x.gguf")


def test_python_callers_start_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration made in Python works like a file in its folder, and keeps the folder when it is changed."""
    monkeypatch.chdir(folder)
    table = {"engine": "mock", "file": "weights/x.gguf", "options": {"rules": Path("texts/rules.toml")}}
    config = parse_config({"models": {"m": table}})
    monkeypatch.chdir(folder.parent)
    config = with_model(config, "n", ModelConfig("mock", "weights/x.gguf", options={"rules": "texts/rules.toml"}))
    for entry in Catalog.build(config, Plugins.discover()).entries:
        assert entry.spec.file == folder / "weights/x.gguf"
        assert entry.spec.options.rules == folder / "texts/rules.toml"


def test_commands_take_files_from_where_they_are_started(folder: Path) -> None:
    """A file named on the command line is relative to the working directory, whatever the configuration's folder."""
    lllms = Program(folder.parent)
    (folder.parent / "x.gguf").write_bytes(b"no model")
    assert str(folder.parent / "x.gguf") in lllms.here("show", "x.gguf", "--config", "conf/lllms.toml", code=1)
    assert str(folder.parent / "y.gguf") in lllms.here("pull", "y.gguf", "--config", "conf/lllms.toml", code=1)


@frozen
class Inner:
    """Options inside options."""

    path: Path = Path("a")
    name: str = "a"


@frozen
class Outer:
    """Paths in every kind of place."""

    path: Path | None = None
    inner: Inner = field(factory=Inner)
    several: tuple[Inner, ...] = ()
    named: Mapping[str, Path] = field(factory=dict)
    _hidden: Path = Path("h")


def test_paths_are_found_wherever_they_are() -> None:
    """Lists, tables and values in options are searched; absolute paths, `~` and other values are unchanged."""
    given = {"path": "~/x", "inner": {"path": "/y"}, "several": [{}, {"path": "b"}], "named": {"c": "d/../c"}}
    found = with_folder(structure(given, Outer), Path("/f"))
    assert found.path == Path.home() / "x"
    assert found.inner.path == Path("/y")
    assert [(one.path, one.name) for one in found.several] == [(Path("/f/a"), "a"), (Path("/f/b"), "a")]
    assert found.named == {"c": Path("/f/d/../c")}
    assert found._hidden == Path("/f/h")
    assert with_folder(found, Path("/g")) == found


PATHS = ("api_keys_file", "tls_certificate", "tls_key", "models_dir")


def test_paths_of_the_server_start_in_the_files_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So do files of keys and certificates, and the socket; `~` is the user's. Flags start in the working directory."""
    monkeypatch.setenv("HOME", str(folder.parent))
    file = folder / "lllms.toml"
    file.write_text("[server]\nhost = 'unix:run/s.sock'\n" + "".join(f"{key} = 'x/{key}'\n" for key in PATHS))
    server = load_config(file, environ={}).server
    assert [getattr(server, key) for key in PATHS] == [folder / "x" / key for key in PATHS]
    assert server.socket_path == folder / "run/s.sock"
    file.write_text("[server]\nhost = 'unix:~/s.sock'\n" + "".join(f"{key} = '~/{key}'\n" for key in PATHS))
    server = load_config(file, environ={}).server
    assert [getattr(server, key) for key in PATHS] == [folder.parent / key for key in PATHS]
    assert server.socket_path == folder.parent / "s.sock"
    server = load_config(file, environ={}, overrides={"server": {**dict.fromkeys(PATHS, "y"), "host": "unix:y"}}).server
    assert {getattr(server, key) for key in PATHS} == {Path.cwd() / "y"} == {server.socket_path}


# -- what editors write ------------------------------------------------------------------------------------------------


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("line", ["\n", "\r\n"])
async def test_files_of_editors_are_read(folder: Path, encoding: str, line: str) -> None:
    """A byte order mark, UTF-16 as some shells write it, and Windows line ends are accepted."""
    for name in ("lllms.toml", "texts/rules.toml"):
        (folder / name).write_bytes((folder / name).read_text().replace("\n", line).encode(encoding))
    async with Host(load_config(folder / "lllms.toml", environ={"LLLMS_MODELS_DIR": "."})) as host:
        assert (await host.submit(host.request("m", prompt="ping")).gather()).text == "pong"


@pytest.mark.parametrize("data", [b"\xff\xfea", b"a\xff", b"\xfe\xff\xd8\x00"])
def test_bytes_that_are_no_text(folder: Path, data: bytes) -> None:
    """A file in no such encoding is a fault that names the file."""
    (folder / "lllms.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"lllms\.toml is not valid TOML"):
        load_config(folder / "lllms.toml", environ={})


def test_only_the_first_mark_goes() -> None:
    """A mark at the start is not part of the text; anywhere else it is."""
    assert decode_text("\ufeffa\ufeffb".encode()) == "a\ufeffb"
    assert decode_text(b"a\r\nb\rc\n") == "a\nb\nc\n"
