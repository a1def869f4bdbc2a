"""The engine on a GPU, which may be one in software: what `make vulkan` builds and runs."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from attrs import frozen
from lllms_llamacpp import LlamaCppEngine, Options, devices, hardware
from lllms_llamacpp.looking import memory_of
from mixtures_for_tests import write_mixture

from lllms_core.gguf import read_gguf
from lllms_core.testing import running_server
from lllms_core.types import Memory, ModelSpec

MIB = 2**20
TINY = Path(hardware.__file__).parent / "models" / "tiny-chat.gguf"
ALL = (read_gguf(TINY).hyperparameter("block_count") or 0) + 1
"""Its layers, the output among them."""


def gpus() -> list[str]:
    """The GPUs that this build of llama.cpp finds."""
    return [one.device.name for one in devices.known_gpus()] if hardware.has_gpu() else []


def usual() -> dict[str, object]:
    """The options of most tests: one GPU, even if there are more. Mesa 22.3 crashes with flash attention."""
    return {"flash_attention": "off", "context_length": 512, "devices": gpus()[:1]}


pytestmark = [
    pytest.mark.slow, pytest.mark.vulkan,
    pytest.mark.skipif(
        not any(name.startswith("Vulkan") for name in gpus()),
        reason="llama.cpp has no Vulkan here; `make vulkan` builds one that has, with a driver in software",
    ),
]


@frozen
class Loaded:
    """The buffers that llama.cpp reports for a load, in bytes, and what it says of the layers."""

    buffers: Mapping[tuple[str, str], int]
    """By device, or "CPU", and kind: model, KV, compute."""
    layers: str
    """Like "3/5"."""

    def of(self, device: str, *kinds: str) -> int:
        """The bytes of these kinds on a device; everything in main memory is "CPU"."""
        return sum(size for (where, kind), size in self.buffers.items() if where == device and kind in kinds)


@pytest.fixture
def loaded(load: Callable[..., object], caplog: pytest.LogCaptureFixture) -> Callable[..., tuple[object, Loaded]]:
    """Load a model, and return it with what llama.cpp said."""

    def loaded(file: Path = TINY, **options: object) -> tuple[object, Loaded]:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="lllms.llamacpp"):
            talk = load(file, **{**usual(), **options})
        found: dict[tuple[str, str], int] = {}
        buffers = r"(\S+) (model|KV|compute|output) buffer size =\s*([\d.]+) MiB"
        for where, kind, size in re.findall(buffers, caplog.text):
            place = where if where in gpus() else "CPU"
            found[place, kind] = found.get((place, kind), 0) + round(float(size) * MIB)
        layers = re.search(r"offloaded (\d+/\d+) layers to GPU", caplog.text)
        return talk, Loaded(found, layers[1] if layers else "")

    return loaded


def told(file: Path = TINY, **options: object) -> Memory:
    """The estimate with these options."""
    return LlamaCppEngine().estimate(ModelSpec("m", Options(**{**usual(), **options}), file))


@pytest.mark.parametrize(("options", "layers"), [
    ({"gpu_layers": -1}, ALL), ({"gpu_layers": "auto"}, ALL), ({"gpu_layers": 3}, 3), ({"gpu_layers": 1}, 1),
    ({"gpu_layers": -1, "kv_offload": False}, ALL), ({"gpu_layers": 3, "kv_offload": False}, 3),
    ({"gpu_layers": -1, "op_offload": False}, ALL), ({"gpu_layers": 3, "op_offload": False}, 3),
])
def test_answers_are_the_same_wherever_layers_are(loaded, options, layers):
    """With all layers on the GPU, or some, the cache there or not, the model answers as on the processor."""
    talk, seen = loaded(**options)
    assert seen.layers == f"{layers}/{ALL}"
    assert talk.ask("lets count to 10").text.endswith("8, 9, 10.")
    assert talk.ask("ping", "pong", "ping").text == "pong"
    gpu = gpus()[0]
    assert (seen.of(gpu, "KV") > 0) == (options.get("kv_offload", True) and options["gpu_layers"] != 1)


@pytest.mark.parametrize("options", [{"gpu_layers": 0}, {"devices": []}], ids=str)
def test_nothing_is_on_the_gpu(loaded, options):
    """With no layers, or no devices, nothing is taken of the GPU, even for long prompts."""
    talk, seen = loaded(**options)
    assert talk.ask("one two three four five six seven eight nine ten " * 8 + "ping").tokens
    assert not any(seen.of(one, "model", "KV", "compute") for one in gpus())
    assert told(**options).devices == {}


@pytest.mark.parametrize("options", [
    {"gpu_layers": -1}, {"gpu_layers": 3}, {"gpu_layers": 1}, {"gpu_layers": -1, "kv_offload": False},
    {"gpu_layers": 3, "op_offload": False}, {"gpu_layers": -1, "context_length": 4096, "slots": 2},
], ids=str)
def test_the_estimate_is_near_what_each_device_gives(loaded, options):
    """Per device, what llama.cpp allocates is within the estimate, and at least two thirds of it."""
    gpu = gpus()[0]
    _, seen = loaded(**options)
    memory = told(**options)
    real = seen.of(gpu, "model", "KV", "compute")
    assert 2 / 3 * memory.devices[gpu] <= real <= memory.devices[gpu] * 1.02
    assert memory.kv == pytest.approx(seen.of("CPU", "KV"), rel=0.02, abs=10_000)


@pytest.mark.skipif(len(gpus()) < 2, reason="there is one GPU; tests/vulkan.py makes two of one")
@pytest.mark.parametrize(("options", "layers"), [
    ({"tensor_split": [3, 2]}, (3, 2)), ({"tensor_split": [1, 4]}, (1, 4)), ({"tensor_split": [0, 1]}, (0, 5)),
    ({"split_mode": "none", "main_gpu": 1}, (0, 5)), ({"split_mode": "none"}, (5, 0)),
    ({"devices": [1, 0], "tensor_split": [3, 2]}, (2, 3)), ({"devices": ["Vulkan1"]}, (0, 5)),
], ids=str)
def test_two_gpus_share_a_model(loaded, options, layers):
    """The layers are on the GPUs as the options say: each allocates the weights and the cache of its own."""
    both = gpus()[:2]
    chosen = {"devices": both, "gpu_layers": -1, **options}
    talk, seen = loaded(**chosen)
    memory = told(**chosen)
    for gpu, count in zip(both, layers, strict=True):
        assert (seen.of(gpu, "model") > 0) == (count > 0)
        assert seen.of(gpu, "model", "KV", "compute") <= memory.devices.get(gpu, 0) * 1.02
    cache = seen.of(both[0], "KV") + seen.of(both[1], "KV")
    first = chosen["devices"][0] in (0, both[0])  # the output, without a cache, is on the last one
    mine = layers[0] - (0 if first and layers[1] else 1 if layers[0] else 0)
    assert seen.of(both[0], "KV") == pytest.approx(cache * max(0, mine) / (ALL - 1), rel=0.02, abs=10_000)
    assert talk.ask("lets count to 10").text.endswith("8, 9, 10.")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, write_random: Callable[..., Path]) -> Path:
    return write_mixture(write_random, tmp_path_factory.mktemp("mixture") / "mixture.gguf")


@pytest.mark.parametrize("options", [
    {}, {"cpu_moe": True}, {"cpu_moe": 1}, {"override_tensors": {"_exps": "CPU"}},
], ids=str)
def test_experts_stay_in_main_memory(loaded, mixture, options):
    """Experts are on the GPU, or those of as many layers as the options say are not, to the byte of the estimate."""
    gpu = gpus()[0]
    talk, seen = loaded(mixture, gpu_layers=-1, **options)
    [header] = parts = [read_gguf(mixture)]
    experts = sum(tensor.size for tensor in header.tensors if "_exps" in tensor.name)
    away = {str({}): 0, str({"cpu_moe": 1}): experts // 3}.get(str(options), experts)
    whole = sum(tensor.size for tensor in header.tensors if "token_embd" not in tensor.name)
    assert seen.of(gpu, "model") == pytest.approx(whole - away, rel=0.02)
    settled = Options(**{**usual(), "gpu_layers": -1, "cpu_moe": 0, **options})
    assert memory_of(parts, settled, devices.known_gpus()).devices[gpu] >= seen.of(gpu, "model", "KV", "compute") * 0.98
    assert talk.ask("ping", max_tokens=3).tokens == 3


@pytest.mark.parametrize("layers", [0, 1, 3, ALL])
def test_auto_takes_what_the_budget_allows(layers):
    """With the memory that some layers need, and a little less than for one more, these are on the GPU, and no more."""
    gpu = gpus()[0]
    limit = told(gpu_layers=layers + 1).devices[gpu] - 1 if layers < ALL else told(gpu_layers=-1).devices[gpu]
    spec = ModelSpec("m", Options(**usual()), TINY, device_memory={gpu: limit})
    model = LlamaCppEngine().load(spec, lambda _: None)
    details = model.details()
    model.close()
    assert details["gpu_layers"] == f"{layers} of {ALL}"
    assert LlamaCppEngine().estimate(spec).devices.get(gpu, 0) <= limit


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server with two instances of tiny-chat, each on the GPU."""
    options = {**usual(), "slots": 2}
    models = {"tiny": {
        "engine": "llamacpp", "file": str(TINY), "min_instances": 2, "max_instances": 2, "options": options,
    }}
    with running_server(models) as url:
        yield url


def test_two_instances_share_a_gpu(server):
    """Two instances answer at once; each says what it takes of the GPU, and the server, what both take."""
    gpu = gpus()[0]

    def ask(_: int) -> str:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "lets count to 10"}], "temperature": 0}
        answer = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=300)
        return answer.json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(8) as threads:
        answers = {*threads.map(ask, range(8))}
    assert len(answers) == 1
    assert answers.pop().endswith("8, 9, 10.")
    seen = httpx.get(server).json()
    each = [one["devices"][gpu] for one in seen["instances"]]
    assert len(each) == 2
    assert each[0] == each[1] == told(slots=2).devices[gpu]
    assert all(one["details"]["gpu_layers"] == f"{ALL} of {ALL}" for one in seen["instances"])
    [device] = [one for one in seen["memory"]["devices"] if one["name"] == gpu]
    assert device["used"] == sum(each)
