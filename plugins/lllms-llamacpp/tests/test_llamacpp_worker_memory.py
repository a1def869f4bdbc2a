"""The memory of workers, as told and as measured. `measure_memory.py` compares more, and larger, configurations."""

import asyncio
import sys

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from lllms_llamacpp.repacking import kinds_here, repacked, repacked_kinds
from sized_models_for_tests import SHAPES, TINY, write_sized
from worker_memory_for_tests import at_work

from lllms_core.gguf import TENSOR_TYPES, TensorInfo

pytestmark = pytest.mark.slow

SMALL = SHAPES["25M"]
NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("shape", "kind", "spm", "options", "prompts"), [
    (evolve(TINY, layers=2), "Q8_0", False, {"slots": 4, "context_length": 2048}, (4, 2040)),
    (SMALL, "Q8_0", False, {"slots": 1, "context_length": 1024, "kv_type_k": "q8_0", "kv_type_v": "q8_0"}, (1, 900)),
    (SMALL, "Q4_0", True, {"slots": 1, "context_length": 1024}, (1, 900)),
    (SMALL, "Q8_0", False, {"slots": 2, "context_length": 1280, "flash_attention": "off"}, (2, 1200)),
    (evolve(SMALL, tied=True), "Q4_0", False, {"slots": 1, "context_length": 1024, "use_mmap": False}, (1, 900)),
], ids=["four slots", "quantised KV", "repacked", "no flash attention", "read"])
def test_a_worker_takes_what_was_told(shape, kind, spm, options, prompts, tmp_path):
    """A worker at work takes within 10 % of what is told, with its vocabulary and the weights repacked for the CPU."""
    file = write_sized(tmp_path / "model.gguf", shape, kind, spm=spm)
    need, taken = asyncio.run(at_work(file, options, *prompts))
    assert taken.private == pytest.approx(need.private, rel=0.10)
    assert taken.mapped >= 0.95 * need.shared
    if kind == "Q4_0" and kind in kinds_here() and options.get("use_mmap", True):
        assert need.private > 0.5 * file.stat().st_size
        assert need.shared < 0.5 * file.stat().st_size


def test_what_is_repacked_depends_on_the_processor():
    """Only processors with the instructions for it repack; of unknown ones the most is assumed."""
    assert repacked_kinds("x86_64", {"sse2", "avx"}) == frozenset()
    assert "Q4_K" in repacked_kinds("AMD64", {"avx2"})
    assert "Q2_K" not in repacked_kinds("x86_64", {"avx2"})
    assert "Q2_K" in repacked_kinds("x86_64", {"avx2", "avx512bw"})
    assert repacked_kinds("x86_64", {"avx2"}) < repacked_kinds("x86_64", None)
    assert "Q8_0" in repacked_kinds("aarch64", {"asimddp"})
    assert repacked_kinds("aarch64", {"asimd"}) == frozenset()
    assert repacked_kinds("riscv64", None) == frozenset()


def matrix(name, rows, kind="Q4_0"):
    return TensorInfo(f"{name}.weight", (256, rows), NUMBERS[kind], 0)


def test_each_matrix_is_repacked_by_its_type_and_rows():
    """Embeddings stay, as do other types, vectors, and rows that are no multiple of eight; a tied output is copied."""
    kinds = {"Q4_0"}
    plain = matrix("blk.0.ffn_up", 64)
    assert repacked([plain], kinds) == (plain.size, 0)
    others = [matrix("blk.0.a", 60), matrix("blk.0.b", 64, "Q8_0"), TensorInfo("blk.0.c.weight", (256,), 2, 0)]
    embedding, output = matrix("token_embd", 80), matrix("output", 80)
    assert repacked([*others, embedding, output], kinds) == (output.size, 0)
    assert repacked([*others, embedding], kinds) == (embedding.size, embedding.size)


@given(st.lists(st.builds(
    TensorInfo, st.sampled_from(["token_embd.weight", "output.weight", "a.weight"]),
    st.lists(st.integers(0, 2**20), min_size=1, max_size=3).map(tuple), st.integers(-1, 99), st.integers(0, 9),
)), st.sets(st.sampled_from(sorted(NUMBERS))))
def test_any_tensors_are_repacked_or_not(tensors, kinds):
    """No header makes more copies than there are bytes, other than that of a tied output."""
    copied, more = repacked(tensors, kinds)
    assert 0 <= more <= copied <= sum(tensor.size for tensor in tensors) + more


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL", "MXFP4", "Q2_K"])
def test_llama_cpp_repacks_what_is_assumed(kind, tmp_path, caplog):
    """On this machine, llama.cpp makes copies of the weights of exactly the assumed types."""
    from lllms_llamacpp import LlamaCppEngine, Options

    from lllms_core.types import ModelSpec

    file = write_sized(tmp_path / "model.gguf", evolve(TINY, layers=1, inner=768), kind)
    with caplog.at_level("DEBUG", logger="lllms.llamacpp"):
        LlamaCppEngine().rehearse(ModelSpec("m", Options(threads=1, slots=1, context_length=256), file))
    assert ("CPU_REPACK model buffer" in caplog.text) == (kind in kinds_here())
