"""Progress of running downloads: on a terminal, in a pipe, by `serve`, and by `ps`."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from programs_for_tests import Program, Terminal, address, serving
from servers_for_tests import Site, hang, instead, served
from stores_for_tests import TINY
from waits_for_tests import GUARD

from lllms_core.status import DownloadStatus, progress_text

pytestmark = pytest.mark.slow

DATA = TINY.read_bytes()
HALFWAY = r"400\.0 kB of 1\.5 MB, \d+(\.\d [kM]B| bytes)/s, (\d+ min )?\d+ s left"


@pytest.fixture
def site() -> Iterator[Site]:
    with served({"/tiny.gguf": DATA, "/a/name-that-is-too-long-for-a-line.gguf": DATA}) as site:
        yield site


@pytest.fixture
def lllms(tmp_path: Path) -> Program:
    return Program(tmp_path)


def configured(lllms: Program, site: Site, **more: str) -> None:
    keys = {"engine": "llamacpp", "url": f"{site.url}/tiny.gguf", **more}
    lines = [f'{key} = "{value}"\n' for key, value in keys.items()]
    (lllms.folder / "lllms.toml").write_text("".join(["[models.mine]\n", *lines]))


def test_a_terminal_gets_bars(lllms, site):
    """On a terminal each pull has a line with the end of its name, a bar, size, speed and time left."""
    site.faults = [hang(400_000), hang(400_000)]
    sources = [f"{site.url}/tiny.gguf", f"{site.url}/a/name-that-is-too-long-for-a-line.gguf"]
    terminal = Terminal()
    with terminal.program("pull", *sources, folder=lllms.folder, environ=lllms.environ, term="xterm") as process:
        wanted = [rf"…\S+{end}\.gguf [━╸╺]+ {HALFWAY}" for end in ("/tiny", "-too-long-for-a-line")]
        shown = ""
        for _ in range(100):  # each may be redrawn many times before the other gets that far
            shown += terminal.until("left")
            if all(any(re.fullmatch(one, line) for line in lines_of(shown)) for one in wanted):
                break
        lines = lines_of(shown)
        for one in wanted:
            assert any(re.fullmatch(one, line) for line in lines), shown
        assert all(len(line) <= 80 for line in lines)
        site.release.set()
        lines = lines_of(terminal.rest())
        assert process.wait(GUARD) == 0
    for source in sources:
        assert any(re.fullmatch(rf"{source}: /.*\.gguf, 1\.5 MB", line) for line in lines), "what stays is not cut"


def lines_of(shown: str) -> list[str]:
    """The lines shown on a terminal, without colours."""
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip() for line in re.split("[\r\n]+", shown)]


def test_a_pipe_gets_plain_lines(lllms, site):
    """Without a terminal, a line reports each tenth of the progress; only the results go to stdout."""
    site.faults = [hang(400_000)]
    source = f"{site.url}/tiny.gguf"
    process = lllms.start("pull", source)
    assert process.stderr is not None
    line = ""
    while " 26%" not in line:
        line = process.stderr.readline()
        assert line
    assert re.fullmatch(rf"{source}: 26%, {HALFWAY}\n", line)
    site.release.set()
    output, errors = process.communicate(timeout=GUARD)
    assert re.fullmatch(rf"{source}: /.*/tiny\.gguf, 1\.5 MB\n", output)
    assert "\x1b" not in line + errors + output


@pytest.mark.parametrize("terminal", [True, False])
def test_serve_shows_what_it_waits_for(lllms, site, terminal):
    """With `prepare = "blocking"` the server shows its download, and says that it listens once the model is here."""
    configured(lllms, site, prepare="blocking")
    site.faults = [hang(400_000)]
    if terminal:
        shows = Terminal()
        with shows.program("serve", "--port", "0", folder=lllms.folder, environ=lllms.environ, term="xterm"):
            shown = shows.until("400.0 kB of 1.5 MB") + shows.until("left")
            assert re.search(HALFWAY, shown)
            assert "━" in shown
            assert "listening" not in shown
            site.release.set()
            shows.until("listening on")
        return
    threading.Thread(target=lambda: (site.reached.wait(GUARD), site.release.set())).start()
    with serving(lllms.folder, environ=lllms.environ) as (_, printed):
        models = httpx.get(f"{address(printed)}/").json()["models"]
    assert [model["on_disk"] for model in models] == [True]


def test_ps_shows_downloads(lllms, site):
    """`ps` shows each download's models, source, bytes, speed and time left, and why a failed one failed."""
    configured(lllms, site, prepare="async")
    site.faults = [hang(400_000), *[hang(0)] * 9]  # after half a minute of silence it is asked again
    with serving(lllms.folder, environ=lllms.environ) as (_, printed):
        url = address(printed)
        assert site.reached.wait(GUARD)
        while (told := httpx.get(url).json()["downloads"][0])["done_bytes"] < 400_000:
            assert told["state"] in {"starting", "downloading"}
        lines = lllms.here("ps", "--url", url).splitlines()
        assert "model mine: engine llamacpp, 0 of 1 instances" in lines
        assert re.fullmatch(rf"download mine from {site.url}/tiny\.gguf: {HALFWAY}", lines[-1])
        [told] = json.loads(lllms.here("ps", "--url", url, "--json"))["downloads"]
        assert (told["state"], told["done_bytes"], told["total_bytes"]) == ("downloading", 400_000, len(DATA))
        assert told["bytes_per_second"] > 0
        assert told["seconds_left"] > 0
        site.faults = [instead(404)] * 9
        site.release.set()
        while httpx.get(url).json()["downloads"][0]["state"] != "failed":
            assert site.requests
        last = lllms.here("ps", "--url", url).splitlines()[-1]
        assert last.startswith(f"download mine from {site.url}/tiny.gguf: failed: ")
        assert "404" in last


@pytest.mark.parametrize(("status", "text"), [
    (DownloadStatus("1", "s", "starting", "", "", 0, 0, None, 0.0, None), "starting"),
    (DownloadStatus("1", "s", "waiting", "f", "", 0, 0, 5, 0.0, None), "waiting: another process is fetching it"),
    (DownloadStatus("1", "s", "downloading", "f", "", 500, 0, None, 0.0, None), "500 bytes"),
    (DownloadStatus("1", "s", "downloading", "f", "", 10**9, 0, 4 * 10**9, 10**7, 300.0),
     "1.0 GB of 4.0 GB, 10.0 MB/s, 5 min 0 s left"),
    (DownloadStatus("1", "s", "downloading", "f", "", 399, 0, 400, 10**9, 1e-9),
     "399 bytes of 400 bytes, 1.0 GB/s, 1 s left"),
    (DownloadStatus("1", "s", "verifying", "f", "", 0, 2 * 10**9, 4 * 10**9, 10**9, 2.0),
     "verified 2.0 GB of 4.0 GB, 1.0 GB/s, 2 s left"),
])
def test_progress_in_words(status, text):
    """Progress is shown with size, share, speed and time left, as far as they are known."""
    assert progress_text(status) == text
