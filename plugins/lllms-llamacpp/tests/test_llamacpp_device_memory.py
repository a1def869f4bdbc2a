"""How the estimate is spread over main memory and GPUs, and how many layers "auto" takes."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from lllms_llamacpp import Draft, LlamaCppEngine, Options, devices, hardware
from lllms_llamacpp.context import settle, smaller
from lllms_llamacpp.device_memory import estimate_on, settle_layers
from lllms_llamacpp.gpus import Gpu, rooms_on
from lllms_llamacpp.memory import Buffers, buffers, estimate
from lllms_llamacpp.network import read_network
from mixtures_for_tests import EXPERTS, write_mixture
from mixtures_for_tests import LAYERS as MIXED

from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, read_gguf
from lllms_core.types import Device, Memory, ModelSpec

MIB = 2**20
ONE = [Gpu(Device("CUDA0", 2**34, 2**33))]
EVEN = [Gpu(Device("a", 10, 5)), Gpu(Device("b", 10, 5))]
TINY = Path(hardware.__file__).parent / "models" / "tiny-chat.gguf"
PARTS = [read_gguf(TINY)]
LAYERS = PARTS[0].hyperparameter("block_count") or 0


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, write_random: Callable[..., Path]) -> list[GGUF]:
    return [read_gguf(write_mixture(write_random, tmp_path_factory.mktemp("mixture") / "mixture.gguf"))]


def on(gpus: list[Gpu], parts: list[GGUF] = PARTS, **options: object) -> Memory:
    """The estimate with these options, settled."""
    return estimate_on(parts, Options(context_length=1024, **{"cpu_moe": False, **options}), gpus)  # type: ignore[arg-type]


def buffers_of(parts: list[GGUF]) -> Buffers:
    """The buffers of a model on GPUs, with the options of these tests."""
    return buffers(parts, read_network(parts), Options(context_length=1024))


def size(parts: list[GGUF], *words: str) -> int:
    """The bytes of the tensors whose names contain any of the words."""
    return sum(tensor.size for part in parts for tensor in part.tensors if any(word in tensor.name for word in words))


def test_a_gpu_takes_layers_from_the_end() -> None:
    """With each layer on a GPU, main memory keeps less of weights and cache; the embedding, and logits, stay there."""
    memory = estimate(PARTS, Options(context_length=1024))
    assert on(ONE, gpu_layers=0) == memory
    splits = [on(ONE, gpu_layers=count, op_offload=False) for count in range(1, LAYERS + 2)]
    assert splits[-1] == on(ONE, gpu_layers=-1, op_offload=False) == on(ONE, gpu_layers=99)
    for number, (one, after) in enumerate(pairwise(splits)):
        moved = size(PARTS, f"blk.{LAYERS - 1 - number}.") + memory.kv // LAYERS
        assert one.weights + one.kv - after.weights - after.kv == moved
        assert after.device - one.device == moved
        assert one.devices == {"CUDA0": one.device}
    assert splits[0].kv == memory.kv
    assert splits[-1].kv == 0
    assert splits[-1].weights == size(PARTS, "token_embd")
    assert 0 < splits[-1].compute < memory.compute
    assert all(one.compute == memory.compute for one in splits[:-1])
    assert on(ONE, gpu_layers=1).compute == splits[-1].compute


def test_layers_are_spread_by_free_memory() -> None:
    """Each GPU gets layers by its share of the free memory, and a buffer of its own; a full one gets nothing."""
    alone, spread = on(ONE, gpu_layers=-1), on(EVEN, gpu_layers=-1)
    needed = buffers_of(PARTS)
    assert spread.devices.keys() == {"a", "b"}
    assert spread.device == sum(spread.devices.values()) == alone.device + needed.device + 2 * needed.copies
    assert spread.compute == alone.compute + needed.copies
    full = on([Gpu(Device("a", 10, 0)), EVEN[1]], gpu_layers=-1)
    assert full.devices == {"b": alone.device + needed.copies}
    by_rows, none = (on(EVEN, gpu_layers=-1, **{key: value}) for key, value in (("split_mode", "row"), ("cpu_moe", 1)))
    assert by_rows.device == alone.device + needed.device
    assert none.device < spread.device
    assert on(EVEN, gpu_layers=1, op_offload=False).devices.keys() == {"a"}
    assert on([], gpu_layers=-1) == estimate(PARTS, Options(context_length=1024))


@pytest.mark.parametrize(("options", "names"), [
    ({"devices": ["b"]}, {"b"}), ({"devices": [1, 0]}, {"a", "b"}), ({"tensor_split": [0, 1]}, {"b"}),
    ({"tensor_split": [1]}, {"a"}), ({"split_mode": "none"}, {"a"}), ({"split_mode": "none", "main_gpu": 1}, {"b"}),
    ({"split_mode": "row"}, {"a", "b"}), ({"devices": ["c"]}, {"c"}), ({"devices": [], "gpu_layers": 0}, set()),
])
def test_the_estimate_follows_the_options(options: Mapping[str, object], names: set[str]) -> None:
    """The GPUs that the options name are charged, integrated ones too, and all of them together with the same."""
    gpus = [*EVEN, Gpu(Device("c", 10, 5), default=False)]
    memory, alone = on(gpus, **{"gpu_layers": -1, **options}), on(ONE, gpu_layers=-1)
    assert memory.devices.keys() == names
    if len(names) == 1:
        several = "tensor_split" in options  # with which llama.cpp works on several steps at once
        assert memory.device == alone.device + (buffers_of(PARTS).copies if several else 0)


def test_shares_divide_the_layers() -> None:
    """With `tensor_split = [3, 1]`, three quarters of the layers are on the first GPU."""
    three, one = on(EVEN, gpu_layers=-1, tensor_split=[3, 1]).devices.values()
    other, another = on(EVEN, gpu_layers=-1, tensor_split=[1, 3]).devices.values()
    assert three > other
    assert one < another


def test_a_cache_in_main_memory_takes_nothing_of_a_gpu() -> None:
    """With `kv_offload = false` the cache is in main memory, and without flash attention its buffers are, too."""
    usual, off = on(ONE, gpu_layers=-1), on(ONE, gpu_layers=-1, kv_offload=False)
    plain = estimate(PARTS, Options(context_length=1024))
    assert (off.kv, off.compute) == (plain.kv, usual.compute)
    assert off.device == usual.device - plain.kv
    assert off.weights == usual.weights
    scores = on(ONE, gpu_layers=-1, kv_offload=False, flash_attention="off")
    assert scores.compute == estimate(PARTS, Options(context_length=1024, flash_attention="off")).compute
    assert scores.device < off.device


def test_experts_in_main_memory_take_room_for_one_matrix(mixture: list[GGUF]) -> None:
    """Experts in main memory do not count on the GPU, except room for the largest of their matrices, for prompts."""
    exps = size(mixture, "_exps")
    largest = exps // (3 * MIXED)
    usual, without = on(ONE, mixture, gpu_layers=-1), on(ONE, mixture, gpu_layers=-1, cpu_moe=True)
    assert usual.device - without.device == exps - largest - buffers_of(mixture).inputs
    assert without.weights - usual.weights == exps
    assert without.compute == usual.compute
    assert on(ONE, mixture, gpu_layers=-1, cpu_moe=True, op_offload=False).compute > usual.compute
    some = on(ONE, mixture, gpu_layers=-1, cpu_moe=1, op_offload=False)
    assert usual.device - some.device == exps // MIXED
    assert EXPERTS > 1
    same = on(ONE, mixture, gpu_layers=-1, override_tensors={"ffn_.*_exps": "CPU"})
    assert same == without


def test_a_tensor_can_be_on_a_gpu_of_its_own(mixture: list[GGUF]) -> None:
    """An override counts where it puts the tensor, also without layers there."""
    moved = size(mixture, "_exps")
    usual = on(EVEN, mixture, gpu_layers=-1, tensor_split=[1, 0])
    memory = on(EVEN, mixture, gpu_layers=-1, tensor_split=[1, 0], override_tensors={"_exps": "b"})
    assert memory.devices == {"a": usual.device - moved - buffers_of(mixture).copies, "b": moved}


@pytest.mark.parametrize("layers", [0, 2, -1])
def test_large_steps_need_room_on_the_first_gpu(layers: int) -> None:
    """Weights in main memory come to the GPU for large steps, in room for the largest matrix, unless it is off."""
    there, off = (on(EVEN, gpu_layers=layers, op_offload=offload) for offload in (True, False))
    more = {name: there.devices.get(name, 0) - off.devices.get(name, 0) for name in ("a", "b")}
    if layers < 0:
        assert there == off
    else:
        assert more["a"] >= max(tensor.size for tensor in PARTS[0].tensors if tensor.name.startswith("blk.0."))
        assert more["b"] == 0


# -- "auto" ------------------------------------------------------------------------------------------------------------


def settled(room: int, parts: list[GGUF] = PARTS, **options: object) -> tuple[Options, Memory]:
    """The options that "auto" becomes on a GPU with this room, and their estimate."""
    wanted = settle(parts, Options(context_length=1024, **options))  # type: ignore[arg-type]
    chosen = settle_layers(parts, wanted, ONE, {"CUDA0": room})
    return chosen, estimate_on(parts, chosen, ONE)


@given(room=st.integers(0, 30 * MIB), offload=st.booleans())
def test_auto_never_takes_more_than_there_is(room: int, offload: bool) -> None:
    """Whatever is free, the estimate of what "auto" chose is no larger."""
    _, memory = settled(room, op_offload="auto" if offload else False)
    assert memory.devices.get("CUDA0", 0) <= room


def test_auto_takes_all_or_as_many_as_fit() -> None:
    """With enough room all layers are taken; with a byte less than they need, fewer; with none, none."""
    everything, memory = settled(2**40)
    assert everything.gpu_layers == -1
    exact, _ = settled(memory.device)
    assert exact == everything
    fewer, _ = settled(memory.device - 1)
    assert isinstance(fewer.gpu_layers, int)
    assert 0 <= fewer.gpu_layers <= LAYERS
    assert settled(0)[0].gpu_layers == 0
    counts = [settled(room)[0].gpu_layers for room in range(0, memory.device, 100_000)]
    assert counts == sorted(counts, key=int)
    assert len(set(counts)) > 2


def test_auto_leaves_experts_behind_first(mixture: list[GGUF]) -> None:
    """A mixture that does not fit keeps all layers on the GPU, and its first experts in main memory; or as told."""
    _, whole = settled(2**40, mixture)
    options, memory = settled(whole.device - 1, mixture)
    assert (options.gpu_layers, options.cpu_moe) == (-1, 1)
    assert memory.device < whole.device
    kept, _ = settled(whole.device - 1, mixture, cpu_moe=False)
    assert kept.cpu_moe == 0
    assert kept.gpu_layers != -1
    told, _ = settled(2**40, mixture, cpu_moe=2)
    assert (told.gpu_layers, told.cpu_moe) == (-1, 2)


def test_a_number_of_layers_is_kept() -> None:
    """Only "auto" is chosen; a number stays, whether it fits or not."""
    assert settled(0, gpu_layers=2)[0].gpu_layers == 2
    assert settled(2**40, gpu_layers=2)[0].gpu_layers == 2


def test_several_gpus_get_shares_that_fit() -> None:
    """With several GPUs, "auto" also says how many layers each gets, so that llama.cpp does as was reckoned."""
    whole = on(ONE, gpu_layers=-1).device
    gpus = [Gpu(Device("a", whole, whole)), Gpu(Device("b", whole, whole))]
    for rooms in ({"a": whole, "b": whole // 2}, {"a": whole // 2, "b": whole}, {"a": whole // 2, "b": whole // 3}):
        chosen = settle_layers(PARTS, Options(context_length=1024, slots=4), gpus, rooms)
        memory = estimate_on(PARTS, chosen, gpus)
        assert len(chosen.tensor_split) == 2
        assert all(size <= rooms[name] for name, size in memory.devices.items())
        assert memory.device


def test_a_draft_model_goes_first() -> None:
    """A draft model is on the GPU if it fits there, and the layers of the model get the rest."""
    with_draft = Options(context_length=1024, speculation=Draft(TINY))
    chosen = settle_layers(PARTS, with_draft, ONE, {"CUDA0": 2**40})
    assert isinstance(chosen.speculation, Draft)
    assert (chosen.gpu_layers, chosen.speculation.gpu_layers) == (-1, -1)
    both = estimate_on(PARTS, chosen, ONE)
    alone = on(ONE, gpu_layers=-1)
    assert both.devices["CUDA0"] == 2 * alone.devices["CUDA0"]
    assert both.weights == 2 * alone.weights
    tight = settle_layers(PARTS, with_draft, ONE, {"CUDA0": both.device - 1})
    assert isinstance(tight.speculation, Draft)
    assert tight.speculation.gpu_layers == -1
    assert tight.gpu_layers != -1
    tiny = settle_layers(PARTS, with_draft, ONE, {"CUDA0": alone.device - 1})
    assert isinstance(tiny.speculation, Draft)
    assert tiny.speculation.gpu_layers == 0


def test_fewer_layers_are_a_way_out() -> None:
    """For a GPU that is too small, the advice is a number of layers that fits, or none at all."""
    options = Options(context_length=1024, gpu_layers=-1, op_offload=False)

    def measure(settled: Options) -> Memory:
        return estimate_on(PARTS, settled, ONE)

    def ways(limit: int) -> list[str]:
        return [*smaller(PARTS, options, None, lambda memory: memory.device <= limit, measure)]

    part = measure(evolve(options, gpu_layers=2)).device
    assert "options.gpu_layers = 2" in ways(part)
    assert ways(0) == ["options.gpu_layers = 0"]


def test_the_engine_takes_what_the_pool_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ModelSpec.device_memory` bounds "auto"; without it, a reserve of what is free stays free."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "known_gpus", lambda: ONE)
    engine, spec = LlamaCppEngine(), ModelSpec("m", Options(context_length=1024), TINY)
    whole = engine.estimate(spec)
    assert whole.devices.keys() == {"CUDA0"}
    less = engine.estimate(evolve(spec, device_memory={"CUDA0": whole.device - 1}))
    assert 0 < less.device < whole.device
    assert engine.estimate(evolve(spec, device_memory={"CUDA0": 0})).devices == {}
    told = engine.inspect(evolve(spec, device_memory={"CUDA0": whole.device - 1}))
    layers = int(str(told["gpu_layers"]).split()[0])
    assert told["device"] == f"GPU CUDA0 (17.2 GB) with {layers} of {LAYERS + 1} layers, and CPU"
    assert rooms_on(ONE, None) == {"CUDA0": 2**33 - 2**34 // 10}
    assert rooms_on(ONE, {"CUDA0": 7, "other": 1}) == {"CUDA0": 7}


def test_a_wrong_name_is_an_error_of_the_estimate_and_of_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """`show` and `check` name the GPUs that exist."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "known_gpus", lambda: ONE)
    engine, spec = LlamaCppEngine(), ModelSpec("m", Options(context_length=1024, devices=["CUDA1"]), TINY)
    with pytest.raises(ModelLoadFailed, match=r"there is no GPU 'CUDA1'; choose from CUDA0 \(0\)"):
        engine.estimate(spec)
    [finding] = engine.examine(spec)
    assert finding.fatal
    assert "choose from CUDA0 (0)" in finding.text


@pytest.mark.parametrize(("gpu", "options", "words"), [
    (False, {"devices": ["CUDA0"]}, "devices has no effect: llama.cpp is built without GPU support; "),
    (False, {"kv_offload": False, "tensor_split": [1, 2]}, "tensor_split, kv_offload have no effect: llama.cpp"),
    (False, {"op_offload": True}, "op_offload has no effect"),
    (False, {"split_mode": "row"}, "split_mode has no effect"),
    (True, {"cpu_moe": True}, "cpu_moe is true, which has no effect: the model is no mixture of experts; leave"),
    (True, {"override_tensors": {"nothing": "CPU"}}, "no tensor of the model has a name that 'nothing' matches"),
    (True, {"main_gpu": 0}, 'main_gpu is 0, which has no effect with split_mode "layer"; set split_mode to "none"'),
    (True, {"tensor_split": [2]}, "tensor_split has no effect: the model uses one GPU, Vulkan0; leave it out"),
])
def test_an_option_without_effect_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, options: Mapping[str, object], words: str,
) -> None:
    """Whatever cannot have an effect on this build, these GPUs or this model is named by `check`, with the way out."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: gpu)
    monkeypatch.setattr(devices, "known_gpus", lambda: [Gpu(Device("Vulkan0", 2**34, 2**33))])
    spec = ModelSpec("m", Options(context_length=1024, **options), TINY)  # type: ignore[arg-type]
    [finding] = LlamaCppEngine().examine(spec)
    assert not finding.fatal
    assert words in finding.text


@pytest.mark.parametrize("gpu", [True, False])
def test_the_defaults_are_no_warnings(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    """Neither the defaults nor what keeps a model off GPUs is a warning."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: gpu)
    monkeypatch.setattr(devices, "known_gpus", lambda: ONE)
    for options in ({}, {"gpu_layers": 0}, {"devices": []}, {"cpu_moe": False}):
        spec = ModelSpec("m", Options(context_length=1024, **options), TINY)  # type: ignore[arg-type]
        assert [*LlamaCppEngine().examine(spec)] == []
