"""llama.cpp's messages about a model reach the server's log, with the model's name."""

import logging

import pytest
from bpe_for_tests import write_bpe
from deadly_for_tests import DeadlyEngine
from lllms_llamacpp import Options
from models_for_tests import RECIPES

from lllms_core.config import parse_config
from lllms_core.errors import EngineDied, ModelLoadFailed
from lllms_core.host import Host
from lllms_core.pool.models import PoolModel
from lllms_core.pool.pool import Pool
from lllms_core.pool.state import ModelLimits, PoolLimits
from lllms_core.types import ModelSpec, TextRequest

pytestmark = [pytest.mark.slow, pytest.mark.asyncio]


async def load(file, **options):
    """Load a model through a host, in its own worker, and unload it."""
    models = {"tiny": {"engine": "llamacpp", "file": str(file), "options": {"threads": 1, "slots": 2, **options}}}
    async with Host(parse_config({"models": models})) as host:
        await host.load("tiny")


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_file_without_a_pre_tokenizer_is_warned_of(tmp_path, caplog):
    """llama.cpp's warning of worse answers is logged once, with the model's name and without decoration."""
    await load(write_bpe(tmp_path / "old.gguf", None))
    told = warnings(caplog)
    assert "tiny: llama.cpp: missing pre-tokenizer type, using: 'default'" in told
    assert "tiny: llama.cpp: GENERATION QUALITY WILL BE DEGRADED!" in told
    assert len(told) == len(set(told))
    assert not [text for text in told if "***" in text]


async def test_a_context_above_the_trained_one_is_warned_of(tiny_file, caplog):
    """A context beyond the trained length is a warning; all slots together may hold more than that."""
    await load(tiny_file, context_length=1024, slots=4)
    assert warnings(caplog) == []
    await load(tiny_file, context_length=1500)
    [told] = warnings(caplog)
    assert told.startswith("tiny: options.context_length is 1500, but the model was trained for 1024 tokens")
    await load(tiny_file, context_length=2048, rope_scaling="linear", rope_freq_scale=0.5)
    assert len(warnings(caplog)) == 1


async def test_warnings_of_one_kind_are_told_once(tmp_path, caplog):
    """A vocabulary with many empty tokens causes one line of warning."""
    await load(write_bpe(tmp_path / "empty.gguf", "llama-bpe", [""] * 5))
    assert len([text for text in warnings(caplog) if "empty token at index" in text]) == 1


async def test_details_are_for_debugging(tiny_file, caplog):
    """llama.cpp's details of a load are logged at debug level only."""
    caplog.set_level(logging.INFO, "lllms")
    await load(tiny_file)
    assert "llama.cpp: " not in caplog.text
    caplog.set_level(logging.DEBUG, "lllms")
    await load(tiny_file)
    assert "tiny: llama.cpp: n_ctx_train" in caplog.text


async def test_the_assertion_that_ends_a_load_is_told(tmp_path, write_random, caplog):
    """A load that llama.cpp aborts fails with the line of the assertion, in the error and in the log."""
    keys, layer = RECIPES["llama"][1]
    keys = {**keys, "attention.value_length": 8}
    layer = {
        "attn_norm.weight": layer["attn_norm.weight"], "attn_qkv.weight": (48, 32), "attn_output.weight": (32, 32),
        "ffn_norm.weight": (32,), "ffn_up.weight": (128, 32), "ffn_down.weight": (32, 64),
    }
    shapes = {"token_embd.weight": (928, 32), "output_norm.weight": (32,), "output.weight": (928, 32)}
    shapes |= {f"blk.{n}.{name}": shape for n in range(2) for name, shape in layer.items()}
    file = write_random(tmp_path / "odd.gguf", "phi3", keys, shapes)
    with pytest.raises(ModelLoadFailed, match=r"crashed \(SIGABRT\): phi3.cpp:\d+: GGML_ASSERT\(.*\) failed"):
        await load(file)
    assert "GGML_ASSERT" in caplog.text
    assert len(caplog.text.splitlines()) < 25


async def test_the_assertion_that_ends_a_worker_is_told(tiny_file, caplog):
    """If llama.cpp aborts an answering worker, the request fails with the line of the assertion."""
    spec = ModelSpec("tiny", Options(threads=1), tiny_file)
    pool = Pool({"tiny": PoolModel(DeadlyEngine(), spec, ModelLimits(), "process")}, PoolLimits(cores=2))
    await pool.start()
    try:
        with pytest.raises(EngineDied, match=r"crashed \(SIGABRT\): llama-sampler.cpp:\d+: GGML_ASSERT\(.*\) failed"):
            await pool.submit(TextRequest("r", "tiny", prompt="hello")).gather()
    finally:
        await pool.close(grace=0)
    told = caplog.text.splitlines()
    assert any("GGML_ASSERT" in line for line in told)
    assert len(told) < 25
