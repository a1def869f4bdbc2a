"""What is said of GPUs: which are used, why none is, and how to change that."""

import json
import logging
import re
import tomllib
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from lllms_llamacpp import devices, engine, hardware
from lllms_llamacpp.engine import LlamaCppEngine
from lllms_llamacpp.gpus import Gpu
from lllms_llamacpp.options import Options

from lllms_core.cli import cli
from lllms_core.testing import load_model, running_server
from lllms_core.types import Device, ModelSpec

pytestmark = pytest.mark.slow

PLUGIN = Path(engine.__file__).parent.parent
TINY = Path(engine.__file__).parent / "models" / "tiny-chat.gguf"
ONE = [Device("CUDA0", 24_000_000_000, 20_000_000_000)]


def lllms(*arguments: str, folder: Path) -> str:
    result = CliRunner(env={"XDG_CONFIG_HOME": str(folder), "COLUMNS": "400"}).invoke(cli, arguments, prog_name="lllms")
    assert result.exit_code == 0, result.output
    return result.output


def spec(**options: object) -> ModelSpec:
    return ModelSpec("tiny", Options(**options), TINY)  # type: ignore[arg-type]


def test_layers_that_are_known_are_told():
    """Once a model is settled, it says how many of its layers are on the GPU, and why none are."""
    assert hardware.told(ONE, 20, 33) == "GPU CUDA0 (24.0 GB) with 20 of 33 layers, and CPU"
    assert hardware.told(ONE, 33, 33) == "GPU CUDA0 (24.0 GB)"
    assert hardware.told(ONE, 33, 33, 12) == "GPU CUDA0 (24.0 GB); experts of 12 layers on the CPU"
    none = "CPU (no layer fits into the memory that is free on the GPU CUDA0 (24.0 GB))"
    assert hardware.told(ONE, 0, 33) == none


@pytest.mark.parametrize(("devices", "layers", "text"), [
    (None, -1, "CPU (llama.cpp is built without GPU support)"),
    (None, 0, "CPU (llama.cpp is built without GPU support)"),
    ([], -1, "CPU (llama.cpp is built for GPUs, but finds none; check the driver)"),
    (ONE, 0, "CPU (gpu_layers is 0; there is the GPU CUDA0 (24.0 GB))"),
    (ONE, -1, "GPU CUDA0 (24.0 GB)"),
    (ONE, 20, "GPU CUDA0 (24.0 GB) with 20 layers at most, and CPU"),
])
def test_every_case_has_its_words(devices, layers, text):
    """No support, no device, no layers, or the GPUs with their memory: each is said in words of its own."""
    assert hardware.told(devices, layers) == text


def test_the_gpu_of_this_machine_brings_its_command(tmp_path, monkeypatch):
    """If a GPU's driver is seen, the command that installs a build for it is told, within the bounds of the plugin."""
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(hardware, "_SEEN", ((str(driver), "an NVIDIA GPU", "cu124"),))
    bounds = next(
        one for one in tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["dependencies"]
        if one.startswith("llama-cpp-python")
    )
    told = hardware.way_out()
    assert told.startswith("to use an NVIDIA GPU that is seen here: pip install ")
    assert "--only-binary llama-cpp-python" in told
    assert "/whl/cu124 " in told
    name, *limits = re.split(r"(?=[<>])|,", told.rpartition('"llama')[2].rstrip('"'))
    assert sorted(filter(None, limits)) == sorted(filter(None, re.split(r"(?=[<>])|,", bounds)[1:]))
    assert name == "-cpp-python"
    driver.unlink()
    assert hardware.way_out().startswith("no GPU is seen here")


def test_the_readme_has_the_same_command():
    """The README's lines for GPUs keep the bounds that the plugin declares."""
    assert hardware.install_line("cu124") in (PLUGIN / "README.md").read_text()


def test_layers_that_no_build_can_take_are_a_warning(monkeypatch):
    """Layers on the GPU in a build without GPU support are a warning before and at the load; the default is none."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    [finding] = LlamaCppEngine().examine(spec(gpu_layers=20))
    assert not finding.fatal
    assert finding.text.startswith("gpu_layers is 20, but llama.cpp is built without GPU support, so that all layers")
    assert [*LlamaCppEngine().examine(spec())] == []
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "known_gpus", lambda: [*map(Gpu, ONE)])
    assert [*LlamaCppEngine().examine(spec(gpu_layers=20))] == []


def test_a_model_is_described_with_the_gpus(monkeypatch):
    """`hardware` names the GPUs that are found, and follows the model's `gpu_layers`."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "known_gpus", lambda: [*map(Gpu, ONE)])
    specs = (None, spec(gpu_layers=-1), spec(), spec(gpu_layers=0), spec(devices=["CUDA9"]))
    assert [LlamaCppEngine().hardware(one) for one in specs] == [
        "GPU CUDA0 (24.0 GB)", "GPU CUDA0 (24.0 GB)", "GPU CUDA0 (24.0 GB), with as many layers as fit",
        "CPU (gpu_layers is 0; there is the GPU CUDA0 (24.0 GB))",
        "options.devices: there is no GPU 'CUDA9'; choose from CUDA0 (0)",
    ]


def test_the_commands_say_it(tmp_path, monkeypatch):
    """`plugins` says it of the engine, and `check` of each model; JSON stays as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    monkeypatch.setattr(hardware, "_SEEN", ())
    assert "llamacpp computes on CPU (llama.cpp is built without GPU support); no GPU is seen here" in (
        lllms("plugins", folder=tmp_path)
    )
    assert "model tiny-chat: computes on CPU (llama.cpp is built without" in lllms("check", folder=tmp_path)
    assert all("hardware" not in one for one in json.loads(lllms("plugins", "--json", folder=tmp_path)))


def test_an_instance_and_the_log_say_it(tmp_path, caplog):
    """A loaded model's report names the device, so that `ps` shows it; the log of the load does, too."""
    with caplog.at_level(logging.INFO, "lllms"):
        device = load_model(LlamaCppEngine(), {"context_length": 512}, file=TINY).info.details["device"]
    assert f"computes on {device}" in caplog.text
    models = {"tiny": {"engine": "llamacpp", "file": str(TINY), "min_instances": 1}}
    with running_server(models) as url:
        [instance] = httpx.get(url).json()["instances"]
        assert instance["details"]["device"] == device
        assert f", on {device}" in lllms("ps", "--url", url, folder=tmp_path)
