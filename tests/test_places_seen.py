"""What people see of places: in requests' timelines, errors, the log, metrics, `lllms ps`, `lllms why`."""

import asyncio
import logging
import re
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from placements_for_tests import TwoPlugin, host_at_places
from prometheus_client.parser import text_string_to_metric_families
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core import Host
from lllms_core.cli import cli
from lllms_core.errors import EngineDied, LllmsError
from lllms_core.placements import Place
from lllms_core.pool.attendance import LOST_SECONDS, MOST_UNUSED, Attendance
from lllms_core.rendezvous import versions

pytestmark = pytest.mark.slow


def samples(host: Host) -> dict[tuple[str, str], float]:
    """The metrics about places, by their names and the values of their labels."""
    families = text_string_to_metric_families(host.measurements()[0].decode())
    told = [one for family in families for one in family.samples]
    return {
        (one.name, " ".join(one.labels.values())): one.value for one in told
        if "place" in one.name or one.name.startswith("lllms_requeued")
    }


async def test_a_request_that_moves_tells_its_places(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its timeline names the place of each load and each assignment, and why it was queued again; `why` shows it."""
    caplog.set_level(logging.DEBUG, "lllms")
    plugin = TwoPlugin()
    async with asyncio.timeout(GUARD), host_at_places(plugin) as host, published(host) as url:
        silent = host.submit(host.request("a", prompt=f"wait {tmp_path / 'go'}"))
        await until(lambda: host.status().running == 1)
        [first] = [one.name for one in host.status().places if one.instances]
        other = {"place one": "place two", "place two": "place one"}[first]
        [running] = host.requests()
        assert running.place == first
        instance = running.instance
        assert f"loading {instance} at {first}" in caplog.text
        plugin.placement.lose(first.removeprefix("place "))
        (tmp_path / "go").touch()
        await silent.gather()
        record = host.find_request(silent.request.id)
        assert record is not None
        steps = [(one.what, one.detail) for one in record.moments]
        assert ("assigned", f"{instance} at {first}") in steps
        lost = steps.index(("queued again", f"{first} was lost: its link is cut"))
        assert ("loading", f"{record.instance} at {other}") in steps[lost:]
        assert ("assigned", f"{record.instance} at {other}") in steps[lost:]
        assert record.place == other
        shown = await asyncio.to_thread(
            lambda: CliRunner().invoke(cli, ["why", record.id, "--url", url]).output,
        )
        assert f"queued again: {first} was lost: its link is cut" in shown
        assert f" place={other} " in caplog.text
        async with httpx.AsyncClient(base_url=url) as client:
            listed = (await client.get("/api/v1/requests")).json()
        assert [one["place"] for one in listed["ended"]] == [other]
        assert {key: value for key, value in samples(host).items() if value} == {
            ("lllms_lost_places_total", first): 1, ("lllms_requeued_requests_total", "a"): 1,
            ("lllms_places", "used"): 1, ("lllms_places", "lost"): 1, ("lllms_place_instances", other): 1,
            ("lllms_place_cores", other): 2, ("lllms_place_memory_used_bytes", other): 100 * 10**6,
            ("lllms_place_memory_limit_bytes", other): 10**9,
        }


async def test_a_worker_that_dies_alone_names_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is killed ends its requests with an error that says where it was, and so does the log."""
    plugin = TwoPlugin()
    async with asyncio.timeout(GUARD), host_at_places(plugin) as host:
        stream = host.submit(host.request("a", prompt="count"))
        await stream.take()
        [place] = [one.name for one in host.status().places if one.instances]
        [child] = plugin.placement.children[place.removeprefix("place ")]
        child.kill()
        with pytest.raises(EngineDied, match=rf"the worker was killed .*\(at {place}\)"):
            await stream.gather()
        assert [one.state for one in host.status().places] == ["used", "used"]
    assert f"(at {place})" in caplog.text


async def test_a_load_that_fails_at_a_place_names_it() -> None:
    """The refusal of a request whose model cannot be loaded says at which place that failed."""
    plugin = TwoPlugin()
    async with asyncio.timeout(GUARD), host_at_places(plugin, broken=True) as host:
        with pytest.raises(LllmsError, match=r"cannot be loaded: .* \(at place (one|two)\)"):
            await host.submit(host.request("broken", prompt="where")).gather()


async def test_places_that_are_not_used_are_shown_with_the_reason() -> None:
    """A lost place and one with other versions are told by `GET /` and `lllms ps`, and one that comes back is used."""
    plugin = TwoPlugin()
    async with asyncio.timeout(GUARD), host_at_places(plugin) as host, published(host) as url:
        events = plugin.placement.events
        assert events is not None
        events.there(Place("old", "an old machine", versions={**versions(), "lllms-core": "0.0.1"}))
        plugin.placement.lose("one")
        async with httpx.AsyncClient() as client:
            told = (await client.get(url)).json()["places"]
        ours = versions()["lllms-core"]
        refused = f"the versions must be equal, but lllms-core is 0.0.1 there and {ours} here; install the same ones"
        assert [(one["name"], one["state"], one["problem"]) for one in told] == [
            ("place two", "used", None),
            ("an old machine", "refused", refused),
            ("place one", "lost", "it is lost: its link is cut"),
        ]
        shown = await asyncio.to_thread(lambda: CliRunner().invoke(cli, ["ps", "--url", url]).output)
        for line in (
            r"place place two: 0 instances, 2 cores, about 0 bytes of 1\.0 GB used, there for \d+ s",
            r"place place one: not used for \d+ s: it is lost: its link is cut",
            r"place an old machine: not used for \d+ s: the versions must be equal, .*",
        ):
            assert re.search(f"^{line}$", shown, re.MULTILINE), line
        plugin.placement.names.append("one")
        events.there(plugin.placement.place("one"))
        events.gone("old", "it was switched off")
        assert [(one.name, one.state) for one in host.status().places] == [("place two", "used"), ("place one", "used")]


async def test_one_machine_shows_no_places() -> None:
    """Without a placement there are no places in the status, in `lllms ps`, or among the samples of metrics."""
    plugin = TwoPlugin()
    async with asyncio.timeout(GUARD), host_at_places(plugin, kind="local") as host, published(host) as url:
        await host.submit(host.request("a", prompt="where")).gather()
        async with httpx.AsyncClient() as client:
            told = (await client.get(url)).json()
        shown = await asyncio.to_thread(lambda: CliRunner().invoke(cli, ["ps", "--url", url]).output)
        assert told["places"] == []
        assert [one["place"] for one in told["instances"]] == [None]
        assert not any(line.startswith("place ") or " at place " in line for line in shown.splitlines())
        assert f"; {told['cores']} cores" in shown
        assert samples(host) == {}
        [record] = host.ended_requests()
        assert record.place == ""
        assert not any("place" in one.detail for one in record.moments)


# -- attendance -------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.tuples(
    st.sampled_from(["there", "refused", "lost", "left"]), st.integers(0, 5), st.floats(0, LOST_SECONDS),
), max_size=40)


@given(STEPS)
def test_a_place_is_used_or_told_with_a_reason(steps: list[tuple[str, int, float]]) -> None:
    """Whatever comes and goes, no place is both used and unused, and a lost one is told for a while only."""
    attendance, now, used = Attendance(), 0.0, set[str]()
    for what, number, pause in steps:
        now += pause
        place = Place(str(number), f"name {number}")
        if what == "there":
            attendance.there(place, now)
            used.add(place.id)
        elif what == "refused":
            attendance.refused(place, "its versions differ", now)
            used.discard(place.id)
        elif what == "lost" and place.id in used:
            attendance.lost(place, "its link is cut", now)
            used.discard(place.id)
        elif what == "left":
            attendance.left(place.id)
        unused = attendance.unused(now)
        assert attendance.since.keys() == used
        assert used.isdisjoint(one.place.id for one in unused)
        assert all(one.reason and one.since <= now for one in unused)
        assert all(now - one.since <= LOST_SECONDS for one in unused if one.state == "lost")


def test_a_machine_that_returns_under_another_id_is_no_longer_lost() -> None:
    """A node that was started again has another id and the same name: it is used, and not lost at the same time."""
    attendance = Attendance()
    attendance.there(Place("a1", "node a"), 1.0)
    attendance.lost(Place("a1", "node a"), "it crashed", 2.0)
    attendance.there(Place("a2", "node a"), 3.0)
    assert attendance.unused(3.0) == ()
    assert attendance.since == {"a2": 3.0}


def test_only_the_last_unused_places_are_remembered() -> None:
    """Places that come and go without end take no more memory."""
    attendance = Attendance()
    for number in range(3 * MOST_UNUSED):
        attendance.there(Place(str(number), f"node {number}"), 0.0)
        attendance.lost(Place(str(number), f"node {number}"), "it is one of many", float(number) / 1000)
    unused = [one.place.id for one in attendance.unused(1.0)]
    assert unused == [str(number) for number in range(2 * MOST_UNUSED, 3 * MOST_UNUSED)]
