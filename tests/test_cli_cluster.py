"""`lllms check` with a placement: what it tells of each place and finds wrong, and that it leaves nothing behind."""

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lllms_llamacpp
import pytest
from attrs import evolve
from click.testing import CliRunner, Result
from placements_for_tests import TwoPlugin
from waits_for_tests import GUARD

from lllms_core.cli import cli, cluster
from lllms_core.errors import PlacementFailed
from lllms_core.placements import Place
from lllms_core.plugins import Plugins
from lllms_core.rendezvous import versions
from lllms_core.store.weights import Weights
from lllms_core.types import Device

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
PLACED = '[models.a]\nengine = "placed"\nmemory = "100MB"\n'
GB = 10**9


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoPlugin]:
    """The plugin with the placement, installed; when the test ends, no process of it runs any more."""
    made = TwoPlugin()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("LLLMS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLLMS_PLUGINS", "llamacpp")
    monkeypatch.setattr(Plugins, "discover", partial(Plugins.discover, extra={"two": made}))
    yield made
    assert [one.returncode for one in made.placement.started if one.returncode is None] == []


async def nothing(*_: object) -> list[str]:
    """Try no worker, where that is not what is tested."""
    return []


@pytest.fixture
def workerless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no workers: they are not what is tested."""
    monkeypatch.setattr(cluster._Cluster, "_try_engine", nothing)


def check(models: str = PLACED, options: str = "memory = 1000000000") -> Result:
    """Run the command with these models at two places."""
    Path("lllms.toml").write_text(f'[placement]\nkind = "two"\n\n[placement.options]\n{options}\n\n{models}')
    return CliRunner().invoke(cli, ["check"], prog_name="lllms")


def describe(plugin: TwoPlugin, monkeypatch: pytest.MonkeyPatch, **facts: object) -> None:
    """Let the first place have other facts."""
    usual = plugin.placement.place

    def place(name: str) -> Place:
        return evolve(usual(name), **facts) if name == "one" else usual(name)

    monkeypatch.setattr(plugin.placement, "place", place)


def test_a_sound_cluster_is_fine(plugin: TwoPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place is told with what it has; a worker is started, imports the engine and answers, and ends."""
    gpu = Device("CUDA0", 24 * GB, 24 * GB)
    describe(plugin, monkeypatch, disk=50 * GB, devices=(gpu,), versions=versions())
    result = check()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "placement two: 2 places" in lines
    ours = versions()["lllms-core"]
    assert (
        "place place one: 2 cores, 1.0 GB of memory for instances, 50.0 GB of disk free, GPU CUDA0 with 24.0 GB,"
        f" lllms-core {ours}"
    ) in lines
    assert "place place two: 2 cores, 1.0 GB of memory for instances" in lines
    for name in ("one", "two"):
        [told] = [line for line in lines if line.startswith(f"place place {name}: a worker starts in ")]
        assert "with the same versions as here, imports engine placed in " in told
        assert told.endswith(" ms")
    assert lines[-1] == "everything is fine"
    assert len(plugin.placement.started) == 2


def test_without_models_a_worker_that_does_nothing_is_tried(plugin: TwoPlugin) -> None:
    """The places are tried even if no model is configured."""
    result = check(models='[plugins]\ndisable = ["llamacpp"]\n')
    assert result.exit_code == 0, result.output
    assert result.stdout.count("imports engine round-trip in ") == 2


def test_files_that_a_place_lacks_are_named(plugin: TwoPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model file that a place neither has nor can fetch is a fault; on a shared disk it is there."""
    models = f'[models.tiny]\nengine = "llamacpp"\nfile = "{TINY}"\n'
    with monkeypatch.context() as patched:
        patched.setattr(cluster._Cluster, "_try_engine", nothing)
        result = check(models.replace('"llamacpp"', '"placed"'))
    assert result.exit_code == 1
    for name in ("one", "two"):
        assert (
            f"Error: models.tiny: place {name} has no file {TINY}; share the server's folder of models with it, or name"
            " a source from which that can fetch it (url or hf in the configuration)"
        ) in result.stderr
    plugin.placement.shared, plugin.placement.names = True, ["one"]
    result = check(models)
    assert result.exit_code == 0, result.output
    assert "place place one: has the files of model tiny" in result.stdout
    assert "imports engine llamacpp in " in result.stdout


def test_a_place_with_other_versions_is_a_fault(plugin: TwoPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions that a place tells are compared before anything is started there."""
    describe(plugin, monkeypatch, versions={**versions(), "lllms-core": "0.0.1"})
    result = check()
    assert result.exit_code == 1
    assert "Error: place place one is not used: the versions must be equal, but lllms-core is 0.0.1" in result.stderr
    assert len(plugin.placement.started) == 1


def test_versions_that_only_a_worker_tells_are_compared(plugin: TwoPlugin, tmp_path: Path) -> None:
    """A worker that imports other versions is refused, the difference is named, and the worker ends."""
    package = tmp_path / "lllms_other-9.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: lllms-other\nVersion: 9\n")
    (package / "entry_points.txt").write_text("[lllms]\nother = lllms_other\n")
    plugin.placement.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    result = check()
    assert result.exit_code == 1
    assert "lllms-other is 9 there and missing here; install the same ones" in result.stderr


@pytest.mark.parametrize(("site", "why"), [
    ("import os; os._exit(9)", "the worker ended with status 9 before it connected"),
    ("", "No module named 'placements_for_tests'"),
])
def test_workers_that_do_not_run_are_named(plugin: TwoPlugin, tmp_path: Path, site: str, why: str) -> None:
    """A process that ends at once and one that cannot import the engine are faults of their places, with the cause."""
    (tmp_path / "sitecustomize.py").write_text(site)
    plugin.placement.environment["PYTHONPATH"] = str(tmp_path)
    result = check()
    assert result.exit_code == 1
    for name in ("one", "two"):
        [told] = [line for line in result.stderr.splitlines() if line.startswith(f"Error: place place {name}: ")]
        assert "a worker with engine 'placed' does not run there: " in told
        assert why in told


def test_an_engine_that_hangs_is_given_up(plugin: TwoPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that takes too long is a fault, and what was started there is ended."""
    monkeypatch.setattr(cluster, "PLACE_SECONDS", 3.0)
    result = check('[models.a]\nengine = "hanging"\nmemory = "100MB"\n')
    assert result.exit_code == 1
    assert "place place one could not be checked within 3 s" in result.stderr


@pytest.mark.usefixtures("workerless")
def test_models_that_fit_nowhere_are_named(plugin: TwoPlugin) -> None:
    """A model larger than every place is a fault, and so are kept instances that all places together cannot hold."""
    large = '[models.a]\nengine = "placed"\nmemory = "3GB"\n'
    assert "models.a: an instance needs about 3.0 GB of memory, and place " in check(large).stderr
    kept = PLACED.replace("100MB", "900MB") + "min_instances = 3\nmax_instances = 3\n"
    result = check(kept)
    assert result.exit_code == 1
    assert "(min_instances) need about 2.7 GB, but all places together give them 2.0 GB" in result.stderr


@pytest.mark.usefixtures("workerless")
def test_files_that_have_to_be_fetched_need_room(
    plugin: TwoPlugin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    """A place that would fetch a model says so; one without room for it is a warning, and a fault if all lack it."""
    monkeypatch.setattr(Weights, "remote", property(lambda self: self.source))
    monkeypatch.setenv("LLLMS_MODELS_DIR", str(tmp_path / "models"))
    models = f'[models.tiny]\nengine = "placed"\nurl = "{TINY.as_uri()}"\n'
    plugin.placement.disks["one"] = 1000
    result = check(models)
    assert result.exit_code == 0, result.output
    assert "place place two: fetches the files of model tiny (" in result.stdout
    assert "Warning: models.tiny: the disk of place one has no room for " in result.stderr
    assert "everything can be served, but see the warnings" in result.stdout
    plugin.placement.disks["two"] = 1000
    result = check(models)
    assert result.exit_code == 1
    assert "Error: models.tiny: the disk of place two has no room for " in result.stderr


@pytest.mark.usefixtures("workerless")
def test_files_that_options_name_are_looked_for(plugin: TwoPlugin, tmp_path: Path) -> None:
    """A file of an option that a place lacks is a fault, too."""
    adapter = tmp_path / "adapter.gguf"
    adapter.write_bytes(b"GGUF")
    models = f'[models.f]\nengine = "filed"\nmemory = "100MB"\n\n[models.f.options.more]\nx = "{adapter}"\n'
    assert f"models.f: place one has no file {adapter}, which an option names; " in check(models).stderr
    plugin.placement.shared = True
    assert check(models).exit_code == 0


@pytest.mark.parametrize("fault", ["empty", "refused", "silent"])
def test_a_placement_without_places_is_a_fault(fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No place, one that cannot be opened, and one that does not open in time are told, and it is closed again."""
    made = TwoPlugin()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLLMS_PLUGINS", "")
    monkeypatch.setattr(Plugins, "discover", partial(Plugins.discover, extra={"two": made}))
    monkeypatch.setattr(cluster, "OPEN_SECONDS", 0.1 if fault == "silent" else GUARD)
    made.placement.names = []
    made.placement.refusal = PlacementFailed("there is no head node") if fault == "refused" else None
    made.placement.silent = fault == "silent"
    result = check()
    assert result.exit_code == 1
    assert {
        "empty": "placement 'two' has no places: no model can be loaded until one is there",
        "refused": "placement 'two' cannot be opened: there is no head node",
        "silent": "placement 'two' did not open within 0.1 s",
    }[fault] in result.stderr
    assert made.placement.closed
