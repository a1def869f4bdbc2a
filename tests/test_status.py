import re
from typing import Any

import pytest

from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.status import DownloadStatus, Waiting
from lllms_core.types import Message

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
SECRET = "the moon is made of cheese"
DOWNLOAD = DownloadStatus(
    id="1", source="hf:x/y", state="downloading", file="x", note="", done=350, checked=0, total=1000, speed=0,
    seconds_left=None,
)
NASTY = "<script>alert(1)</script>"


def make_host() -> Host:
    lines = [{"replies": [f"no, {SECRET}"]}]
    tell = {"engine": "mock", "aliases": ["story"], "options": {"script": lines}}
    models = {"tell": tell, "other": {"engine": "mock"}}
    return Host(parse_config({"server": {"concurrency": 3, "queue_size": 9}, "models": models}))


async def get(host: Host, path: str, accept: str = "*/*") -> Any:
    return await create_app(host).test_client().get(path, headers={"Accept": accept})


async def chat(host: Host) -> None:
    async with host.submit(host.request("tell", messages=[Message("user", SECRET)])) as stream:
        await stream.gather()


async def test_json_tells_models_instances_and_queue() -> None:
    """Programs can read which models exist, which are loaded and what is running."""
    async with make_host() as host:
        await chat(host)
        report = await (await get(host, "/", "application/json")).get_json()
    assert report["status"] == "ok"
    assert report["requests"] == {"running": 0, "waiting": 0, "concurrency": 3, "queue_size": 9}
    assert [(model["name"], model["aliases"], model["engine"], model["instances"]) for model in report["models"]] == [
        ("tell", ["story"], "mock", 1), ("other", [], "mock", 0),
    ]
    (instance,) = report["instances"]
    assert instance["id"].startswith("tell:")
    assert (instance["state"], instance["running"], instance["slots"], instance["pid"]) == ("ready", 0, 4, None)


@pytest.mark.parametrize("accept", ["application/json", BROWSER])
async def test_nobodys_text_is_shown(accept: str) -> None:
    """The status reveals neither prompts nor answers."""
    async with make_host() as host:
        await chat(host)
        assert SECRET not in (await (await get(host, "/", accept)).get_data()).decode()


async def test_browsers_get_a_page() -> None:
    """A client that prefers HTML gets it, with nothing inline or from elsewhere; all others get JSON."""
    async with make_host() as host:
        await chat(host)
        page = await get(host, "/", BROWSER)
        text = (await page.get_data()).decode()
        assert page.mimetype == "text/html"
        assert "tell" in text
        assert 'http-equiv="refresh"' in text
        found = re.findall(r"""(?:src|href)=["']?([^"'>]+)""", text)
        assert {one for one in found if one[0] != "#" and not one.startswith("data:")} == {
            "api/v1/status/page.js", "api/v1/status/page.css",
        }
        assert not re.search(r"<style|<script>|\son[a-z]+=|\sstyle=|javascript:", text)
        rules = dict(rule.strip().split(" ", 1) for rule in page.headers["Content-Security-Policy"].split(";"))
        assert (rules["default-src"], rules["script-src"], rules["style-src"]) == ("'none'", "'self'", "'self'")
        assert (rules["frame-ancestors"], rules["form-action"], rules["base-uri"]) == ("'none'",) * 3
        assert rules["require-trusted-types-for"] == "'script'"
        for accept in ("*/*", "application/json", "application/json, text/html;q=0.5"):
            assert (await get(host, "/", accept)).mimetype == "application/json"


async def test_what_plugins_and_files_say_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A description cannot inject markup into the page."""
    from attrs import evolve

    async with make_host() as host:
        entries = tuple(evolve(entry, description=NASTY, aliases=(NASTY,)) for entry in host.catalog.entries)
        monkeypatch.setattr(host.catalog, "entries", entries)
        text = (await (await get(host, "/", BROWSER)).get_data()).decode()
    assert NASTY not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(("waiting", "text"), [
    (Waiting("queued", 3), "queued 3"),
    (Waiting("queued", 3, reason="all are busy"), "queued 3, all are busy"),
    (Waiting("memory", 1, reason="it needs 5 GB"), "queued 1, waits for memory: it needs 5 GB"),
    (Waiting("loading", 1, 0.409), "loading 40 %"),
    (Waiting("loading", 1), "loading"),
    (Waiting("downloading", 2), "downloading"),
    (Waiting("downloading", 2, 0.35, download=DOWNLOAD), "downloading 35 %: 350 bytes of 1.0 kB"),
    (Waiting("prompt", progress=0.6), "reading the prompt 60 %"),
    (Waiting("prompt", progress=0.999), "reading the prompt 99 %"),
    (Waiting("prompt", progress=0.0), "reading the prompt 0 %"),
    (Waiting("prompt"), "reading the prompt"),
])
def test_what_is_waited_for_is_a_few_words(waiting: Waiting, text: str) -> None:
    """The text says the state, with the position or the progress if known; 100 % is said only when all is done."""
    assert str(waiting) == text


async def test_health_follows_the_host() -> None:
    """It is 200 while requests are accepted, and 503 before and after."""
    host = make_host()
    answers = [await get(host, "/health")]
    async with host:
        answers.append(await get(host, "/health"))
    answers.append(await get(host, "/health"))
    assert [answer.status_code for answer in answers] == [503, 200, 503]
    assert [(await answer.get_json())["status"] for answer in answers] == ["unavailable", "ok", "unavailable"]
