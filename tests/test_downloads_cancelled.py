"""Cancelled downloads of a running server: over HTTP, and with `lllms cancel`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from servers_for_tests import Site, hang, instead, served
from serving_for_tests import published
from test_host_downloads import DATA, answer, make_host, model, reached
from waits_for_tests import GUARD, until

from lllms_core.app import create_app
from lllms_core.cli import cli
from lllms_core.errors import DownloadCancelled, InvalidSource
from lllms_core.store import fetcher


@pytest.fixture
def site() -> Iterator[Site]:
    """Serves weights."""
    with served({"/x.bin": DATA, "/y.bin": DATA}) as one:
        yield one


async def test_a_download_is_ended_over_http(site: Site, tmp_path: Path) -> None:
    """Waiting requests are refused at once, other downloads continue, and the next request resumes the download."""
    site.faults = [hang(30_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site), other=model(site, "/y.bin")) as host:
        client = create_app(host, manage_host=False).test_client()
        waiting = asyncio.create_task(answer(host))
        await reached(site)
        await until(lambda: host.downloads()[0].done)
        [told] = (await (await client.get("/api/v1/downloads")).get_json())["data"]
        assert (told["models"], told["state"], told["done_bytes"]) == (["m"], "downloading", 30_000)
        assert (await (await client.get("/")).get_json())["downloads"][0]["id"] == told["id"]
        assert (await client.delete("/api/v1/downloads/nothing")).status_code == 404
        response = await client.delete(f"/api/v1/downloads/{told['id']}")
        assert await response.get_json() == {"deleted": [told["id"]]}
        with pytest.raises(DownloadCancelled, match="the bytes received are kept"):
            await waiting
        assert (await (await client.get("/api/v1/downloads")).get_json()) == {"object": "list", "data": []}
        assert (await client.delete(f"/api/v1/downloads/{told['id']}")).status_code == 404
        site.requests.clear()
        assert await answer(host, "other") == await answer(host) == "hello"
    assert ("/x.bin", f"bytes=30000-{len(DATA) - 1}") in site.requests


async def test_a_download_that_waits_for_others_is_ended(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A download that is queued behind others is cancelled at once as well."""
    monkeypatch.setattr(fetcher, "AT_ONCE", 1)
    site.faults = [hang(30_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site), other=model(site, "/y.bin")) as host:
        first = asyncio.create_task(answer(host))
        await reached(site)
        second = asyncio.create_task(answer(host, "other"))
        await until(lambda: len(host.downloads()) == 2)
        assert host.fetcher.cancel(host.downloads()[1].id)
        with pytest.raises(DownloadCancelled):
            await second
        assert not first.done()
        site.release.set()
        assert await first == await answer(host, "other") == "hello"


async def test_a_failed_download_need_not_rest(site: Site, tmp_path: Path) -> None:
    """After a client deletes a failed download, the next request tries again at once."""
    site.faults = [instead(404)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host:
        client = create_app(host, manage_host=False).test_client()
        for _ in range(2):
            with pytest.raises(InvalidSource):
                await answer(host)
        assert len(site.requests) == 1
        [told] = (await (await client.get("/api/v1/downloads")).get_json())["data"]
        assert told["state"] == "failed"
        assert (await client.delete(f"/api/v1/downloads/{told['id']}")).status_code == 200
        assert await answer(host) == "hello"


async def test_a_download_is_ended_by_its_models_name(site: Site, tmp_path: Path) -> None:
    """`lllms cancel` cancels the download of a model, and says so if none is running."""
    site.faults = [hang(30_000)]
    async with asyncio.timeout(GUARD), make_host(tmp_path, m=model(site)) as host, published(host) as url:
        waiting = asyncio.create_task(answer(host))
        await reached(site)
        for output, code in (("cancelled: m\n", 0), ("Error: no download of m is running\n", 1)):
            result = await asyncio.to_thread(CliRunner().invoke, cli, ["cancel", "m", "--url", url])
            assert (result.output, result.exit_code) == (output, code)
            with pytest.raises(DownloadCancelled):
                await waiting
