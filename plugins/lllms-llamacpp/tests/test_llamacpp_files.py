import json
import subprocess
import sys

import gguf
import numpy as np
import pytest
from lllms_llamacpp import LlamaCppEngine, Options

from lllms_core.errors import EngineFailed, ModelLoadFailed
from lllms_core.types import ChatRequest, Constraint, Message, ModelSpec, Sampling, TextRequest

PROBE = """
import json, sys
from pathlib import Path
from lllms_core.errors import ModelLoadFailed
from lllms_core.types import ModelSpec
from lllms_llamacpp import LlamaCppEngine, Options

for line in sys.stdin:
    file, checked = json.loads(line)
    spec = ModelSpec("broken", Options(threads=1, slots=1, **checked), Path(file))
    try:
        LlamaCppEngine().load(spec, lambda fraction: None).close()
    except ModelLoadFailed as error:
        print(json.dumps(["refused", str(error)]), flush=True)
    else:
        print(json.dumps(["loaded", ""]), flush=True)
"""


def try_to_load(*files, before="", **options):
    """Load files one after the other in a separate process; an abort shows as a missing answer."""
    asked = "".join(json.dumps([str(file), options]) + "\n" for file in files)
    command = [sys.executable, "-c", before + PROBE]
    done = subprocess.run(command, check=False, input=asked, capture_output=True, text=True, timeout=120)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(answers) == len(files)
    return answers


def write(path, tiny_file, *, architecture="llama", skip=(), change=None, tensors=True, keys=()):
    """Rewrite tiny-chat with a fault."""
    reader = gguf.GGUFReader(tiny_file)
    writer = gguf.GGUFWriter(path, architecture)
    for found in reader.fields.values():
        if found.name.startswith("GGUF.") or found.name == "general.architecture" or found.name in skip:
            continue
        kind = found.types[0]
        sub = found.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        name = found.name.replace("llama.", f"{architecture}.", 1)
        writer.add_key_value(name, found.contents(), kind, sub)
    for key, value in keys:
        writer.add_key_value(key, value, gguf.GGUFValueType.STRING)
    for tensor in reader.tensors if tensors else ():
        data = tensor.data if change is None else change(tensor.name, tensor.data)
        if data is not None:
            writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_whole_file_loads(tiny_file, tmp_path):
    """The file from which the broken ones are made loads, both as it is and rewritten."""
    assert try_to_load(tiny_file, write(tmp_path / "same.gguf", tiny_file)) == [["loaded", ""]] * 2


def test_truncated_files_are_refused(tiny_file, tmp_path):
    """A file cut at any of many points is refused, and the process survives."""
    data = tiny_file.read_bytes()
    files = []
    for length in [0, 3, 4, 8, 24, 100, 1000, 10_000, 20_000, 40_000, len(data) // 2, len(data) - 64]:
        files.append(tmp_path / f"{length}.gguf")
        files[-1].write_bytes(data[:length])
    answers = try_to_load(*files)
    assert {outcome for outcome, _ in answers} == {"refused"}
    assert all("trunc" in reason for _, reason in answers[2:])


def test_broken_files_are_refused_with_the_reason(tiny_file, tmp_path):
    """A faulty file is refused with the reason, before or during the load."""
    (tmp_path / "foreign.gguf").write_bytes(b"PK\x03\x04" + bytes(1000))
    (tmp_path / "folder.gguf").mkdir()

    def narrower(name, data):
        return data[: len(data) // 2] if name == "blk.0.ffn_up.weight" else data

    def without(name, data):
        return None if name == "blk.1.attn_q.weight" else data

    cases = {
        tmp_path / "foreign.gguf": "not a GGUF file",
        tmp_path / "folder.gguf": "directory",
        tmp_path / "missing.gguf": "no file",
        write(tmp_path / "vocab.gguf", tiny_file, tensors=False): "no tensors",
        write(tmp_path / "arch.gguf", tiny_file, architecture="xyz"): "unknown model architecture: 'xyz'",
        write(tmp_path / "tokenizer.gguf", tiny_file, skip={"tokenizer.ggml.model"}): "no tokenizer",
        write(tmp_path / "layers.gguf", tiny_file, skip={"llama.block_count"}): "llama.block_count",
        write(tmp_path / "shape.gguf", tiny_file, change=narrower): "blk.0.ffn_up.weight",
        write(tmp_path / "lacking.gguf", tiny_file, change=without): "blk.1.attn_q.weight",
        write(tmp_path / "lora.gguf", tiny_file, skip={"general.type"}, keys=[("general.type", "adapter")]): "LoRA",
    }
    for (file, expected), (outcome, reason) in zip(cases.items(), try_to_load(*cases), strict=True):
        assert outcome == "refused", file
        assert expected in reason
        assert file.name in reason


@pytest.mark.parametrize("damage", ["eos", "heads", "vocabulary"])
def test_nonsense_in_the_header_is_survived(tiny_file, tmp_path, damage):
    """Nonsensical numbers are refused or tolerated; the process survives."""
    reader = gguf.GGUFReader(tiny_file)
    key = {
        "eos": "tokenizer.ggml.eos_token_id", "heads": "llama.attention.head_count", "vocabulary": "llama.vocab_size",
    }[damage]
    part = reader.fields[key].parts[-1]
    offset = part.ctypes.data - reader.data.ctypes.data
    data = bytearray(tiny_file.read_bytes())
    data[offset : offset + 4] = (7777).to_bytes(4, "little")
    (tmp_path / "odd.gguf").write_bytes(data)
    [[outcome, _]] = try_to_load(tmp_path / "odd.gguf")
    assert outcome in {"refused", "loaded"}


def test_embedding_model_is_refused(tmp_path, write_random):
    """A model that can only embed is refused with that reason."""
    words, dim, positions = 928, 32, 64
    keys = {
        "context_length": positions, "embedding_length": dim, "feed_forward_length": dim, "block_count": 1,
        "attention.head_count": 1, "attention.layer_norm_epsilon": 1e-5, "tokenizer.ggml.token_type_count": 2,
    }
    shapes = {
        "token_embd.weight": (words, dim), "position_embd.weight": (positions, dim), "token_types.weight": (2, dim),
        "token_embd_norm.weight": (dim,), "token_embd_norm.bias": (dim,),
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
        shapes |= {f"blk.0.{name}.weight": (dim, dim), f"blk.0.{name}.bias": (dim,)}
    for name in ("attn_output_norm", "layer_output_norm"):
        shapes |= {f"blk.0.{name}.weight": (dim,), f"blk.0.{name}.bias": (dim,)}
    [[outcome, reason]] = try_to_load(write_random(tmp_path / "bert.gguf", "bert", keys, shapes))
    assert outcome == "refused"
    assert "embedding model" in reason


def test_inspect_tells_without_loading(tiny_file):
    """`inspect` describes a file without the native library."""
    code = (
        "import sys; from pathlib import Path; from lllms_core.types import ModelSpec;"
        "from lllms_llamacpp import LlamaCppEngine, Options;"
        f"print(LlamaCppEngine().inspect(ModelSpec('t', Options(), Path({str(tiny_file)!r})))['architecture']);"
        "print('llama_cpp' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["llama", "False", "False"]


def test_model_without_a_file_is_refused():
    """A configuration without a file is refused with the key to set."""
    with pytest.raises(ModelLoadFailed, match=r"models\.tiny\.file"):
        LlamaCppEngine().inspect(ModelSpec("tiny", Options()))


def test_progress_goes_up_to_one(tiny_file):
    """A load's progress never falls, and ends at 1."""
    told = []
    LlamaCppEngine().load(ModelSpec("tiny", Options(threads=1, slots=1), tiny_file), told.append).close()
    assert told == sorted(told)
    assert told[-1] == 1


def test_progress_can_end_a_load(tiny_file):
    """An exception from `progress` ends the load and reaches the caller."""
    def enough(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LlamaCppEngine().load(ModelSpec("tiny", Options(threads=1, slots=1), tiny_file), enough)


def test_context_that_cannot_be_made_is_refused(tiny_file):
    """If there is no memory for a context, the load fails and names the options to change."""
    little = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))"
    [[outcome, reason]] = try_to_load(tiny_file, before=little, context_length=2**20)
    assert outcome == "refused"
    assert "context_length" in reason


def spoil(name, data):
    """Replace one weight by NaN."""
    if name == "output_norm.weight":
        data = data.copy()
        data[3] = np.nan
    return data


@pytest.mark.parametrize("fields", [
    {}, {"top_logprobs": 2}, {"top_logprobs": 0, "sampling": Sampling(temperature=1, seed=1)},
    {"echo": True, "top_logprobs": 1, "prompt": "Hello there!"}, {"n": 2},
    {"constraint": Constraint("regex", "[a-z]{3}")}, {"sampling": Sampling(temperature=1, top_k=0, seed=1)},
], ids=str)
def test_logits_that_are_no_numbers_are_an_engine_failure(tmp_path, file_of, load, fields):
    """NaN logits fail each request with an error that says so, and the model keeps serving."""
    model = load(write(tmp_path / "nan.gguf", file_of("llama"), change=spoil)).model
    kind, source = (TextRequest, {}) if "prompt" in fields else (ChatRequest, {"messages": (Message("user", "hi"),)})
    for name in ("first", "second"):
        model.open(kind(name, "tiny", **{"sampling": Sampling(temperature=0), **source, **fields}))
        deltas = []
        while not model.idle:
            deltas += model.step()
        assert isinstance(deltas[-1].error, EngineFailed)
        assert "not numbers" in deltas[-1].error.message
        assert not any(delta.scores or delta.prompt_scores for delta in deltas)


def test_more_positions_than_were_learnt_are_refused(tmp_path, write_random):
    """A generating model with learnt positions is refused a longer context before it is loaded."""
    keys = {"context_length": 64, "embedding_length": 32, "block_count": 0, "attention.head_count": 2}
    shapes = {"token_embd.weight": (928, 32), "position_embd.weight": (64, 32), "output_norm.weight": (32,)}
    file = write_random(tmp_path / "gpt2.gguf", "gpt2", keys, shapes)
    LlamaCppEngine().inspect(ModelSpec("gpt2", Options(context_length=64), file))
    with pytest.raises(ModelLoadFailed, match=r"context_length is 65, but the model knows only 64 positions"):
        LlamaCppEngine().inspect(ModelSpec("gpt2", Options(context_length=65), file))


def test_heads_that_do_not_fit_a_quantised_cache_are_refused(tmp_path, file_of, write_random):
    """A quantised KV cache needs heads of whole blocks; otherwise llama.cpp would abort without flash attention."""
    keys = {
        "context_length": 512, "embedding_length": 160, "feed_forward_length": 64, "block_count": 1,
        "attention.head_count": 2, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
    }
    shapes = {f"blk.0.attn_{name}.weight": (160, 160) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.{name}.weight": (160,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {"blk.0.ffn_gate.weight": (64, 160), "blk.0.ffn_up.weight": (64, 160), "blk.0.ffn_down.weight": (160, 64)}
    shapes |= {"token_embd.weight": (928, 160), "output_norm.weight": (160,), "output.weight": (928, 160)}
    file = write_random(tmp_path / "heads.gguf", "llama", keys, shapes)
    assert [told for told, _ in try_to_load(file, flash_attention="off")] == ["loaded"]
    for options in ({"kv_type_k": "q4_0", "flash_attention": "off"}, {"kv_type_k": "q8_0"}, {"kv_type_v": "q5_1"}):
        [[told, reason]] = try_to_load(file, **options)
        assert (told, "heads have 80" in reason) == ("refused", True)
    [[told, _]] = try_to_load(file_of("tiny-chat"), kv_type_k="q8_0", kv_type_v="q4_0")
    assert told == "loaded"
