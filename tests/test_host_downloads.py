"""Hosts whose models must be downloaded: when that happens, who waits, and what follows a failure."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from engines_for_tests import ScriptedEngine
from servers_for_tests import Site, drop, hang, instead, served
from waits_for_tests import GUARD, until

from lllms_core.app import create_app
from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.builtin.downloaders.retry_policy import RetryPolicy
from lllms_core.builtin.openai import OpenAiApi
from lllms_core.cli.startup import started
from lllms_core.config import parse_config
from lllms_core.errors import (
    ConfigError,
    DownloadError,
    InvalidRequest,
    InvalidSource,
    LllmsError,
    ModelUnknown,
    Offline,
    WaitedTooLong,
)
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host, pulls
from lllms_core.plugins import Plugins
from lllms_core.store import fetcher

DATA = b"weights" * 10_000
QUICK = RetryPolicy(connect=5, stall=20, pause=0.001, longest_pause=0.002)


class QuickHttp(HttpDownloader):
    """Gives up sooner."""

    name = "quick"
    schemes = frozenset({"quick+http"})

    def resolve(self, source: str) -> Any:
        return super().resolve(source.removeprefix("quick+"))


class FileEngine(ScriptedEngine):
    """Loads the weights of this file, without being configured for it."""

    file_suffixes = (".bin",)
    isolation = "thread"


@hookimpl
def lllms_engines() -> list[ScriptedEngine]:
    return [FileEngine()]


@hookimpl
def lllms_downloaders() -> list[HttpDownloader]:
    return [QuickHttp(QUICK)]


@pytest.fixture
def site() -> Iterator[Site]:
    """Serves weights."""
    with served({"/x.bin": DATA}) as one:
        yield one


def make_host(tmp_path: Path, server: dict[str, object] | None = None, **models: dict[str, object]) -> Host:
    plugin = SimpleNamespace(lllms_engines=lllms_engines, lllms_downloaders=lllms_downloaders)
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra={"tests": plugin})
    config = parse_config({"server": {"models_dir": str(tmp_path), **(server or {})}, "models": models})
    return Host(config, plugins)


def model(site: Site, path: str = "/x.bin", **more: object) -> dict[str, object]:
    return {"engine": "scripted", "isolation": "thread", "url": f"quick+{site.url}{path}", **more}


async def answer(host: Host, name: str = "m") -> str:
    return (await host.submit(host.request(name, prompt="echo hello")).gather()).text


async def reached(site: Site) -> None:
    assert await asyncio.to_thread(site.reached.wait, GUARD)


async def test_the_first_request_fetches(site: Site, tmp_path: Path) -> None:
    """On demand, nothing is downloaded before the first request; then all requests wait for the one download."""
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host:
        assert site.requests == []
        assert not host.model("m").here
        before = host.model("m").fingerprint
        assert await asyncio.gather(*[answer(host) for _ in range(5)]) == ["hello"] * 5
        assert len(site.requests) == 1
        path = host.catalog.get("m").spec.file
        assert path is not None
        assert path.read_bytes() == DATA
        assert host.model("m").fingerprint != before
        assert host.downloads() == ()
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host:
        assert host.model("m").here
        assert await answer(host) == "hello"
    assert len(site.requests) == 1


async def test_a_download_takes_nobody_elses_place(site: Site, tmp_path: Path) -> None:
    """While a model is downloaded its requests wait, with their position and its progress; other models answer."""
    site.faults = [hang(30_000)]
    other = {"engine": "scripted", "isolation": "thread"}
    async with asyncio.timeout(GUARD), make_host(tmp_path, {"max_instances": 1}, m=model(site), other=other) as host:
        request = host.request("m", prompt="echo hello")
        stream = host.submit(request)
        await reached(site)
        assert await answer(host, "other") == "hello"
        await until(lambda: host.downloads()[0].done)
        status = host.downloads()[0]
        assert (status.state, status.done, status.total) == ("downloading", 30_000, len(DATA))
        waiting = host.waiting(request)
        assert waiting is not None
        assert waiting.position == 1
        assert waiting.download is not None
        site.release.set()
        assert (await stream.gather()).text == "hello"
        assert host.waiting(request) is None


@pytest.mark.parametrize("more", [{"prepare": "blocking"}, {"min_instances": 1}])
async def test_blocking_waits_for_the_files(site: Site, tmp_path: Path, more: dict[str, object]) -> None:
    """With `blocking`, and for preloaded instances, the host is ready when the files have arrived."""
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site, **more)) as host:
        assert host.model("m").here
        assert len(host.status().instances) == more.get("min_instances", 0)


async def test_async_fetches_meanwhile(site: Site, tmp_path: Path) -> None:
    """With `async`, the download begins with the host, which is ready before it ends."""
    site.faults = [hang(30_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site, prepare="async")) as host:
        assert host.ready
        await reached(site)
        assert not host.model("m").here
        site.release.set()
        await until(lambda: host.model("m").here)


@pytest.mark.parametrize("prepare", ["on-demand", "blocking", "async"])
async def test_a_failure_is_told_and_not_for_ever(site: Site, tmp_path: Path, prepare: str) -> None:
    """A failed download refuses the waiting requests, pauses, and is retried by a later request."""
    site.faults = [instead(404)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site, prepare=prepare)) as host:
        now = 1000.0
        host.fetcher._clock = lambda: now
        with pytest.raises(InvalidSource, match="there is no such file") as caught:
            await answer(host)
        assert caught.value.retry_after == 5 or prepare != "on-demand"
        [status] = host.downloads()
        assert (status.state, "404" in status.note) == ("failed", True)
        asked = len(site.requests)
        if prepare == "on-demand":
            with pytest.raises(InvalidSource):
                await answer(host)
            assert len(site.requests) == asked
        now = 1e9
        assert await answer(host) == "hello"
        assert host.downloads() == ()


async def test_failures_are_bounded(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever sources clients name, the last failures are remembered, and nothing of the download but its error."""
    monkeypatch.setattr(fetcher, "MOST_FAILURES", 3)
    site.faults = [instead(404)] * 9
    async with asyncio.timeout(GUARD), make_host(tmp_path) as host:
        for number in range(5):
            with pytest.raises(DownloadError):
                await host.fetcher.get(f"quick+{site.url}/{number}")
        assert [one.source.rpartition("/")[2] for one in host.downloads()] == ["2", "3", "4"]
        for failure in host.fetcher._failures.values():
            assert (failure.error.__traceback__, failure.error.__context__) == (None, None)


async def test_pauses_grow(site: Site, tmp_path: Path) -> None:
    """Each further failure in a row doubles the pause, up to a minute."""
    site.faults = [instead(404)] * 9
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host:
        now = 0.0
        host.fetcher._clock = lambda: now
        pauses = []
        for _ in range(6):
            with pytest.raises(DownloadError) as caught:
                await answer(host)
            pauses.append(caught.value.retry_after)
            now += 1000
        assert pauses == [5, 10, 20, 40, 60, 60]


async def test_a_client_that_leaves_does_not_end_a_download(site: Site, tmp_path: Path) -> None:
    """A download continues after its client has gone, and serves the next one."""
    site.faults = [hang(30_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host:
        stream = host.submit(host.request("m", prompt="echo hello"))
        await reached(site)
        await stream.aclose()
        site.release.set()
        await until(lambda: host.model("m").here)


async def test_closing_ends_downloads(site: Site, tmp_path: Path) -> None:
    """A host that closes ends its downloads at once, and keeps the bytes received for the next one."""
    site.faults = [hang(30_000)]
    async with asyncio.timeout(GUARD):
        async with make_host(tmp_path, m=model(site)) as host:
            stream = host.submit(host.request("m", prompt="echo hello"))
            await reached(site)
            await until(lambda: host.downloads()[0].done)
        with pytest.raises(LllmsError):
            await stream.gather()
        site.requests.clear()
        async with make_host(tmp_path, m=model(site)) as host:
            assert await answer(host) == "hello"
    assert [part for _, part in site.requests] == [f"bytes=30000-{len(DATA) - 1}"]


async def test_waiting_has_an_end(site: Site, tmp_path: Path) -> None:
    """A request waits for a download no longer than `queue_timeout`; the message says that the download continues."""
    site.faults = [hang(30_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, {"queue_timeout": 0.05}, m=model(site)) as host:
        with pytest.raises(WaitedTooLong, match="its files are still being fetched"):
            await answer(host)


async def test_a_deleted_file_is_fetched_again(site: Site, tmp_path: Path) -> None:
    """A model whose file was deleted while the server ran is downloaded again at its next load."""
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site, ttl=0)) as host:
        assert await answer(host) == "hello"
        await until(lambda: not host.status().instances)
        host.store.delete(f"quick+{site.url}/x.bin")
        assert await answer(host) == "hello"
    assert len(site.requests) == 2


@pytest.mark.parametrize("prepare", ["on-demand", "blocking"])
async def test_what_was_chosen_is_told(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str], prepare: str,
) -> None:
    """How a source was interpreted is in the log and on the waiting user's terminal, however fast the download was."""
    resolve = QuickHttp.resolve
    monkeypatch.setattr(QuickHttp, "resolve", lambda *given: evolve(resolve(*given), note="Q2_K, the nearest"))
    caplog.set_level("INFO", "lllms.store")
    host = make_host(tmp_path, m=model(site, prepare=prepare))
    async with asyncio.timeout(GUARD):
        await started(host)
        assert await answer(host) == "hello"
        await host.close()
    source = f"quick+{site.url}/x.bin"
    assert f"{source} is now on this disk: Q2_K, the nearest" in caplog.messages
    assert capsys.readouterr().err == (f"{source}: Q2_K, the nearest\n" if prepare == "blocking" else "")


async def test_two_models_of_one_file(site: Site, tmp_path: Path) -> None:
    """Models that share a source share its download."""
    site.faults = [drop(1000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, a=model(site), b=model(site)) as host:
        assert await asyncio.gather(answer(host, "a"), answer(host, "b")) == ["hello"] * 2
    assert len(site.requests) == 2


async def test_offline_is_an_error_at_once(site: Site, tmp_path: Path) -> None:
    """In offline mode a model that is not on disk refuses its requests, and no server is contacted."""
    async with asyncio.timeout(GUARD), make_host(tmp_path, {"offline": True}, m=model(site)) as host:
        with pytest.raises(Offline):
            await answer(host)
    assert site.requests == []


def test_a_source_without_downloader(tmp_path: Path) -> None:
    """A source that no plugin handles is a fault of the configuration, reported by its path."""
    with pytest.raises(ConfigError, match=r"models\.m\.url: no downloader for 'ftp:'"):
        make_host(tmp_path, m={"engine": "scripted", "url": "ftp://x/y"})


async def test_streams_tell_what_they_wait_for(site: Site, tmp_path: Path) -> None:
    """A streamed answer that waits for a download says so in comments; the status shows it in JSON and HTML."""
    site.faults = [hang(35_000)]
    host = make_host(tmp_path, m=model(site))
    api = host.plugins.apis["openai"].object
    assert isinstance(api, OpenAiApi)
    api.patience = api.interval = 0.01
    client = create_app(host).test_client()
    body = {"model": "m", "prompt": "echo hello", "stream": True}
    async with asyncio.timeout(GUARD), host:
        async with client.request(
            "/v1/completions", method="POST", headers={"Content-Type": "application/json"},
        ) as connection:
            await connection.send(json.dumps(body).encode())
            await connection.send_complete()
            heard = ""
            while "35.0 kB of 70.0 kB" not in heard:
                heard = (await connection.receive()).decode()
            assert heard.startswith(": downloading 50 %: 35.0 kB of 70.0 kB")
            [told] = (await (await client.get("/")).get_json())["downloads"]
            assert (told["models"], told["state"], told["done_bytes"]) == (["m"], "downloading", 35_000)
            assert "35.0 kB of 70.0 kB" in await (
                await client.get("/", headers={"Accept": "text/html"})
            ).get_data(as_text=True)
            site.release.set()
            while "[DONE]" not in heard:
                heard += (await connection.receive()).decode()
        [one] = (await (await client.get("/")).get_json())["models"]
        assert one["on_disk"]


async def test_a_download_ends_with_its_last_watcher(site: Site, tmp_path: Path) -> None:
    """If one of two clients that pull a model leaves, the download goes on; if the last one leaves, it is cancelled."""
    site.faults = [hang(20_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host:
        first, second = (asyncio.create_task(host.pull("m")) for _ in range(2))
        await reached(site)
        first.cancel()
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError)
        assert [one.state for one in host.downloads()] == ["downloading"]
        second.cancel()
        await until(lambda: host.downloads() == ())
        assert len(site.requests) == 1, "it was tried again, and so not cancelled"
        site.release.set()
        assert (await host.pull("m")).here
        assert site.requests[-1][1] is not None  # the rest was asked for
        assert await answer(host) == "hello"


async def test_a_request_keeps_the_download_of_a_pull(site: Site, tmp_path: Path) -> None:
    """A client that pulls a model, and leaves, does not end the download that another client's request waits for."""
    site.faults = [hang(20_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host:
        pulling = asyncio.create_task(host.pull("m"))
        await reached(site)
        waiting = asyncio.create_task(answer(host))
        await until(lambda: host.status().waiting == 1)
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)
        site.release.set()
        assert await waiting == "hello"


async def test_a_pulled_model_joins_those_that_are_served(site: Site, tmp_path: Path) -> None:
    """A model that is fetched from a new source is served by its name and its source's other names, also next time."""
    source = f"quick+{site.url}/x.bin"
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site, "/other.bin")) as host:
        card = await host.pull("new/one", source)
        assert (card.name, card.here, card.engine) == ("new/one", True, "scripted")
        assert await answer(host, "new/one") == "hello"
        again = await host.pull("new/two", source)
        assert (again.name, again.aliases) == ("new/one", ("new/two",))
        assert await answer(host, "new/two") == "hello"
        assert len(site.requests) == 1
        with pytest.raises(InvalidRequest, match="is not a name"):
            await host.pull("a b", source)
        with pytest.raises(ModelUnknown):
            await host.pull("unknown")
    host = make_host(tmp_path, m=model(site, "/other.bin"))
    assert {name for card in host.models() for name in (card.name, *card.aliases)} == {"m", "new/one", "new/two"}
    assert [card.name for card in make_host(tmp_path, {"pull": False}, m=model(site, "/other.bin")).models()] == ["m"]


async def test_clients_add_no_more_names_than_fit(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of names that clients add is limited; the known ones can be pulled again."""
    monkeypatch.setattr(pulls, "MOST", 1)
    source = f"quick+{site.url}/x.bin"
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site, "/other.bin")) as host:
        await host.pull("one", source)
        with pytest.raises(InvalidRequest, match="already added 1 names"):
            await host.pull("two", source)
        assert (await host.pull("one", source)).name == "one"


# -- a new configuration ---------------------------------------------------------------------------------------------


def reloading(host: Host, server: dict[str, object], **models: dict[str, object]) -> Host:
    """Let a host read this configuration the next time."""
    host.reloads._read = lambda: parse_config({"server": server, "models": models})
    return host


async def test_a_new_model_is_fetched_as_it_says(site: Site, tmp_path: Path) -> None:
    """With `prepare` its download begins with the reload, else with its first request."""
    place: dict[str, object] = {"models_dir": str(tmp_path)}
    site.files["/y.bin"] = DATA[:5000]
    async with asyncio.timeout(GUARD), make_host(tmp_path) as host:
        new = {"m": model(site, prepare="async"), "n": model(site, "/y.bin")}
        assert (await reloading(host, place, **new).reload()).added == ("m", "n")
        await until(lambda: host.model("m").here)
        assert [path for path, _ in site.requests] == ["/x.bin"]
        assert [await answer(host, name) for name in "mn"] == ["hello", "hello"]
        new["n"]["prepare"] = "async"
        assert (await reloading(host, place, **new).reload()).adjusted == ("n",)
        assert len(site.requests) == 2


async def test_a_removed_model_is_fetched_no_further(site: Site, tmp_path: Path) -> None:
    """Its download ends, and so does the one of a former source; requests take the new source."""
    place: dict[str, object] = {"models_dir": str(tmp_path)}
    site.files["/y.bin"] = DATA[:5000]
    site.faults = [hang(30_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host:
        stream = host.submit(host.request("m", prompt="echo hello"))
        await reached(site)
        assert (await reloading(host, place, m=model(site, "/y.bin")).reload()).replaced == ("m",)
        site.release.set()
        assert (await stream.gather()).text == "hello"
        file = host.catalog.get("m").spec.file
        assert file is not None
        assert file.read_bytes() == DATA[:5000]
        await until(lambda: not [one for one in host.downloads() if one.state != "failed"])
        assert not list(tmp_path.rglob("x.bin"))  # noqa: ASYNC240  # a test's own folder


async def test_pulled_models_stay(site: Site, tmp_path: Path) -> None:
    """Those of clients are served after a reload as after a restart, unless the configuration takes their names."""
    place: dict[str, object] = {"models_dir": str(tmp_path), "pull": True}
    site.files["/y.bin"] = DATA[:5000]
    async with asyncio.timeout(GUARD), make_host(tmp_path, place, m=model(site)) as host:
        await host.pull("mine", f"quick+{site.url}/y.bin")
        await host.pull("also", f"quick+{site.url}/x.bin")
        assert await answer(host, "mine") == "hello"
        before = [one.id for one in host.status().instances if one.model == "mine"]
        assert (await reloading(host, place, m=model(site, ttl=5)).reload()).lines == ["changed in place: m"]
        assert [one.id for one in host.status().instances if one.model == "mine"] == before
        assert {one.name: one.aliases for one in host.models()} == {"m": ("also",), "mine": ()}
        other = {"engine": "scripted", "isolation": "thread"}
        assert (await reloading(host, place, other=other).reload()).removed == ("m",)
        assert {one.name for one in host.models()} == {"other", "mine", "also"}
        assert await answer(host, "also") == "hello"
        assert (await reloading(host, place, mine=other).reload()).replaced == ("mine",)
        assert {one.name for one in host.models()} == {"mine", "also"}
        assert (await reloading(host, {**place, "pull": False}, m=model(site)).reload()).settings == ("server.pull",)
        assert {one.name for one in host.models()} == {"m"}
