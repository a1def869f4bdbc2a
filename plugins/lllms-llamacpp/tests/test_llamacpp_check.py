"""`lllms check` finds models that cannot be served, with the message of their failing load, and loads nothing."""

import asyncio
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from bpe_for_tests import write_bpe
from click.testing import CliRunner
from lllms_llamacpp import LlamaCppEngine, Options, devices
from lllms_llamacpp.gpus import Gpu
from models_for_tests import DIM, WORDS, transformer

from lllms_core.cli import cli
from lllms_core.config import parse_config
from lllms_core.engines.room import lack_of_memory
from lllms_core.errors import ModelLoadFailed
from lllms_core.host import Host
from lllms_core.types import Device, ModelSpec

pytestmark = pytest.mark.slow

BY_LLAMA_CPP = ("architecture", "tensor", "assertion")
"""The cases of `broken` that only llama.cpp itself detects."""
HEAD = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,)}


def check(models):
    """Check these models (files with their options); return the exit code, its errors and warnings, and the tables."""
    tables = {
        name: {"engine": "llamacpp", "file": str(file), "options": {"threads": 1, **options}}
        for name, (file, options) in models.items()
    }
    Path("lllms.toml").write_text("".join(
        f"[models.{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    ))
    result = CliRunner().invoke(cli, ["check"], prog_name="lllms")
    return result.exit_code, result.stderr.splitlines(), tables


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {json.dumps(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def refusal(file, options):
    """Return the reason for a load that is refused before llama.cpp sees the file."""
    with pytest.raises(ModelLoadFailed) as failed:
        LlamaCppEngine().load(ModelSpec("m", Options(**options), file), lambda _: None)
    return failed.value.message


async def failures(tables):
    """Return why each model's load fails, each in its own worker."""
    config = parse_config({"server": {"max_instances": len(tables)}, "models": tables})
    async with Host(config) as host:
        failed = await asyncio.gather(*map(host.load, tables), return_exceptions=True)
    assert all(isinstance(one, ModelLoadFailed) for one in failed)
    return {
        name: one.message.removeprefix(f"model '{name}' cannot be loaded: ")
        for name, one in zip(tables, failed, strict=True)
    }


@pytest.fixture(autouse=True)
def own_world(tmp_path, monkeypatch):
    """Ignore the machine's own configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def layers(keys, layer):
    return {f"blk.{number}.{name}": shape for number in range(keys["block_count"]) for name, shape in layer.items()}


@pytest.fixture
def broken(tmp_path, write_random, tiny_file):
    """Files that cannot be served, each with its options and part of the reason."""
    keys, layer = transformer({}, None)
    wide = {**keys, "embedding_length": 160, "attention.head_count_kv": 2}
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        del wide[key]
    heads = {f"attn_{name}.weight": (160, 160) for name in ("q", "k", "v", "output")}
    heads |= {"attn_norm.weight": (160,), "ffn_norm.weight": (160,), "ffn_down.weight": (160, 64)}
    heads |= {"ffn_gate.weight": (64, 160), "ffn_up.weight": (64, 160)}
    big = {"token_embd.weight": (WORDS, 160), "output_norm.weight": (160,)}
    odd = {
        "attn_norm.weight": (DIM,), "attn_qkv.weight": (48, DIM), "attn_output.weight": (DIM, DIM),
        "ffn_norm.weight": (DIM,), "ffn_up.weight": (128, DIM), "ffn_down.weight": (DIM, 64),
    }
    lacking = {name: shape for name, shape in layer.items() if name != "attn_v.weight"}

    def write(name, architecture, keys, shapes):
        return write_random(tmp_path / f"{name}.gguf", architecture, keys, shapes)

    return {
        "heads": (write("heads", "llama", wide, big | layers(wide, heads)), {"kv_type_k": "q8_0"}, "heads have 80"),
        "heads-by-layer": (
            write("layers", "llama", {**wide, "attention.head_count": [2, 2]}, big | layers(wide, heads)),
            {"kv_type_k": "q4_0", "flash_attention": "off"}, "heads have 80",
        ),
        "t5": (write("t5", "t5", keys, HEAD), {}, "encoder"),
        "llada": (write("llada", "llada", keys, HEAD | layers(keys, layer)), {}, "token by token"),
        "gpt2": (
            write("gpt2", "gpt2", keys, {**HEAD, "position_embd.weight": (512, DIM)}), {"context_length": 600},
            "knows only 512 positions",
        ),
        "memory": (tiny_file, {"context_length": 100_000_000}, "an instance takes about 1.4 TB"),
        "architecture": (write("new", "tomorrow", keys, HEAD), {}, "unknown model architecture: 'tomorrow'"),
        "tensor": (write("lacking", "llama", keys, HEAD | layers(keys, lacking)), {}, "attn_v.weight"),
        "assertion": (
            write("odd", "phi3", {**keys, "attention.value_length": 8}, HEAD | layers(keys, odd)), {}, "GGML_ASSERT",
        ),
    }


def test_what_cannot_be_served_is_found(broken):
    """The check fails, and reports each model with the same sentence as its load."""
    code, told, tables = check({name: (file, options) for name, (file, options, _) in broken.items()})
    assert code == 1
    reasons = {
        name: refusal(file, options) for name, (file, options, _) in broken.items() if name not in BY_LLAMA_CPP
    }
    reasons |= asyncio.run(failures({name: tables[name] for name in BY_LLAMA_CPP}))
    for name, reason in reasons.items():
        assert broken[name][2] in reason
        assert f"Error: models.{name}: {reason}" in told
    assert len([line for line in told if line.startswith("Error: ")]) == len(broken)


def test_a_missing_library_is_found(tiny_file, monkeypatch):
    """Without llama-cpp-python the check fails, and says what to install."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    code, told, _ = check({"m": (tiny_file, {})})
    assert code == 1
    [text] = told
    assert "models.m: engine 'llamacpp' needs llama-cpp-python, which is not installed; run pip install" in text


def test_models_that_can_be_served_pass(tiny_file, tmp_path):
    """A load's warning is also a warning of the check, given once; other models pass silently."""
    code, told, _ = check({
        "tiny": (tiny_file, {"kv_type_k": "q8_0", "kv_type_v": "q4_0"}),
        "vectors": (tiny_file, {"embeddings": True, "pooling": "mean"}),
        "long": (tiny_file, {"context_length": 2000}), "old": (write_bpe(tmp_path / "old.gguf", None), {}),
    })
    assert code == 0
    assert all(line.startswith(("Warning: models.long: ", "Warning: models.old: ")) for line in told)
    [long] = [line for line in told if "models.long" in line]
    assert "the model was trained for 1024 tokens" in long
    assert "Warning: models.old: llama.cpp: missing pre-tokenizer type, using: 'default'" in told


@pytest.mark.parametrize(("libraries", "gpu"), [
    ([], False), (["libggml-base.so.0", "libggml-cpu-haswell.so", "libggml-blas.dylib", "ggml-rpc.dll"], False),
    (["libggml-cpu.so", "libggml-cuda.so"], True), (["libggml-metal.dylib"], True), (["ggml-vulkan.dll"], True),
])
def test_the_memory_of_a_gpu_is_not_this_machines(tiny_file, tmp_path, monkeypatch, libraries, gpu):
    """If llama.cpp was built for a GPU, a model on the GPU is not checked against the machine's main memory."""
    (tmp_path / "lib").mkdir()
    for name in libraries:
        (tmp_path / "lib" / name).touch()
    package = ModuleSpec("llama_cpp", None, is_package=True)
    package.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("lllms_llamacpp.hardware.find_spec", lambda _: package)
    monkeypatch.setattr(devices, "known_gpus", lambda: [Gpu(Device("CUDA0", 2**34, 2**34))])
    for layers in (-1, 0):
        options = Options(context_length=10**8, gpu_layers=layers)
        memory = LlamaCppEngine().estimate(ModelSpec("m", options, tiny_file))
        assert memory.offloaded == (gpu and layers != 0)
        assert (lack_of_memory(memory) is None) == memory.offloaded
