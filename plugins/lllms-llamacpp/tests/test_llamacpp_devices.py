"""The GPUs that llama.cpp uses, and where their figures come from."""

import sys
from pathlib import Path

import pytest
from attrs import evolve
from ggml_for_tests import FakeLibrary
from lllms_llamacpp import LlamaCppEngine, Options, devices, hardware
from lllms_llamacpp.device_list import list_devices
from lllms_llamacpp.gpus import Gpu

from lllms_core.types import Device, ModelSpec

ONE = Device("CUDA0", 100, 80)


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of GPUs before a test."""
    monkeypatch.setattr(devices, "_known", None)


def says(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_a_process_tells_the_gpus() -> None:
    """The last line of its output counts; the first figures remain those of the estimates."""
    told = [{"name": "CUDA0", "total": 100, "free": 80}]
    assert devices.ask_for_gpus(says(f"import json; print('noise'); print(json.dumps({told}))")) == (Gpu(ONE),)
    told[0]["free"] = 20
    again = devices.ask_for_gpus(says(f"import json; print(json.dumps({told}))"))
    assert again == (Gpu(Device("CUDA0", 100, 20)),)
    assert devices.known_gpus() == (Gpu(ONE),)


@pytest.mark.parametrize("command", [
    says("raise SystemExit('no driver')"), says("print('[')"), says("print()"), says("pass"), says("print([{}])"),
    says("print('[{}]')"), says("""print('[{"name": 1, "total": 1, "free": 1}]')"""), ("/no/such/program",),
])
def test_whatever_goes_wrong_is_a_warning(command: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    """A process that fails, or answers nonsense, costs one line of the log, and there are no GPUs."""
    assert devices.ask_for_gpus(command) == ()
    [line] = caplog.messages
    assert "llama.cpp's GPUs cannot be told" in line


def test_without_a_gpu_no_process_is_started(
    monkeypatch: pytest.MonkeyPatch, tiny_file: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    """If llama.cpp was built for processors only, nobody is asked."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    monkeypatch.setattr(devices, "ask_for_gpus", lambda: pytest.fail("somebody was asked"))
    assert LlamaCppEngine().devices() == ()
    assert LlamaCppEngine().estimate(ModelSpec("m", Options(context_length=512), tiny_file)).devices == {}
    assert caplog.messages == []


def test_this_build_tells_its_gpus() -> None:
    """The process works with the installed library: without an error, even if it has no GPU."""
    command = (sys.executable, "-m", "lllms_llamacpp.device_list")
    assert isinstance(devices.ask_for_gpus(command), tuple)
    assert command == devices.COMMAND


@pytest.mark.parametrize(("found", "names"), [
    ([("CPU", 0)], []), ([("CUDA0", 1), ("CUDA1", 1), ("CPU", 0)], ["CUDA0", "CUDA1"]),
    ([("Vulkan0", 2), ("CPU", 0), ("BLAS", 3)], ["Vulkan0"]), ([("Vulkan0", 2), ("Vulkan1", 1)], ["Vulkan1"]),
    ([("Vulkan0", 2), ("Vulkan1", 2)], ["Vulkan0"]),
])
def test_integrated_gpus_count_only_without_others(found: list[tuple[str, int]], names: list[str]) -> None:
    """All GPUs are listed, with memory of any size; those that llama.cpp uses by itself are marked."""
    told = list_devices(FakeLibrary(*found))  # type: ignore[arg-type]
    assert [one["name"] for one in told] == [name for name, kind in found if kind in {1, 2}]
    assert [one["name"] for one in told if one["default"]] == names
    assert [one.name for one in devices.used([*map(devices.read_gpu, told)])] == names
    assert all(one["total"] == 2**40 + int(one["free"]) for one in told)


def test_an_estimate_for_another_machine_counts_its_gpus(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has: with GPUs there, most is in their memory, and without, all is in main memory."""
    monkeypatch.setattr(devices, "ask_for_gpus", lambda: pytest.fail("somebody was asked"))
    spec = ModelSpec("m", Options(context_length=512), tiny_file)
    theirs = (Device("CUDA0", 2**33, 2**33), Device("CUDA1", 2**33, 2**33))
    there = LlamaCppEngine().estimate(evolve(spec, devices=theirs))
    assert there.devices.keys() == {"CUDA0", "CUDA1"}
    assert all(size > 0 for size in there.devices.values())
    for has_gpu in (True, False):
        monkeypatch.setattr(hardware, "has_gpu", lambda found=has_gpu: found)
        assert LlamaCppEngine().estimate(evolve(spec, devices=theirs)) == there
        elsewhere = LlamaCppEngine().estimate(evolve(spec, devices=()))
        assert elsewhere.devices == {}
        assert elsewhere.main > there.main
