"""What llama.cpp is given of the options for GPUs, and what it makes of it in a build for the processor."""

import ctypes
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import pytest
from ggml_for_tests import CPU_BUFFER, FakeLibrary, devices_of, overrides_of, shares_of
from lllms_llamacpp import LlamaCppEngine, Options, hardware, loading, native, offload
from lllms_llamacpp.device_list import list_devices
from lllms_llamacpp.devices import read_gpu
from mixtures_for_tests import write_mixture

from lllms_core.errors import ModelLoadFailed
from lllms_core.testing import load_model
from lllms_core.types import ModelSpec

pytestmark = pytest.mark.slow

TWO = (("CUDA0", 1), ("CUDA1", 1), ("Vulkan0", 2), ("CPU", 0))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, write_random: Callable[..., Path]) -> Path:
    """A mixture of experts with three layers."""
    return write_mixture(write_random, tmp_path_factory.mktemp("mixture") / "mixture.gguf")


class Given:
    """The parameters that llama.cpp was given."""

    model: Any
    context: Any


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """Remember the parameters of the next loads."""
    given, make, create = Given(), llama.llama_model_load_from_file, llama.llama_init_from_model

    def load(path: bytes, params: Any) -> Any:
        given.model = params
        return make(path, params)

    def init(model: Any, params: Any) -> Any:
        given.context = params
        return create(model, params)

    monkeypatch.setattr(llama, "llama_model_load_from_file", load)
    monkeypatch.setattr(llama, "llama_init_from_model", init)
    return given


def placed(*found: tuple[str, int], **options: object) -> tuple[Any, Any]:
    """The parameters of a model and its context, if ggml had these devices."""
    library: Any = FakeLibrary(*found)
    model, context = llama.llama_model_default_params(), llama.llama_context_default_params()
    gpus = [read_gpu(one) for one in list_devices(library)]
    offload.place(model, context, Options(**options), gpus, library)  # type: ignore[arg-type]
    return model, context


def test_without_options_llama_chooses() -> None:
    """By default llama.cpp uses all GPUs but integrated ones, by their free memory."""
    model, context = placed(*TWO, gpu_layers=-1)
    assert (model.n_gpu_layers, model.split_mode) == (-1, llama.LLAMA_SPLIT_MODE_LAYER)
    assert devices_of(model) is None
    assert shares_of(model) == []
    assert overrides_of(model) == []
    assert context.offload_kqv
    assert context.op_offload


@pytest.mark.parametrize(("options", "handles", "main"), [
    ({"devices": ["CUDA1"]}, [2], 0), ({"devices": [1, "CUDA0"]}, [2, 1], 0), ({"devices": ["Vulkan0"]}, [3], 0),
    ({"devices": ["CUDA1", "CUDA0"], "main_gpu": "CUDA0", "split_mode": "none"}, [2, 1], 1),
    ({"main_gpu": 1, "split_mode": "row"}, [1, 2], 1), ({"main_gpu": "CUDA1", "split_mode": "none"}, [1, 2], 1),
    ({"tensor_split": [3, 1]}, [1, 2], 0),
])
def test_devices_and_the_main_one(options: Mapping[str, object], handles: list[int], main: int) -> None:
    """GPUs are named, or counted as ggml lists them, integrated ones too; `main_gpu` is one of these."""
    model, _ = placed(*TWO, gpu_layers=-1, **options)
    assert devices_of(model) == handles
    assert model.main_gpu == main
    assert model.split_mode == ["none", "layer", "row"].index(str(options.get("split_mode", "layer")))


@pytest.mark.parametrize(("options", "uses"), [
    ({"gpu_layers": 0}, False), ({"devices": [], "gpu_layers": 0}, False), ({"gpu_layers": 1}, True),
    ({"gpu_layers": 0, "op_offload": True}, True), ({"gpu_layers": 0, "override_tensors": {"output": "CUDA0"}}, True),
])
def test_a_model_without_layers_on_gpus_does_not_touch_them(options: Mapping[str, object], uses: bool) -> None:
    """With `gpu_layers = 0` llama.cpp gets an empty list of devices, unless large steps or tensors are to go there."""
    model, context = placed(*TWO, **options)
    assert devices_of(model) == (None if uses else [])
    assert context.op_offload == (options.get("op_offload", options["gpu_layers"] != 0))


def test_shares_fill_the_list() -> None:
    """llama.cpp reads a share for each GPU that it could use; those without one get nothing."""
    model, _ = placed(*TWO, gpu_layers=-1, tensor_split=[3, 1])
    assert shares_of(model) == [3, 1, *[0] * (int(llama.llama_max_devices()) - 2)]


def test_caches_and_steps() -> None:
    """`kv_offload` and `op_offload` reach the context."""
    _, context = placed(*TWO, gpu_layers=-1, kv_offload=False, op_offload=False)
    assert not context.offload_kqv
    assert not context.op_offload


def test_overrides_keep_their_order() -> None:
    """The patterns are tried in the order of the table, those of `cpu_moe` after them."""
    patterns = {r"blk\.1\..*": "CUDA1", "ffn_.*_exps": "CPU"}
    model, _ = placed(*TWO, gpu_layers=-1, override_tensors=patterns, cpu_moe=2)
    [*own, (experts, buffer)] = overrides_of(model)
    assert own == [(r"blk\.1\..*", CPU_BUFFER + 2), ("ffn_.*_exps", CPU_BUFFER)]
    assert buffer == CPU_BUFFER
    names = [f"blk.{layer}.{name}.weight" for layer in (0, 1, 2, 11) for name in ("ffn_up_exps", "ffn_gate_inp")]
    found = [name for name in names if re.search(experts, name)]
    assert found == ["blk.0.ffn_up_exps.weight", "blk.1.ffn_up_exps.weight"]


@pytest.mark.parametrize(("options", "words"), [
    ({"devices": ["CUDA2"]}, "options.devices: there is no GPU 'CUDA2'; choose from CUDA0 (0), CUDA1 (1), Vulkan0 (2)"),
    ({"devices": [5]}, "options.devices: there is no GPU 5; choose from CUDA0 (0), CUDA1 (1), Vulkan0 (2)"),
    ({"devices": [0, "CUDA0"]}, "options.devices names CUDA0 (0), CUDA0 (1); name each GPU once"),
    ({"main_gpu": 2}, "options.main_gpu: there is no GPU 2; choose from CUDA0 (0), CUDA1 (1)"),
    ({"devices": ["CUDA0"], "main_gpu": "CUDA1"}, "options.main_gpu: there is no GPU 'CUDA1'; choose from CUDA0 (0)"),
    ({"devices": ["Vulkan0"], "split_mode": "row"}, 'options.split_mode is "row", which Vulkan0 (0) cannot do; set it'),
    ({"tensor_split": [1, 1, 1]}, "has 3 shares, but the model uses CUDA0 (0), CUDA1 (1); give each GPU one share"),
    ({"override_tensors": {"x": "CUDA7"}}, "the model uses no GPU 'CUDA7'; choose from CPU, CUDA0 (0), CUDA1 (1)"),
])
def test_a_gpu_that_does_not_exist_is_an_error(options: Mapping[str, object], words: str) -> None:
    """A wrong name or place is refused with those that exist."""
    with pytest.raises(ModelLoadFailed, match=re.escape(words)):
        placed(*TWO, gpu_layers=-1, **options)


def test_the_load_passes_them_on(given: Given, mixture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load gives llama.cpp what the options say, without GPUs, too: shares, the mode, experts, caches."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    options = {
        "context_length": 64, "gpu_layers": 2, "tensor_split": [2, 1], "kv_offload": False,
        "op_offload": False, "cpu_moe": True, "override_tensors": {"attn_q": "CPU"},
    }
    load_model(LlamaCppEngine(), options, file=mixture).close()
    assert given.model.n_gpu_layers == 2
    assert given.model.split_mode == llama.LLAMA_SPLIT_MODE_LAYER
    assert shares_of(given.model)[:3] == [2, 1, 0]
    assert [pattern for pattern, _ in overrides_of(given.model)] == [
        "attn_q", r"blk\.(0|1|2)\.ffn_(up|down|gate|gate_up)_(ch|)exps",
    ]
    assert not given.context.offload_kqv
    assert not given.context.op_offload


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The lines of llama.cpp's log, of any level, from now on."""
    lines: list[str] = []
    callback = llama.llama_log_callback(lambda _level, text, _: lines.append(text.decode(errors="replace")))
    native.native_log()
    llama.llama_log_set(callback, None)
    yield lines
    native.native_log().install()


@pytest.mark.parametrize(("options", "layers"), [
    ({"cpu_moe": True}, {0, 1, 2}), ({"cpu_moe": 2}, {0, 1}), ({"cpu_moe": 99}, {0, 1, 2}), ({"cpu_moe": False}, set()),
    ({"override_tensors": {r"blk\.1\.ffn_.*_exps": "CPU"}}, {1}), ({}, set()),
])
def test_llama_moves_the_experts(
    options: Mapping[str, object], layers: set[int], mixture: Path, told: list[str],
) -> None:
    """llama.cpp itself says which tensors it moves: exactly the experts of the layers that the options name."""
    load_model(LlamaCppEngine(), {"context_length": 64, **options}, file=mixture).close()
    moved = re.findall(r"tensor blk\.(\d+)\.(\S+) .*buffer type overridden to (?:CPU|\w+_Host)", "".join(told))
    assert {(int(layer), name) for layer, name in moved} == {
        (layer, f"ffn_{name}_exps.weight") for layer in layers for name in ("gate", "up", "down")
    }


@pytest.fixture
def processor_as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine take this build's only device, the processor, for a GPU."""
    kind = offload.libggml.ggml_backend_dev_type
    kind.argtypes, kind.restype = [ctypes.c_void_p], ctypes.c_int

    def as_gpu(device: int) -> int:
        return 1 if kind(device) == 0 else kind(device)

    monkeypatch.setattr(offload.libggml, "ggml_backend_dev_type", Kind(as_gpu))
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)


class Kind:
    """A C function, replaced."""

    def __init__(self, function: Callable[[int], int]) -> None:
        self._function = function

    def __call__(self, device: int) -> int:
        return self._function(device)


@pytest.mark.usefixtures("processor_as_gpu")
@pytest.mark.parametrize(("options", "used"), [
    ({"devices": ["CPU"], "gpu_layers": 3}, ["CPU"]), ({"devices": ["CPU"], "gpu_layers": "auto"}, ["CPU"]),
    ({"devices": ["CPU"], "gpu_layers": 0}, []), ({"devices": []}, []),
])
def test_llama_uses_the_named_devices(
    tiny_file: Path, told: list[str], options: Mapping[str, object], used: list[str],
) -> None:
    """llama.cpp itself says which devices it uses: those of the list; and none if nothing is to be there."""
    load_model(LlamaCppEngine(), {"context_length": 64, **options}, file=tiny_file).close()
    assert re.findall(r"using device (\S+) \(", "".join(told)) == used


@pytest.mark.parametrize(("options", "device"), [
    ({"gpu_layers": 0}, "CPU (gpu_layers is 0)"), ({"devices": []}, "CPU (devices is empty)"),
])
def test_a_model_off_the_gpus_takes_no_memory_there(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch, given: Given, options: Mapping[str, object], device: str,
) -> None:
    """A driver keeps memory for each process that asks it for a GPU's: a model that uses none does not ask."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(offload, "list_devices", lambda _: pytest.fail("the GPUs were looked at"))
    model = load_model(LlamaCppEngine(), {"context_length": 64, **options}, file=tiny_file)
    details = model.info.details
    model.close()
    assert devices_of(given.model) == []
    assert (details["device"], str(details["gpu_layers"])[:5]) == (device, "0 of ")


@pytest.mark.usefixtures("processor_as_gpu")
def test_llama_itself_refuses_a_main_gpu_that_does_not_exist(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`split_mode`, `devices` and `main_gpu` are what llama.cpp goes by: a place beyond the list is its error."""
    def place(model: Any, context: Any, options: Options) -> None:
        offload.place(model, context, options)
        model.main_gpu = 3

    monkeypatch.setattr(loading, "place", place)
    spec = ModelSpec("m", Options(context_length=64, devices=["CPU"], split_mode="none", gpu_layers=-1), tiny_file)
    with pytest.raises(ModelLoadFailed, match=r"invalid value for main_gpu: 3 \(available devices: 1\)"):
        LlamaCppEngine().load(spec, lambda _: None)


def test_the_log_says_what_auto_took(tiny_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """The device, and how many of the layers are there, are in the model's details and in the log."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(offload, "list_devices", lambda _: [])
    with caplog.at_level(logging.INFO, "lllms"):
        model = load_model(LlamaCppEngine(), {"context_length": 64}, file=tiny_file)
    details = model.info.details
    model.close()
    assert details["device"] == "CPU (llama.cpp is built for GPUs, but finds none; check the driver)"
    assert re.fullmatch(r"0 of \d+", details["gpu_layers"])
    assert f"computes on {details['device']}" in caplog.text
