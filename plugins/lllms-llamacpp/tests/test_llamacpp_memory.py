import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from attrs import evolve
from berts_for_tests import random_bert
from hypothesis import given
from hypothesis import strategies as st
from lllms_llamacpp import LlamaCppEngine, Lora, Options
from lllms_llamacpp.memory import estimate, scores_in_half
from lllms_llamacpp.overhead import LIBRARIES
from lllms_llamacpp.sizes import sizes
from models_for_tests import RECIPES

from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, Metadata, TensorInfo
from lllms_core.types import Memory, ModelSpec

WORDS, DIM, LAYERS = 928, 256, 3


def attention(heads, kv_heads, head=64, *, fused=False, bias=False):
    rows = {"q": heads * head, "k": kv_heads * head, "v": kv_heads * head}
    shapes = {"attn_norm.weight": (DIM,), "attn_output.weight": (DIM, heads * head)}
    if fused:
        return shapes | {"attn_qkv.weight": (sum(rows.values()), DIM)}
    shapes |= {f"attn_{name}.weight": (count, DIM) for name, count in rows.items()}
    return shapes | ({f"attn_{name}.bias": (count,) for name, count in rows.items()} if bias else {})


def feed_forward(inner, *, fused=False):
    shapes = {"ffn_norm.weight": (DIM,), "ffn_up.weight": (inner * (2 if fused else 1), DIM)}
    return shapes | {"ffn_down.weight": (DIM, inner)} | ({} if fused else {"ffn_gate.weight": (inner, DIM)})


def experts(inner, count):
    shapes = {f"ffn_{name}_exps.weight": (count, inner, DIM) for name in ("gate", "up")}
    return shapes | {
        "ffn_norm.weight": (DIM,), "ffn_gate_inp.weight": (count, DIM), "ffn_down_exps.weight": (count, DIM, inner),
    }


def mamba(inner, state, rank, kernel):
    return {
        "attn_norm.weight": (DIM,), "ssm_in.weight": (2 * inner, DIM), "ssm_conv1d.weight": (inner, kernel),
        "ssm_conv1d.bias": (inner,), "ssm_x.weight": (rank + 2 * state, inner), "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,), "ssm_a": (inner, state), "ssm_d": (inner,), "ssm_out.weight": (DIM, inner),
    }


def mamba2(inner, state, heads, kernel):
    convolved = inner + 2 * state
    return {
        "ssm_in.weight": (inner + convolved + heads, DIM), "ssm_conv1d.weight": (convolved, kernel),
        "ssm_conv1d.bias": (convolved,), "ssm_dt.bias": (heads,), "ssm_a": (heads, 1), "ssm_d": (heads, 1),
        "ssm_norm.weight": (1, inner), "ssm_out.weight": (DIM, inner),
    }


def states(inner, state, rank, **more):
    sizes = {"conv_kernel": 4, "inner_size": inner, "state_size": state, "time_step_rank": rank, **more}
    return {f"ssm.{name}": value for name, value in sizes.items()}


def norms(*names):
    return {f"{name}.weight": (DIM,) for name in names}


TIED = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,)}
UNTIED = TIED | {"output.weight": (WORDS, DIM)}
MODELS = {
    "llama": ("llama", (4, 4), 704, {}, attention(4, 4) | feed_forward(704), UNTIED),
    "llama-gqa": (
        "llama", (8, 2), 1024, {"rope.dimension_count": 32}, attention(8, 2, 32) | feed_forward(1024), UNTIED,
    ),
    "mixtral": (
        "llama", (4, 2), 512, {"expert_count": 4, "expert_used_count": 2}, attention(4, 2) | experts(512, 4), UNTIED,
    ),
    "qwen2": ("qwen2", (4, 2), 1408, {}, attention(4, 2, bias=True) | feed_forward(1408), TIED),
    "gemma2": (
        "gemma2", (4, 2), 1024, {"attention.sliding_window": 128, "attention.key_length": 64,
                                 "attention.value_length": 64},
        attention(4, 2) | feed_forward(1024) | norms("post_attention_norm", "post_ffw_norm"), TIED,
    ),
    "phi3": (
        "phi3", (4, 4), 704, {"rope.dimension_count": 64}, attention(4, 4, fused=True) | feed_forward(704, fused=True),
        UNTIED,
    ),
    "mamba": ("mamba", (0, 0), 0, states(512, 16, 16), mamba(512, 16, 16, 4), UNTIED),
    "falcon-h1": (
        "falcon-h1", (4, 2), 512, states(384, 64, 6, group_count=1) | {"attention.key_length": 64,
                                                                       "attention.value_length": 64},
        {name.replace("ffn_norm.weight", "ffn_norm"): shape for name, shape in
         (attention(4, 2) | feed_forward(512) | mamba2(384, 64, 6, 4)).items()}, UNTIED,
    ),
}
"""By name: architecture, query and key heads, feed-forward size, further keys, a layer's tensors, other tensors."""


@pytest.fixture(scope="module")
def write_model(tmp_path_factory, write_random):
    """Write a model of `MODELS` with random weights, once."""
    folder = tmp_path_factory.mktemp("models")

    def write(name):
        architecture, (heads, kv_heads), inner, more, layer, rest = MODELS[name]
        file = folder / f"{name}.gguf"
        keys = {
            "context_length": 4096, "embedding_length": DIM, "feed_forward_length": inner, "block_count": LAYERS,
            "attention.head_count": heads, "attention.head_count_kv": kv_heads,
            "attention.layer_norm_rms_epsilon": 1e-5, **more,
        }
        shapes = rest | {f"blk.{i}.{key}": shape for i in range(LAYERS) for key, shape in layer.items()}
        return file if file.exists() else write_random(file, architecture, keys, shapes)

    return write


def loaded(spec, caplog):
    """The bytes that llama.cpp reports to allocate when it loads a model."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="lllms.llamacpp"):
        LlamaCppEngine().load(spec, lambda _: None).close()
    found = dict.fromkeys(("model", "KV", "RS", "compute", "output"), 0.0)
    for kind, size in re.findall(r" (model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB", caplog.text):
        found[kind] += float(size) * 2**20
    return Memory(round(found["model"]), round(found["KV"] + found["RS"]), round(found["compute"] + found["output"]))


def converted(name, spec, made):
    """Bytes of scores that are converted, without flash attention; llama.cpp allocates them when it computes."""
    heads = 0 if name == "mamba" else MODELS[name][1][0]
    cells = -(-made.kv_size // 256) * 256
    off = spec.options.flash_attention == "off" or spec.options.pooling is not None
    return scores_in_half(heads, cells, min(cells, made.micro_batch)) if off else 0


def outputs(spec, words, width):
    """Bytes for outputs that llama.cpp allocates only with the largest pass, not at load."""
    made = sizes(spec.options, can_trim=True, embeds=True)
    return (made.batch - made.sequences) * (words + width) * 4


CASES = {
    "as usual": {"slots": 4, "context_length": 1024},
    "one slot": {"slots": 1, "context_length": 512, "use_mmap": False},
    "quantised KV": {"slots": 2, "context_length": 1024, "kv_type_k": "q8_0", "kv_type_v": "q4_0"},
    "no flash attention": {"slots": 2, "context_length": 768, "flash_attention": "off"},
    "small steps": {"slots": 4, "kv_size": 2000, "context_length": 1000, "batch_size": 256, "micro_batch_size": 128},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MODELS)
def test_estimate_is_near_what_is_allocated(name, case, write_model, caplog):
    """For each architecture, the estimate is within 2 % for weights and KV cache, 12 % for buffers, 10 % in total."""
    spec = ModelSpec(name, Options(threads=1, **CASES[case]), write_model(name))
    told, real = LlamaCppEngine().estimate(spec), loaded(spec, caplog)
    real = evolve(real, compute=real.compute + converted(name, spec, sizes(spec.options, can_trim=True)))
    assert told.weights == pytest.approx(real.weights, rel=0.02)
    assert told.kv == pytest.approx(real.kv, rel=0.02, abs=10_000)  # the log has two digits after the point
    assert told.compute == pytest.approx(real.compute, rel=0.12)
    assert told.total - told.overhead == pytest.approx(real.total, rel=0.10)
    assert told.mapped == spec.options.use_mmap


@pytest.mark.parametrize("options", [{}, {"flash_attention": "on"}, {"batch_size": 1024}], ids=str)
def test_estimate_of_an_embedding_model(options, tmp_path, caplog):
    """For BERT, which has no KV cache, the estimate is within 2 % for weights and 12 % for buffers."""
    bert = random_bert(width=192, heads=6, inner=768, positions=512)
    spec = ModelSpec("b", Options(threads=1, context_length=512, **options), bert.write(tmp_path / "bert.gguf"))
    told, real = LlamaCppEngine().estimate(spec), loaded(spec, caplog)
    assert told.weights == pytest.approx(real.weights, rel=0.02)
    assert told.kv == real.kv == 0
    assert told.compute == pytest.approx(real.compute + outputs(spec, len(bert.vocabulary), 192), rel=0.12)


@pytest.mark.parametrize("name", ["llama-gqa", "gemma2"])
def test_estimate_of_a_model_that_could_write_but_embeds(name, write_model, caplog):
    """A generating model also computes logits of all tokens that it embeds: its buffers are estimated within 12 %."""
    spec = ModelSpec(name, Options(threads=1, embeddings=True, pooling="mean", context_length=600), write_model(name))
    told, real = LlamaCppEngine().estimate(spec), loaded(spec, caplog)
    assert told.kv == pytest.approx(real.kv, rel=0.02, abs=10_000)
    later = outputs(spec, WORDS, DIM) + converted(name, spec, sizes(spec.options, can_trim=True, embeds=True))
    assert told.compute == pytest.approx(real.compute + later, rel=0.12)


def taken(file, options, *kinds):
    """The estimate for an embedding model, and the memory it takes after texts of these token counts."""
    code = Path(__file__).with_name("embedding_memory_for_tests.py")
    command = [sys.executable, str(code), str(file), json.dumps(options), json.dumps(kinds)]
    environment = os.environ | LlamaCppEngine.environment
    found = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    return Memory(**found["told"]), found["taken"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["reads", "writes"])
def test_estimate_of_an_embedding_model_at_work(kind, tmp_path, write_random):
    """With a large vocabulary, the memory after short texts and then a full context is within 10 % of the estimate."""
    words = 100_000
    if kind == "reads":
        bert = random_bert(width=32, heads=2, layers=1, inner=64, positions=2048)
        file = bert.with_words(words).write(tmp_path / "words.gguf")
    else:
        architecture, (keys, layer) = RECIPES["llama"]
        shapes = {f"blk.{n}.{name}": shape for n in range(keys["block_count"]) for name, shape in layer.items()}
        shapes |= {"token_embd.weight": (words, 32), "output_norm.weight": (32,), "output.weight": (words, 32)}
        keys = keys | {"context_length": 2048}
        file = write_random(tmp_path / "words.gguf", architecture, keys, shapes, words=words)
    options = {} if kind == "reads" else {"pooling": "mean"}
    told, (short, whole) = taken(file, {"context_length": 1024, **options}, [64] * 20 + [500] * 4, [1024])
    assert told.longest >= 512 * (words + 32) * 4
    assert told.overhead - LIBRARIES >= 150 * words
    assert short == pytest.approx(told.total - LIBRARIES - told.longest, rel=0.10)
    assert whole == pytest.approx(told.total - LIBRARIES, rel=0.10)


def test_estimate_follows_the_options(tiny_file):
    """The KV cache grows with slots and context, shrinks with smaller types, and has the size `kv_size` if given."""
    def kv(**options):
        return LlamaCppEngine().estimate(ModelSpec("tiny", Options(**options), tiny_file)).kv

    one = kv(slots=1, context_length=1024)
    assert kv(slots=4, context_length=1024) == kv(slots=1, context_length=4096) == 4 * one
    assert kv(slots=4, context_length=1024, kv_size=1024) == one
    assert kv(slots=1, context_length=1024, kv_type_k="q8_0", kv_type_v="q8_0") == one * 17 // 32
    assert kv(slots=1, context_length=1000) == one


def test_parts_of_a_split_model_are_counted_together(tmp_path, tiny_file):
    """A model in several files has the same estimate as in one; a missing part is named."""
    reader = gguf.GGUFReader(tiny_file)
    files = [tmp_path / f"tiny-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, file in enumerate(files):
        writer = gguf.GGUFWriter(file, "llama")
        for found in reader.fields.values() if number == 0 else ():
            if not found.name.startswith("GGUF.") and found.name != "general.architecture":
                sub = found.types[-1] if found.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(found.name, found.contents(), found.types[0], sub)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        for tensor in reader.tensors[number::2]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    engine = LlamaCppEngine()
    whole = engine.estimate(ModelSpec("tiny", Options(), tiny_file))
    assert engine.estimate(ModelSpec("tiny", Options(), files[0])) == whole
    files[1].unlink()
    with pytest.raises(ModelLoadFailed, match="00002-of-00002"):
        engine.estimate(ModelSpec("tiny", Options(), files[0]))


def test_adapters_count(tmp_path, tiny_file):
    """A LoRA adapter's size is counted; a missing one is named."""
    adapter = tmp_path / "adapter.gguf"
    adapter.write_bytes(bytes(1000))
    engine = LlamaCppEngine()
    plain = engine.estimate(ModelSpec("tiny", Options(), tiny_file))
    with_adapter = engine.estimate(ModelSpec("tiny", Options(lora=[Lora(str(adapter))]), tiny_file))
    assert with_adapter.weights == plain.weights + 1000
    adapter.unlink()
    with pytest.raises(ModelLoadFailed, match=r"adapter\.gguf"):
        engine.estimate(ModelSpec("tiny", Options(lora=[Lora(str(adapter))]), tiny_file))


@given(
    keys=st.dictionaries(
        st.sampled_from([
            "block_count", "embedding_length", "attention.head_count", "expert_used_count", "ssm.inner_size",
            "ssm.conv_kernel", "attention.shared_kv_layers", "nextn_predict_layers", "wkv.head_size",
        ]),
        st.one_of(st.integers(0, 2**32 - 1), st.just([1, 2])),
    ),
    shapes=st.dictionaries(
        st.sampled_from([
            "token_embd.weight", "blk.0.attn_k.weight", "blk.0.attn_qkv.weight", "blk.0.attn_output.weight",
            "blk.1.ffn_down.weight", "blk.1.ffn_down_exps.weight", "blk.2.ssm_in.weight",
            "blk.99999999999.attn_k.weight", "blk.x.attn_k.weight", "blk.", "blk.0.attn_kv_a_mqa.weight",
        ]),
        st.lists(st.integers(1, 2**40), max_size=4).map(tuple),
    ),
    options=st.builds(Options, slots=st.integers(1, 256), context_length=st.integers(1, 2**31 - 1)),
)
def test_nonsense_in_a_header_gives_some_number(keys, shapes, options):
    """Any header gets a quick estimate, no part of which is negative."""
    header = GGUF(
        3, FakeMetadata({"general.architecture": "x"} | {f"x.{key}": value for key, value in keys.items()}),
        tuple(TensorInfo(name, shape, 0, 0) for name, shape in shapes.items()),
    )
    memory = estimate([header], options)
    assert min(memory.weights, memory.kv, memory.compute) >= 0


class FakeMetadata(Metadata):
    def __init__(self, values):
        super().__init__(b"", {})
        self.values_by_key = values

    def __getitem__(self, key):
        return self.values_by_key[key]

    def __iter__(self):
        return iter(self.values_by_key)
