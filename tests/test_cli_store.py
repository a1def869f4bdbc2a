"""`pull`, `verify`, `rm`, `gc` and `ls`, with a local web server; in real processes where it matters."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hubs_for_tests import hub
from programs_for_tests import Program, Terminal
from servers_for_tests import Site, hang, instead, served
from stores_for_tests import TINY, sha256
from waits_for_tests import GUARD

pytestmark = pytest.mark.slow

DATA = TINY.read_bytes()


@pytest.fixture
def site() -> Iterator[Site]:
    with served({"/tiny.gguf": DATA, "/other.gguf": DATA + bytes(100_000)}) as site:
        yield site


@pytest.fixture
def lllms(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_pull_several_then_list_run_and_remove(lllms, site):
    """Two models are pulled at once, listed with their details, run, verified, and deleted one by one."""
    tiny, other = f"{site.url}/tiny.gguf", f"{site.url}/other.gguf"
    output = lllms("pull", tiny, other)
    assert {line.split(", ")[0].split(": ")[0] for line in output.splitlines()} == {tiny, other}
    assert lllms.files() == ["other.gguf", "tiny.gguf"]
    listed = {one["name"]: one for one in json.loads(lllms("ls", "--json"))}
    assert listed[tiny]["quantisation"] == "Q8_0"
    assert listed[tiny]["engine"] == "llamacpp"
    assert listed[tiny]["size"] == len(DATA)
    assert time.time() - listed[tiny]["last_used"] < GUARD
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
    """A missing source is named, with exit code 1; the other one is fetched."""
    errors = lllms.here("pull", f"{site.url}/gone.gguf", f"{site.url}/tiny.gguf", code=1)
    assert f"Error: {site.url}/gone.gguf" in errors
    assert lllms.files() == ["tiny.gguf"]


def test_ctrl_c_keeps_what_has_arrived(lllms, site):
    """After Ctrl-C a pull ends soon and says so; the next one resumes it."""
    site.faults.append(hang(400_000))
    source = f"{site.url}/tiny.gguf"
    process = lllms.start("pull", source)
    assert process.stderr is not None
    while " 2" not in process.stderr.readline():  # 400 kB are 26 %
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=GUARD)
    assert process.returncode == 130
    assert "the bytes received are kept" in errors
    assert "Traceback" not in errors
    assert "tiny.gguf.lllms-part" in lllms.files()
    lllms.here("pull", source)
    assert any(asked and not asked.startswith("bytes=0-") for _, asked in site.requests), "it went on from there"
    assert lllms.files() == ["tiny.gguf"]


def test_gc_deletes_unfinished_downloads(lllms, site):
    """The rest of an abandoned download is listed and deleted; complete files stay."""
    lllms.here("pull", f"{site.url}/other.gguf")
    site.faults.append(hang(400_000))
    process = lllms.start("pull", f"{site.url}/tiny.gguf")
    assert process.stderr is not None
    while " 2" not in process.stderr.readline():
        assert process.poll() is None
    assert lllms.here("gc", "-y").endswith("freed 0 bytes\n")
    assert "being fetched now" in lllms.errors
    process.kill()
    process.communicate()
    assert "(unfinished)" in lllms.here("gc", "-y")
    assert lllms.files() == ["other.gguf"]


def test_verify_finds_what_has_changed(lllms, site):
    """A file that has changed since the download is named, with exit code 1; pulling it again repairs it."""
    lllms.here("pull", f"{site.url}/tiny.gguf", f"{site.url}/other.gguf")
    [file] = lllms.models_dir.rglob("tiny.gguf")
    broken = bytearray(DATA)
    broken[-1] ^= 1
    file.write_bytes(broken)
    errors = lllms.here("verify", code=1)
    assert str(file) in errors
    assert f"Error: {site.url}/other.gguf" not in errors
    lllms.here("pull", f"{site.url}/tiny.gguf")
    assert file.read_bytes() == DATA
    assert lllms.here("verify").count("is intact") == 3, "tiny-chat is verified, too"


def test_files_of_others_are_never_deleted(lllms, site):
    """`rm` refuses files of configured models, and files that were not fetched; `gc` leaves them, too."""
    source = f"{site.url}/tiny.gguf"
    lllms.here("pull", source)
    [file] = lllms.models_dir.rglob("tiny.gguf")
    (lllms.folder / "lllms.toml").write_text(f'[models.mine]\nengine = "llamacpp"\nfile = "{file}"\n')
    assert "models.mine" in lllms.here("rm", "-y", source, code=1)
    assert "yourself" in lllms.here("rm", "-y", "mine", code=1)
    for record in (lllms.models_dir / "records" / "sources").iterdir():
        record.unlink()
    stray = file.with_name("stray.gguf")
    stray.write_bytes(DATA)
    assert "stray.gguf" in lllms.here("gc", "-y")
    assert lllms.files() == ["tiny.gguf"]


def test_configured_models_by_their_names(lllms, site):
    """`pull`, `ls`, `show`, `verify` and `rm` accept a model's name or alias, and check its SHA-256."""
    source = f"{site.url}/tiny.gguf"
    config = lllms.folder / "lllms.toml"
    text = f'[models.mine]\nengine = "llamacpp"\nurl = "{source}"\naliases = ["m"]\nsha256 = "%s"\n'
    config.write_text(text % sha256(b"something else"))
    assert sha256(DATA) in lllms.here("pull", code=1)
    config.write_text(text % sha256(DATA))
    assert "lllms pull" in lllms.here("show", "m", code=1)
    [listed] = json.loads(lllms.here("ls", "--json"))
    assert (listed["name"], listed["source"], listed["on_disk"]) == ("mine", source, False)
    assert lllms.here("pull").startswith("mine: ")
    [listed] = json.loads(lllms.here("ls", "--json"))
    assert (listed["on_disk"], listed["quantisation"]) == (True, "Q8_0")
    assert json.loads(lllms.here("show", "m", "--json"))["source"] == source
    assert "source: " in lllms.here("show", source)
    assert "is intact" in lllms.here("verify", "m")
    assert "lllms rm mine" in lllms.here("rm", "-y", source, code=1)
    lllms.here("rm", "-y", "m")
    assert lllms.files() == []


def test_mistakes_are_told_with_the_way_out(lllms, site):
    """Unknown names, sources without a downloader, models without files: each gets one clear line."""
    assert "did you mean 'tiny-chat'" in lllms.here("pull", "tiny-cat", code=1)
    assert "no downloader for 'gopher:'" in lllms.here("pull", "gopher://x/y.gguf", code=1)
    assert "needs no file" in lllms.here("pull", "mock")
    assert "has no file" in lllms.here("rm", "-y", "mock", code=1)
    assert "lllms pull" in lllms.here("verify", f"{site.url}/tiny.gguf", code=1)
    site.faults.append(instead(200, {"Content-Type": "text/html"}, b"<html>log in first</html>"))
    assert "Error: " in lllms.here("pull", f"{site.url}/tiny.gguf", code=1)
    assert lllms.files() == []


def test_a_terminal_is_asked_first(lllms, site):
    """On a terminal `rm` asks first, and no means no."""
    source = f"{site.url}/tiny.gguf"
    lllms.here("pull", source)
    for answer, left in (("n", ["tiny.gguf"]), ("y", [])):
        terminal = Terminal()
        with terminal.program("rm", source, folder=lllms.folder, environ=lllms.environ):
            terminal.until("Delete them? [y/N]")
            terminal.type(f"{answer}\n")
            terminal.rest()
        assert lllms.files() == left


def test_models_of_plugins_beside_configured_ones(lllms, site):
    """A configuration hides no plugin's model from commands that take names, but its own models take precedence."""
    source = f"{site.url}/tiny.gguf"
    config = lllms.folder / "lllms.toml"
    config.write_text(f'[models.mine]\nengine = "llamacpp"\nurl = "{source}"\n')
    assert lllms.here("pull", "tiny-chat").startswith("tiny-chat: ")
    assert site.requests == []
    assert "is intact" in lllms.here("verify", "tiny-chat")
    assert "Tiny Chat" in lllms.here("show", "tiny-chat")
    assert "not fetched by lllms" in lllms.here("rm", "-y", "tiny-chat", code=1)
    assert TINY.exists()
    assert "did you mean 'tiny-chat'" in lllms.here("pull", "tiny-cat", code=1)
    assert [one["name"] for one in json.loads(lllms.here("ls", "--json"))] == ["mine"]
    assert lllms.here("pull").startswith("mine: ")
    assert lllms.here("verify").count("is intact") == 2
    config.write_text(f'[models.tiny-chat]\nengine = "llamacpp"\nurl = "{source}"\n')
    assert str(lllms.models_dir) in lllms.here("pull", "tiny-chat")
    lllms.here("rm", "-y", "tiny-chat")
    assert lllms.files() == []
    assert TINY.exists()


def test_one_model_of_the_hub_however_it_is_written(lllms):
    """A model configured by address is the one fetched by the short form: listed once; `rm` by source is refused."""
    with hub({"/org/tiny-GGUF/tiny-Q8_0.gguf": DATA}) as site:
        lllms.environ["HF_ENDPOINT"] = site.url
        (lllms.folder / "lllms.toml").write_text(
            f'[models.mine]\nengine = "llamacpp"\nurl = "{site.url}/org/tiny-GGUF/tree/main"\n',
        )
        lllms.here("pull", "hf:org/tiny-GGUF")
        [listed] = json.loads(lllms.here("ls", "--json"))
        assert (listed["name"], listed["source"], listed["on_disk"]) == ("mine", "hf:org/tiny-GGUF", True)
        refusal = lllms.here("rm", "-y", f"{site.url}/org/tiny-GGUF", code=1)
        assert "in use by models.mine; lllms rm mine deletes it" in refusal
        lllms.here("rm", "-y", "mine")
        assert lllms.files() == []


def test_ls_tells_of_sources_that_make_no_sense(lllms):
    """A configured source without a downloader is a warning of `ls`, and the other models are listed."""
    (lllms.folder / "lllms.toml").write_text(
        '[models.bad]\nengine = "llamacpp"\nurl = "gopher://x/y.gguf"\n[models.good]\nengine = "mock"\n',
    )
    output = lllms.here("ls")
    assert "Warning: models.bad.url: no downloader for 'gopher:'" in lllms.errors
    assert [line.split()[0] for line in output.splitlines()] == ["name", "bad", "good"]


def test_files_by_url_are_used_in_place(lllms):
    """`file:` URLs are used like paths: nothing is copied or recorded, and a missing file is told at once."""
    config = lllms.folder / "lllms.toml"
    config.write_text(f'[models.mine]\nengine = "llamacpp"\nurl = "{TINY.as_uri()}"\n')
    assert lllms.here("check").endswith("everything is fine\n")
    assert f"mine: {TINY}" in lllms.here("pull", "mine")
    [listed] = json.loads(lllms.here("ls", "--json"))
    assert (listed["path"], listed["on_disk"]) == (str(TINY), True)
    assert lllms.files() == []
    config.write_text(f'[models.mine]\nengine = "llamacpp"\nurl = "{TINY.with_name("gone.gguf").as_uri()}"\n')
    assert "models.mine.url: " in (told := lllms.here("check", code=1))
    assert "there is no file" in told
