"""The GPUs that llama.cpp uses: where their figures come from, and how a model is spread over them."""

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from lllms_llamacpp import LlamaCppEngine, Options, devices, engine
from lllms_llamacpp.context import smaller
from lllms_llamacpp.device_list import list_devices
from lllms_llamacpp.memory import estimate, offloaded, split

from lllms_core.gguf import GGUF, read_gguf
from lllms_core.types import Device, Memory, ModelSpec

ONE = [Device("CUDA0", 100, 80)]


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of GPUs before a test."""
    monkeypatch.setattr(devices, "_known", None)


def says(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_a_process_tells_the_gpus() -> None:
    """The last line of its output counts; the first figures remain those of the estimates."""
    told = [{"name": "CUDA0", "total": 100, "free": 80}]
    assert devices.ask_for_devices(says(f"import json; print('noise'); print(json.dumps({told}))")) == (ONE[0],)
    told[0]["free"] = 20
    assert devices.ask_for_devices(says(f"import json; print(json.dumps({told}))")) == (Device("CUDA0", 100, 20),)
    assert devices.known_devices() == (ONE[0],)


@pytest.mark.parametrize("command", [
    says("raise SystemExit('no driver')"), says("print('[')"), says("print()"), says("pass"), says("print([{}])"),
    says("print('[{}]')"), says("""print('[{"name": 1, "total": 1, "free": 1}]')"""), ("/no/such/program",),
])
def test_whatever_goes_wrong_is_a_warning(command: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    """A process that fails, or answers nonsense, costs one line of the log, and there are no GPUs."""
    assert devices.ask_for_devices(command) == ()
    [line] = caplog.messages
    assert "llama.cpp's GPUs cannot be told" in line


def test_without_a_gpu_no_process_is_started(
    monkeypatch: pytest.MonkeyPatch, tiny_file: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    """If llama.cpp was built for processors only, nobody is asked."""
    monkeypatch.setattr(engine, "has_gpu", lambda: False)
    monkeypatch.setattr(devices, "ask_for_devices", lambda: pytest.fail("somebody was asked"))
    monkeypatch.setattr(engine, "ask_for_devices", devices.ask_for_devices)
    assert LlamaCppEngine().devices() == ()
    assert LlamaCppEngine().estimate(ModelSpec("m", Options(context_length=512), tiny_file)).devices == {}
    assert caplog.messages == []


def test_this_build_tells_its_gpus() -> None:
    """The process works with the installed library: without an error, even if it has no GPU."""
    command = (sys.executable, "-m", "lllms_llamacpp.device_list")
    assert isinstance(devices.ask_for_devices(command), tuple)
    assert command == devices.COMMAND


class FakeLibrary:
    """ggml's list of devices, as C functions."""

    def __init__(self, *found: tuple[str, int]) -> None:
        @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t))
        def memory(device: int, free: Any, total: Any) -> None:
            free[0], total[0] = device, 2**40 + device

        names = [name.encode() for name, _ in found]
        self.ggml_backend_dev_memory = memory
        self.ggml_backend_dev_count = ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: len(found))
        self.ggml_backend_dev_get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(lambda number: number + 1)
        self.ggml_backend_dev_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda one: found[one - 1][1])
        self.ggml_backend_dev_name = Names(names)


class Names:
    def __init__(self, names: list[bytes]) -> None:
        self._names = names

    def __call__(self, device: int) -> bytes:
        return self._names[device - 1]


@pytest.mark.parametrize(("found", "names"), [
    ([("CPU", 0)], []), ([("CUDA0", 1), ("CUDA1", 1), ("CPU", 0)], ["CUDA0", "CUDA1"]),
    ([("Vulkan0", 2), ("CPU", 0), ("BLAS", 3)], ["Vulkan0"]), ([("Vulkan0", 2), ("Vulkan1", 1)], ["Vulkan1"]),
])
def test_integrated_gpus_count_only_without_others(found: list[tuple[str, int]], names: list[str]) -> None:
    """The list has the devices that llama.cpp uses, with their memory, of any size."""
    told = list_devices(FakeLibrary(*found))  # type: ignore[arg-type]
    assert [one["name"] for one in told] == names
    assert all(one["total"] == 2**40 + int(one["free"]) for one in told)


@pytest.fixture
def parts(tiny_file: Path) -> list[GGUF]:
    return [read_gguf(tiny_file)]


def on_gpus(parts: list[GGUF], found: list[Device], **options: int) -> tuple[Memory, Memory]:
    settled = Options(context_length=1024, **options)  # type: ignore[arg-type]
    memory = offloaded(parts, settled, estimate(parts, settled))
    return memory, split(parts, settled, memory, found)


@pytest.mark.parametrize("layers", [-1, 1, 2])
def test_one_gpu_has_all_that_is_offloaded(parts: list[GGUF], layers: int) -> None:
    """It has what the estimate says of GPUs, and a quarter more for the buffers; main memory stays the same."""
    memory, told = on_gpus(parts, ONE, gpu_layers=layers)
    assert told.main == memory.main
    assert told.devices == {"CUDA0": told.device}
    buffer = estimate(parts, Options(context_length=1024)).compute - memory.compute
    assert told.device == pytest.approx(memory.device + buffer / 4, rel=0.001)


def test_layers_are_spread_by_free_memory(parts: list[GGUF]) -> None:
    """Each GPU gets layers by its share of the free memory, and a buffer of its own; a full one gets nothing."""
    _, alone = on_gpus(parts, ONE, gpu_layers=-1)
    buffer = (estimate(parts, Options(context_length=1024)).compute - alone.compute) * 5 // 4
    even = [Device("a", 10, 5), Device("b", 10, 5)]
    _, spread = on_gpus(parts, even, gpu_layers=-1)
    assert spread.devices.keys() == {"a", "b"}
    assert spread.device == pytest.approx(alone.device + buffer, rel=0.001)
    _, full = on_gpus(parts, [Device("a", 10, 0), Device("b", 10, 5)], gpu_layers=-1)
    assert full.devices == {"b": alone.device}
    _, last = on_gpus(parts, even, gpu_layers=1)
    assert last.devices.keys() == {"a"}
    _, none = on_gpus(parts, [], gpu_layers=-1)
    assert none.devices == {}


def test_fewer_layers_are_a_way_out(parts: list[GGUF]) -> None:
    """For a GPU that is too small, the advice is a number of layers that fits, or none at all."""
    options = Options(context_length=1024)

    def measure(settled: Options) -> Memory:
        return split(parts, settled, offloaded(parts, settled, estimate(parts, settled)), ONE)

    def ways(limit: int) -> list[str]:
        return [*smaller(parts, options, None, lambda memory: memory.device <= limit, measure)]

    part = measure(evolve(options, gpu_layers=2)).device
    assert "options.gpu_layers = 2" in ways(part)
    assert ways(0) == ["options.gpu_layers = 0"]
