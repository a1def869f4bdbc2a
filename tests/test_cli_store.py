"""`pull`, `verify`, `rm`, `gc` and `ls`, in real processes, from a web server on loopback."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers_for_tests import Site, hang, instead, served
from stores_for_tests import TINY, sha256

from lllms_core.cli.transfers import progress_text
from lllms_core.store import DownloadStatus

DATA = TINY.read_bytes()
LIMIT = 60.0


@pytest.fixture
def site() -> Iterator[Site]:
    with served({"/tiny.gguf": DATA, "/other.gguf": DATA + bytes(100_000)}) as site:
        yield site


class Program:
    """`lllms`, in a world of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models_dir = folder / "store"
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("LLLMS_")}
        self.errors = ""
        """What the last command wrote to stderr."""
        self.environ |= {"XDG_CONFIG_HOME": str(folder), "LLLMS_MODELS_DIR": str(self.models_dir), "HOME": str(folder)}

    def start(self, *arguments: str, **pipes: int) -> subprocess.Popen[str]:
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **pipes}
        return subprocess.Popen(
            [sys.executable, "-m", "lllms_core", *arguments], cwd=self.folder, env=self.environ, text=True, **piped,
        )

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run a command; returns what it wrote to stdout, and after a failure what it wrote to stderr."""
        process = self.start(*arguments)
        output, self.errors = process.communicate(timeout=LIMIT)
        assert process.returncode == code, self.errors
        assert "Traceback" not in self.errors
        return self.errors if code else output

    def files(self) -> list[str]:
        root = self.models_dir / "models"
        return sorted(file.name for file in root.rglob("*") if file.is_file())


@pytest.fixture
def lllms(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_pull_several_then_list_run_and_remove(lllms, site):
    """Two models are pulled at once, listed with what they are, run, verified, and deleted one by one."""
    tiny, other = f"{site.url}/tiny.gguf", f"{site.url}/other.gguf"
    output = lllms("pull", tiny, other)
    assert {line.split(", ")[0].split(": ")[0] for line in output.splitlines()} == {tiny, other}
    assert lllms.files() == ["other.gguf", "tiny.gguf"]
    listed = {one["name"]: one for one in json.loads(lllms("ls", "--json"))}
    assert listed[tiny]["quantisation"] == "Q8_0"
    assert listed[tiny]["engine"] == "llamacpp"
    assert listed[tiny]["size"] == len(DATA)
    assert time.time() - listed[tiny]["last_used"] < LIMIT
    assert lllms("run", listed[tiny]["path"], "Count to 3.", "--temperature", "0").strip()
    assert sha256(DATA) in lllms("verify", tiny)
    asked = len(site.requests)
    lllms("pull", tiny)
    assert len(site.requests) == asked, "what is here is not asked for again"
    assert "-y" in lllms("rm", tiny, code=1)
    assert lllms.files() == ["other.gguf", "tiny.gguf"]
    assert "1.5 MB" in lllms("rm", "-y", tiny)
    assert lllms.files() == ["other.gguf"]
    assert "lllms gc" in lllms("rm", "-y", tiny, code=1)
    assert lllms("gc", "-y") == "nothing to delete\n"


def test_one_failure_does_not_stop_the_others(lllms, site):
    """A source that is not there is named, with exit code 1; the other one is fetched."""
    errors = lllms("pull", f"{site.url}/gone.gguf", f"{site.url}/tiny.gguf", code=1)
    assert f"Error: {site.url}/gone.gguf" in errors
    assert lllms.files() == ["tiny.gguf"]


def test_ctrl_c_keeps_what_has_arrived(lllms, site):
    """After Ctrl-C a pull ends soon and says so; the next one goes on where it was."""
    site.faults.append(hang(400_000))
    source = f"{site.url}/tiny.gguf"
    process = lllms.start("pull", source)
    assert process.stderr is not None
    while " 2" not in process.stderr.readline():  # 400 kB are 26 %
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "what has arrived is kept" in errors
    assert "Traceback" not in errors
    assert "tiny.gguf.lllms-part" in lllms.files()
    lllms("pull", source)
    assert any(asked and not asked.startswith("bytes=0-") for _, asked in site.requests), "it went on from there"
    assert lllms.files() == ["tiny.gguf"]


def test_gc_deletes_unfinished_downloads(lllms, site):
    """What is left of a download that was given up is listed and deleted; what is whole stays."""
    lllms("pull", f"{site.url}/other.gguf")
    site.faults.append(hang(400_000))
    process = lllms.start("pull", f"{site.url}/tiny.gguf")
    assert process.stderr is not None
    while " 2" not in process.stderr.readline():
        assert process.poll() is None
    assert lllms("gc", "-y").endswith("freed 0 bytes\n")
    assert "being fetched now" in lllms.errors
    process.kill()
    process.communicate()
    assert "(unfinished)" in lllms("gc", "-y")
    assert lllms.files() == ["other.gguf"]


def test_verify_finds_what_has_changed(lllms, site):
    """A file that was changed since it was fetched is named, with exit code 1; pulling it again mends it."""
    lllms("pull", f"{site.url}/tiny.gguf", f"{site.url}/other.gguf")
    [file] = lllms.models_dir.rglob("tiny.gguf")
    broken = bytearray(DATA)
    broken[-1] ^= 1
    file.write_bytes(broken)
    errors = lllms("verify", code=1)
    assert str(file) in errors
    assert f"Error: {site.url}/other.gguf" not in errors
    lllms("pull", f"{site.url}/tiny.gguf")
    assert file.read_bytes() == DATA
    assert lllms("verify").count("is whole") == 3, "tiny-chat is verified, too"


def test_files_of_others_are_never_deleted(lllms, site):
    """`rm` refuses what a configured model uses, and files that were not fetched; `gc` leaves them, too."""
    source = f"{site.url}/tiny.gguf"
    lllms("pull", source)
    [file] = lllms.models_dir.rglob("tiny.gguf")
    (lllms.folder / "lllms.toml").write_text(f'[models.mine]\nengine = "llamacpp"\nfile = "{file}"\n')
    assert "models.mine" in lllms("rm", "-y", source, code=1)
    assert "yourself" in lllms("rm", "-y", "mine", code=1)
    for record in (lllms.models_dir / "records" / "sources").iterdir():
        record.unlink()
    stray = file.with_name("stray.gguf")
    stray.write_bytes(DATA)
    assert "stray.gguf" in lllms("gc", "-y")
    assert lllms.files() == ["tiny.gguf"]


def test_configured_models_by_their_names(lllms, site):
    """`pull`, `ls`, `show`, `verify` and `rm` take a model by its name or alias, and hold it to its SHA-256."""
    source = f"{site.url}/tiny.gguf"
    config = lllms.folder / "lllms.toml"
    text = f'[models.mine]\nengine = "llamacpp"\nurl = "{source}"\naliases = ["m"]\nsha256 = "%s"\n'
    config.write_text(text % sha256(b"something else"))
    assert sha256(DATA) in lllms("pull", code=1)
    config.write_text(text % sha256(DATA))
    assert "lllms pull" in lllms("show", "m", code=1)
    [listed] = json.loads(lllms("ls", "--json"))
    assert (listed["name"], listed["source"], listed["on_disk"]) == ("mine", source, False)
    assert lllms("pull").startswith("mine: ")
    [listed] = json.loads(lllms("ls", "--json"))
    assert (listed["on_disk"], listed["quantisation"]) == (True, "Q8_0")
    assert json.loads(lllms("show", "m", "--json"))["source"] == source
    assert "source: " in lllms("show", source)
    assert "is whole" in lllms("verify", "m")
    assert "lllms rm mine" in lllms("rm", "-y", source, code=1)
    lllms("rm", "-y", "m")
    assert lllms.files() == []


def test_mistakes_are_told_with_the_way_out(lllms, site):
    """Names that mean nothing, sources that nobody fetches, models without files: each is one clear line."""
    assert "did you mean 'tiny-chat'" in lllms("pull", "tiny-cat", code=1)
    assert "no downloader for 'gopher:'" in lllms("pull", "gopher://x/y.gguf", code=1)
    assert "needs no file" in lllms("pull", "mock")
    assert "has no file" in lllms("rm", "-y", "mock", code=1)
    assert "lllms pull" in lllms("verify", f"{site.url}/tiny.gguf", code=1)
    site.faults.append(instead(200, {"Content-Type": "text/html"}, b"<html>log in first</html>"))
    assert "Error: " in lllms("pull", f"{site.url}/tiny.gguf", code=1)
    assert lllms.files() == []


def test_a_terminal_gets_bars_and_a_question(lllms, site):
    """In a terminal a pull draws a bar; `rm` asks, and no means no."""
    source = f"{site.url}/tiny.gguf"
    shown = in_terminal(lllms, "pull", source)
    assert "━" in shown
    assert "Delete them? [y/N]" in in_terminal(lllms, "rm", source, answer="n\n")
    assert lllms.files() == ["tiny.gguf"]
    in_terminal(lllms, "rm", source, answer="y\n")
    assert lllms.files() == []


def in_terminal(lllms: Program, *arguments: str, answer: str = "") -> str:
    """Run a command in a terminal, and return what it shows."""
    ours, theirs = pty.openpty()
    process = lllms.start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], LIMIT)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # that is how a terminal ends when nobody writes to it any more
            break
        if answer and b"?" in shown:
            os.write(ours, answer.encode())
            answer = ""
    process.wait(LIMIT)
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize(("status", "text"), [
    (DownloadStatus("s", "starting", "", "", 0, 0, None, 0.0, None), "starting"),
    (DownloadStatus("s", "waiting", "f", "", 0, 0, 5, 0.0, None), "waiting: another process fetches it"),
    (DownloadStatus("s", "downloading", "f", "", 500, 0, None, 0.0, None), "500 bytes"),
    (DownloadStatus("s", "downloading", "f", "", 10**9, 0, 4 * 10**9, 10**7, 300.0),
     "1.0 GB of 4.0 GB, 10.0 MB/s, 5 min 0 s left"),
    (DownloadStatus("s", "verifying", "f", "", 0, 2 * 10**9, 4 * 10**9, 10**9, 2.0),
     "verified 2.0 GB of 4.0 GB, 1.0 GB/s, 2 s left"),
])
def test_progress_in_words(status, text):
    """Progress is told with size, share, speed and time left, as far as they are known."""
    assert progress_text(status) == text
