"""The files of loads at other places: found or fetched, with room on their disks, and the same sessions everywhere."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import lllms_llamacpp
import pytest
from attrs import evolve
from click.testing import CliRunner
from lllms_llamacpp import LlamaCppEngine
from placements_for_tests import (
    Adapter,
    FileEngine,
    FileOptions,
    PlaceEngine,
    SizedEngine,
    TwoPlaces,
    TwoPlacesOptions,
)
from pools_for_tests import ask
from servers_for_tests import served
from serving_for_tests import published
from waits_for_tests import GUARD, until

from lllms_core import Host, hookimpl, parse_config
from lllms_core.builtin.sessions import MemoryStore
from lllms_core.cli import cli
from lllms_core.engines import Engine, NoOptions
from lllms_core.errors import DownloadCancelled, ModelLoadFailed, ModelTooLarge, PlaceFull, PlacementFailed
from lllms_core.footprint import with_paths
from lllms_core.placements import FileKey, Place
from lllms_core.plugins import Plugins
from lllms_core.pool.far_places import FarPlaces
from lllms_core.pool.keeper import SessionKeeper
from lllms_core.pool.load_files import LoadFiles, PlacedFiles
from lllms_core.pool.models import PoolModel
from lllms_core.pool.pool import Pool
from lllms_core.pool.session_rules import SessionLimits
from lllms_core.pool.state import ModelLimits, PoolLimits
from lllms_core.types import Device, ModelSpec

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"


class Filed:
    """A pool over two places, with a model that reads files."""

    def __init__(self, *models: PoolModel, memory: int | None = None) -> None:
        self.placement = TwoPlaces()
        self.pool = Pool(
            {one.spec.name: one for one in models}, PoolLimits(),
            far=FarPlaces(self.placement, TwoPlacesOptions(memory)),
        )

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(GUARD):
            await self.pool.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(GUARD):
            await self.pool.close(grace=0)

    async def where(self, model: str = "a") -> str:
        async with asyncio.timeout(GUARD):
            return (await self.pool.submit(ask("where", model)).gather()).text


def key(path: Path) -> FileKey:
    return FileKey(path, path.stat().st_size)


def written(path: Path, data: bytes = b"GGUF") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def model(file: Path, name: str = "a", options: FileOptions | None = None, **fields: Any) -> PoolModel:
    spec = ModelSpec(name, options or FileOptions(), file=file)
    return PoolModel(FileEngine(), spec, **{"source": str(file), **fields})


# -- which files, and where they are ----------------------------------------------------------------------------------


def test_all_files_of_a_load_are_known(tmp_path: Path) -> None:
    """The weights in all their parts and the files that options name at any depth count; missing ones do not."""
    parts = [written(tmp_path / f"m-0000{number}-of-00002.gguf", bytes(number)) for number in (1, 2)]
    adapter, template = written(tmp_path / "adapter.gguf"), written(tmp_path / "template.jinja")
    options = FileOptions((Adapter(adapter),), template, {"folder": tmp_path, "missing": tmp_path / "missing"})
    entry = model(parts[0], options=options, recorded=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    files = LoadFiles.of(entry, entry.spec)
    assert [(one.path, one.size) for one in files.weights] == [(parts[0], 1), (parts[1], 2)]
    assert [one.path for one in files.named] == [adapter, template]
    assert files.weights[1].sha256 == hashlib.sha256(bytes(2)).hexdigest()
    assert files.size == 3


def test_a_spec_gets_the_paths_of_its_place(tmp_path: Path) -> None:
    """Paths are replaced at any depth, and nothing else; each file is identified by its hash, or as it is here."""
    file, adapter = written(tmp_path / "m.gguf"), written(tmp_path / "adapter.gguf")
    options = FileOptions((Adapter(adapter, 0.5),), "text", {"it": adapter})
    entry = model(file, options=options, recorded=lambda path: "hash" if path == file else "")
    files = LoadFiles.of(entry, entry.spec)
    there = Path("/there")
    placed = PlacedFiles.at(files, {file: there / "x", adapter: there / "y"})
    moved = placed.moved(entry.spec)
    assert moved.file == there / "x"
    assert moved.options == FileOptions((Adapter(there / "y", 0.5),), "text", {"it": there / "y"})
    assert moved.identities[there / "x"] == "hash"
    assert len(moved.identities[there / "y"]) == 32
    assert with_paths(options, {}) is options


async def test_parts_and_named_files_are_found_at_a_place(tmp_path: Path) -> None:
    """A load at a place gets the paths there, of the weights and of what options name; nothing is fetched."""
    first, second = (written(tmp_path / f"m-0000{number}-of-00002.gguf") for number in (1, 2))
    adapter = written(tmp_path / "adapter.gguf")
    options = FileOptions((Adapter(adapter),))
    async with Filed(model(first, options=options)) as filed:
        for place in filed.placement.names:
            for path in (first, second, adapter):
                filed.placement.files[place, key(path)] = written(tmp_path / place / path.name)
        place = await filed.where()
        there = tmp_path / place
        [instance] = filed.pool.status().instances
        assert instance.info is not None
        assert instance.info.details["files"] == f"{there / first.name} {there / adapter.name} none"
        assert filed.placement.fetched == []


async def test_parts_that_do_not_lie_side_by_side_are_fetched(tmp_path: Path) -> None:
    """An engine finds the other parts next to the first: if a place lacks one there, it fetches the model once."""
    first, second = (written(tmp_path / f"m-0000{number}-of-00002.gguf") for number in (1, 2))
    async with Filed(model(first)) as filed:
        for place in filed.placement.names:
            filed.placement.files[place, key(first)] = written(tmp_path / "x" / first.name)
            filed.placement.files[place, key(second)] = written(tmp_path / "y" / second.name)
        place = await filed.where()
        assert filed.placement.fetched == [(place, str(first))]


async def test_files_that_options_name_must_be_there(tmp_path: Path) -> None:
    """They have no source: the error names the place, the file and the ways out."""
    file, adapter = written(tmp_path / "m.gguf"), written(tmp_path / "adapter.gguf")
    async with Filed(model(file, options=FileOptions((Adapter(adapter),)))) as filed:
        with pytest.raises(ModelLoadFailed, match=r"place \w+ has no file .*r.gguf, which an option names; share"):
            await filed.where()
        assert {place for place, _ in filed.placement.sought} == {"one", "two"}


async def test_a_file_that_was_replaced_is_looked_for_again(tmp_path: Path) -> None:
    """What was prepared for former files is not loaded: the place gets the new ones first."""
    file = written(tmp_path / "m.gguf")
    async with Filed(model(file)) as filed:
        await filed.where()
        await filed.pool.unload("a")
        written(file, b"GGUF and more")
        await filed.where()
        assert len(filed.placement.fetched) == 2


# -- fetches ----------------------------------------------------------------------------------------------------------


async def test_the_progress_of_a_fetch_is_shown(tmp_path: Path) -> None:
    """A waiting request and the list of downloads tell the place, and how much has arrived; then it is served."""
    file = written(tmp_path / "m.gguf", bytes(1000))
    async with Filed(model(file)) as filed, asyncio.timeout(GUARD):
        filed.placement.halfway = asyncio.Event()
        stream = filed.pool.submit(ask("where", "a"))
        await until(lambda: any(one.done for one in filed.pool.fetches()))
        [fetch] = filed.pool.fetches()
        [place] = [place for place, _ in filed.placement.fetched]
        assert (fetch.place, fetch.state, fetch.done, fetch.total) == (f"place {place}", "downloading", 500, 1000)
        waiting = filed.pool.waiting(stream.request.id)
        assert waiting is not None
        assert (waiting.state, waiting.progress, waiting.download) == ("downloading", 0.5, fetch)
        assert filed.pool.status().instances == ()
        filed.placement.halfway.set()
        assert (await stream.gather()).text == place
        assert filed.pool.fetches() == ()


async def test_models_of_one_source_share_a_fetch(tmp_path: Path) -> None:
    """Two models that need one file at one place at the same time fetch it once."""
    file = written(tmp_path / "m.gguf")
    async with Filed(model(file, "a"), model(file, "b")) as filed, asyncio.timeout(GUARD):
        filed.placement.lose("two")
        filed.placement.halfway = asyncio.Event()
        streams = [filed.pool.submit(ask("where", name)) for name in ("a", "b")]
        await until(lambda: len(filed.placement.sought) == 2 and len(filed.pool.fetches()) == 1)
        filed.placement.halfway.set()
        assert [(await stream.gather()).text for stream in streams] == ["one", "one"]
        assert filed.placement.fetched == [("one", str(file))]


async def test_a_place_without_disk_room_is_no_candidate(tmp_path: Path) -> None:
    """A place whose disk has too little room is left out before a fetch; one that finds that out, after it."""
    file = written(tmp_path / "m.gguf", bytes(1000))
    for told in (True, False):
        filed = Filed(model(file))
        if told:
            filed.placement.disks = {"one": 999, "two": 1000}
        else:
            filed.placement.faults = {"one": PlaceFull("the disk is full")}
        filed.placement.options = TwoPlacesOptions(cores=1)
        async with filed:
            assert await filed.where() == "two"
            assert filed.placement.fetched == [("two", str(file))][:1] if told else len(filed.placement.fetched) == 2
            [full] = [one for one in filed.pool.status().places if one.problem]
            assert full.name == "place one"
            assert "none of a: the disk of place one has no room for" in full.problem
            assert filed.placement.events is not None
            filed.placement.events.there(evolve(filed.placement.place("one"), disk=10**6))
            assert not any(one.problem for one in filed.pool.status().places)


async def test_a_file_that_no_place_can_get_is_told(tmp_path: Path) -> None:
    """When no place is left the request is refused with place, file, cause and way out; a later load tries again."""
    file = written(tmp_path / "m.gguf")
    async with Filed(model(file)) as filed:
        filed.placement.faults = {name: PlacementFailed("the hub does not answer") for name in ("one", "two")}
        with pytest.raises(ModelLoadFailed) as failed:
            await filed.where()
        told = failed.value.message
        assert told.startswith("model 'a' cannot be loaded: place ")
        assert f"could not fetch {file} from {file}: the hub does not answer; let it reach that source, or" in told
        assert {place for place, _ in filed.placement.fetched} == {"one", "two"}
        [problem] = filed.pool.failed_loads()
        assert "the hub does not answer" in problem.problem
        filed.pool._scheduler.setbacks.clear("a")  # as `lllms load` does
        assert await filed.where() in {"one", "two"}


async def test_whatever_a_placement_raises_ends_the_fetch(tmp_path: Path) -> None:
    """A fault of the plugin is a failed fetch, not one that lasts forever."""
    file = written(tmp_path / "m.gguf")
    async with Filed(model(file)) as filed:
        filed.placement.faults = {"one": KeyError("x"), "two": ZeroDivisionError()}
        with pytest.raises(ModelLoadFailed, match=r"KeyError|ZeroDivisionError"):
            await filed.where()


async def test_a_fetch_can_be_cancelled(tmp_path: Path) -> None:
    """Its requests are refused with that, and it is not begun at another place."""
    file = written(tmp_path / "m.gguf")
    async with Filed(model(file)) as filed, asyncio.timeout(GUARD):
        filed.placement.halfway = asyncio.Event()
        stream = filed.pool.submit(ask("where", "a"))
        await until(lambda: bool(filed.placement.fetched))
        [fetch] = filed.pool.fetches()
        assert filed.pool.cancel_fetch(fetch.id)
        with pytest.raises(DownloadCancelled, match="was cancelled"):
            await stream.gather()
        assert not filed.pool.cancel_fetch(fetch.id)
        filed.placement.halfway = None
        assert await filed.where() in {"one", "two"}
        assert len(filed.placement.fetched) == 2


async def test_a_fetch_ends_with_its_place(tmp_path: Path) -> None:
    """If its place is lost meanwhile, another fetches the file, and the request never learns of it."""
    file = written(tmp_path / "m.gguf")
    async with Filed(model(file)) as filed, asyncio.timeout(GUARD):
        filed.placement.halfway = asyncio.Event()
        stream = filed.pool.submit(ask("where", "a"))
        await until(lambda: bool(filed.placement.fetched))
        [(first, _)] = filed.placement.fetched
        filed.placement.lose(first)
        await until(lambda: len(filed.placement.fetched) == 2)
        assert [one.place for one in filed.pool.fetches()] != [f"place {first}"]
        filed.placement.halfway.set()
        assert {first, (await stream.gather()).text} == {"one", "two"}


async def test_nothing_is_unloaded_before_the_file_is_there(tmp_path: Path) -> None:
    """While a place fetches a file, the instances that must make room for it serve on."""
    file = written(tmp_path / "m.gguf")
    other = PoolModel(PlaceEngine(), ModelSpec("b", FileOptions()), memory=100)
    async with Filed(model(file, memory=100), other, memory=100) as filed, asyncio.timeout(GUARD):
        filed.placement.lose("two")
        assert await filed.where("b") == "one"
        filed.placement.halfway = asyncio.Event()
        stream = filed.pool.submit(ask("where", "a"))
        await until(lambda: bool(filed.placement.fetched))
        assert await filed.where("b") == "one"
        assert [one.model for one in filed.pool.status().instances] == ["b"]
        filed.placement.halfway.set()
        assert (await stream.gather()).text == "one"
        assert [one.model for one in filed.pool.status().instances] == ["a"]


class TwoPlugin:
    """A plugin with a placement and an engine."""

    def __init__(self) -> None:
        self.placement = TwoPlaces()

    @hookimpl
    def lllms_placements(self) -> list[TwoPlaces]:
        return [self.placement]

    @hookimpl
    def lllms_engines(self) -> list[Engine]:
        return [FileEngine()]


@pytest.fixture
def plugin() -> TwoPlugin:
    return TwoPlugin()


def host(plugin: TwoPlugin, folder: Path, url: str) -> Host:
    """A host with a model of this address."""
    config = parse_config({
        "server": {"models_dir": str(folder)}, "placement": {"kind": "two"},
        "models": {"a": {"engine": "filed", "url": url}},
    })
    return Host(config, Plugins.discover(extra={"two": plugin}, environ={"LLLMS_PLUGINS": ""}))


async def test_the_fetches_of_places_are_listed_and_cancelled_like_downloads(plugin: TwoPlugin, tmp_path: Path) -> None:
    """`GET /`, `lllms ps` and a waiting request show them with their places; to cancel one refuses the request."""
    plugin.placement.halfway = asyncio.Event()
    with served({"/m.gguf": TINY.read_bytes()}) as site:
        server = host(plugin, tmp_path, f"{site.url}/m.gguf")
        async with asyncio.timeout(GUARD), server, published(server) as url:
            stream = server.submit(server.request("a", prompt="where"))
            await until(lambda: any(one.place for one in server.downloads()))
            [fetch] = server.downloads()
            assert fetch.source == f"{site.url}/m.gguf"
            waiting = server.waiting(stream.request)
            assert waiting is not None
            assert str(waiting).startswith("downloading 50 %")
            shown = await asyncio.to_thread(lambda: CliRunner().invoke(cli, ["ps", "--url", url]).output)
            assert f"download a from {site.url}/m.gguf to {fetch.place}: " in shown
            assert server.cancel_download(fetch.id)
            with pytest.raises(DownloadCancelled):
                await stream.gather()


async def test_a_file_of_this_machine_has_no_source_for_others(plugin: TwoPlugin, tmp_path: Path) -> None:
    """A `file:` address means another file, or none, on another machine: it is not fetched from there."""
    file = written(tmp_path / "m.gguf", TINY.read_bytes())
    async with asyncio.timeout(GUARD), host(plugin, tmp_path, f"file://{file}") as server:
        with pytest.raises(ModelLoadFailed, match=r"has no file .*m.gguf; share the server's folder of models with it"):
            await server.submit(server.request("a", prompt="where")).gather()
    assert plugin.placement.fetched == []


# -- what a load needs where ------------------------------------------------------------------------------------------


async def test_needs_are_those_of_the_place() -> None:
    """The memory and the GPUs of a place decide what an instance needs and gets there, not those of the server."""
    sized = PoolModel(SizedEngine(), ModelSpec("a", NoOptions()), ModelLimits(max_instances=2))
    filed = Filed(sized, evolve(sized, spec=ModelSpec("b", NoOptions())))
    gpus = (Device("CUDA0", 2 * 10**9, 2 * 10**9),)
    filed.placement.facts = {
        "one": Place("one", "place one", memory=100 * 10**6), "two": Place("two", "place two", 3, 120 * 10**6, gpus),
    }
    async with filed:
        assert filed.pool.misfit("a", sized.spec) == ""
        assert sorted([await filed.where("a"), await filed.where("b")]) == ["two", "two"]
        [first, second] = filed.pool.status().instances
        assert first.devices == second.devices == {"CUDA0": 50 * 10**6}
        assert first.threads == 3
        assert {one.name: one.used for one in filed.pool.status().places}["place one"] == 0
        assert filed.placement.events is not None
        filed.placement.lose("two")
        why = filed.pool.misfit("a", sized.spec)
        assert "needs about 115.7 MB of memory, and place one, which has the most, gives its instances 100" in why
        with pytest.raises(ModelTooLarge, match="place one, which has the most"):
            await filed.where("a")


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[list[Path]]:
    """The server's file, and a copy of it for each place, of another time and at another path."""
    paths = [tmp_path / name / "tiny.gguf" for name in ("here", "one", "two")]
    for age, path in enumerate(paths):
        path.parent.mkdir()
        shutil.copy(TINY, path)
        os.utime(path, (age, age))
    return paths


async def test_a_session_is_resumed_at_another_place(copies: list[Path]) -> None:
    """A conversation that began at one place is resumed at another, where the file has another path and time."""
    here, *there = copies
    digest = hashlib.sha256(here.read_bytes()).hexdigest()
    entry = PoolModel(
        LlamaCppEngine(), ModelSpec("a", LlamaCppEngine.Options(context_length=512, slots=1, threads=1), file=here),
        ModelLimits(), recorded=lambda _: digest,
    )
    store = MemoryStore()
    store.open(MemoryStore.Options())
    placement = TwoPlaces()
    for name, path in zip(("one", "two"), there, strict=True):
        placement.files[name, FileKey(here, here.stat().st_size, digest)] = path
    pool = Pool(
        {"a": entry}, PoolLimits(), keeper=SessionKeeper(store, SessionLimits(min_tokens=16)),
        far=FarPlaces(placement, TwoPlacesOptions()),
    )
    prompt = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    async with asyncio.timeout(GUARD):
        await pool.start()
        first = await pool.submit(ask(prompt, "a", max_tokens=8)).gather()
        [instance] = pool.status().instances
        await pool.unload("a")
        placement.lose(instance.place.removeprefix("place "))
        second = await pool.submit(ask(prompt + first.text, "a", max_tokens=1)).gather()
        [other] = pool.status().instances
        assert other.place != instance.place
        assert second.finish.usage.cached_tokens > 16
        await pool.close(grace=0)


def test_a_place_is_described_with_its_disk() -> None:
    """The contract's facts of a place include the free bytes of its disk, if it tells them."""
    assert Place("x", "X").disk is None
