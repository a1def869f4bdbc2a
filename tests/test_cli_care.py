"""How the commands on files handle difficult cases: secrets in addresses, narrow terminals, servers that hang."""

import json
import re
import signal
import stat
import threading
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from stores_for_tests import TINY, Shelf, sha256
from waits_for_tests import GUARD

from lllms_core.cli import cli, transfers
from lllms_core.cli.ls import table
from lllms_core.downloads import RemoteFile, RemoteModel
from lllms_core.gguf import part_names
from lllms_core.store import Download, Store, StoredModel

SECRET = "https://me:sesame@example.org/tiny.gguf?token=sesame"
SHOWN = "https://example.org/tiny.gguf?..."


class Web(Shelf):
    """Provides the same file for every address."""

    schemes = frozenset({"https"})

    def resolve(self, source: str) -> RemoteModel:
        *_, name = source.partition("?")[0].split("/")
        return RemoteModel([RemoteFile(f"example.org/{name}", source) for name in part_names(name)])

    def fetch(self, file, part):
        data = TINY.read_bytes()
        part.begin(len(data), "1")
        part.write(0, data)
        part.note()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that the commands use, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("LLLMS_MODELS_DIR", str(tmp_path / "store"))
    return Store(tmp_path / "store", [Web()])


def lllms(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="lllms")


def test_secrets_are_for_their_owner_alone(store: Store) -> None:
    """Records of an address with a password or a query are readable only by their owner; other records by all."""
    store.ensure(SECRET)
    store.ensure("https://example.org/tiny.gguf")
    records = [file for file in store.models_dir.rglob("*.json") if file.is_file()]
    assert any("sesame" in file.read_text() for file in records)
    for file in records:
        assert ("sesame" in file.read_text()) == (not stat.S_IMODE(file.stat().st_mode) & 0o077)


def test_secrets_are_not_listed(store: Store) -> None:
    """`ls` shows addresses without their secrets, even as JSON; the shown name works for `verify` and `rm`."""
    store.ensure(SECRET)
    for arguments in (["ls"], ["ls", "--json"]):
        output = lllms(*arguments).output
        assert SHOWN in output
        assert "sesame" not in output
    assert json.loads(lllms("ls", "--json").stdout)[-1]["name"] == SHOWN
    assert "is intact" in lllms("verify", SHOWN).output
    assert "deleted" in lllms("rm", "-y", SHOWN).output
    assert store.models() == []


def test_each_part_has_a_line(store: Store) -> None:
    """`verify` prints a separate line for each part of a split model."""
    store.ensure("https://example.org/m-00001-of-00002.gguf")
    lines = lllms("verify", "https://example.org/m-00001-of-00002.gguf").stdout.splitlines()
    assert [line.endswith(f"is intact, SHA-256 {sha256(TINY.read_bytes())}") for line in lines] == [True, True]


def test_an_address_as_a_file_is_set_right(store: Store) -> None:
    """If a configuration gives an address as `file`, the error names the right key."""
    Path("lllms.toml").write_text('[models.a]\nengine = "llamacpp"\nfile = "hf:org/repo:Q8_0"\n')
    expected = 'models.a.file: hf:org/repo:Q8_0 is not a path; write url = "hf:org/repo:Q8_0" instead'
    assert expected in lllms("check").output


@pytest.mark.parametrize("columns", [20, 60, 200])
def test_names_are_shown_whole(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """However narrow the terminal, names can be read and copied: columns that do not fit beside them go below."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "hf:some-organisation/A-Model-With-A-Long-Name-GGUF:Q4_K_M"
    table(("name", "size", "quant"), [(name, "1.5 MB", "-"), ("b", "2 MB", "Q8_0")])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    if columns < 100:
        assert lines == [name, "  size 1.5 MB", "b", "  size 2 MB, quant Q8_0"]
    else:
        assert [line.split() for line in lines] == [
            ["name", "size", "quant"], [name, "1.5", "MB", "-"], ["b", "2", "MB", "Q8_0"],
        ]


def test_ctrl_c_waits_for_no_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """After Ctrl-C a command ends, even if a server that it asks never answers."""
    monkeypatch.setattr(transfers, "_END_SECONDS", 0.01)
    answer = threading.Event()
    ended: list[bool] = []

    def ask(_: Download) -> StoredModel:
        signal.raise_signal(signal.SIGINT)
        ended.append(answer.wait(GUARD))
        raise AssertionError

    with pytest.raises(click.exceptions.Exit) as left:
        transfers.carry_out([transfers.Transfer("x", ask, str)])
    assert left.value.exit_code == 130
    assert ended == []
    assert "interrupted; the bytes received are kept" in capsys.readouterr().err
    answer.set()
