"""Damaged, foreign or odd files: each is refused with the reason, or tolerated; the process survives."""

import json
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import lllms_llamacpp
import numpy as np
import pytest
from lllms_gpt4all import Gpt4AllEngine, Options

from lllms_core.errors import ModelLoadFailed
from lllms_core.types import ModelSpec

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
TOKENS = "tokenizer.ggml.tokens"

PROBE = """
import json, sys
from pathlib import Path
from lllms_core.errors import LllmsError
from lllms_core.types import Message, ModelSpec, ChatRequest, Sampling
from lllms_gpt4all import Gpt4AllEngine, Options

for line in sys.stdin:
    file, options = json.loads(line)
    spec = ModelSpec("broken", Options(**{"threads": 1, "context_length": 256, **options}), Path(file))
    try:
        model = Gpt4AllEngine().load(spec, lambda fraction: None)
        question = (Message("user", "Hi é😀!"),)
        model.open(ChatRequest("r", "broken", question, max_tokens=4, sampling=Sampling(temperature=0)))
        while not model.idle:
            deltas = list(model.step())
        model.close()
    except LllmsError as error:
        print("@" + json.dumps(["refused", str(error)]), flush=True)
    else:
        print("@" + json.dumps(["answered", ""]), flush=True)
"""


def try_to_use(*files: Path, before: str = "", **options: object) -> list[list[str]]:
    """Load files one after the other in a separate process, and ask each; an abort shows as a missing answer."""
    asked = "".join(json.dumps([str(file), options]) + "\n" for file in files)
    command = [sys.executable, "-c", before + PROBE]
    done = subprocess.run(command, check=False, input=asked, capture_output=True, text=True, timeout=120)
    answers = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@")]
    assert len(answers) == len(files), f"{files[len(answers)].name}: {done.stderr[-2000:]}"
    assert done.returncode == 0, done.stderr[-2000:]
    return answers


@cache
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(TINY)


@cache
def contents() -> list[tuple[str, Any, Any, Any]]:
    """The keys of tiny-chat, except those that a writer adds by itself."""
    fields = [found for found in reader().fields.values() if not found.name.startswith("GGUF.")]
    return [
        (one.name, one.contents(), one.types[0], one.types[-1] if one.types[0] == gguf.GGUFValueType.ARRAY else None)
        for one in fields if one.name != "general.architecture"
    ]


def write(path: Path, *, architecture: str = "llama", tensors: bool = True, change: Any = None, **keys: Any) -> Path:
    """Rewrite tiny-chat with other keys (`__` for a dot; None omits the key) and other tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    changed = {name.replace("__", "."): value for name, value in keys.items()}
    for name, value, kind, sub in contents():
        if name not in changed:
            writer.add_key_value(name.replace("llama.", f"{architecture}.", 1), value, kind, sub)
    for name, value in changed.items():
        if value is not None:
            kind = gguf.GGUFValueType.get_type(value)
            sub = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
            writer.add_key_value(name, value, kind, sub)
    for tensor in reader().tensors if tensors else ():
        data = tensor.data if change is None else change(tensor.name, tensor.data)
        if data is not None:
            writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def patched(path: Path, *patches: tuple[int, bytes]) -> Path:
    """Rewrite tiny-chat with other bytes at some offsets."""
    data = bytearray(TINY.read_bytes())
    for offset, value in patches:
        data[offset : offset + len(value)] = value
    path.write_bytes(data)
    return path


def offset_of(key: str) -> int:
    """The offset of a scalar key's value."""
    part = reader().fields[key].parts[-1]
    return int(part.ctypes.data - reader().data.ctypes.data)


def type_offset(index: int) -> int:
    """The offset of a tensor's type; the number of dimensions and the tensor's offset stand around it."""
    part = reader().tensors[index].field.parts[4]
    return int(part.ctypes.data - reader().data.ctypes.data)


def test_the_whole_file_answers(tmp_path: Path) -> None:
    """The file from which the broken ones are made answers, both as it is and rewritten."""
    assert try_to_use(TINY, write(tmp_path / "same.gguf")) == [["answered", ""]] * 2


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    """A file cut at any of many points is refused."""
    data = TINY.read_bytes()
    files = []
    for length in [0, 3, 4, 8, 16, 24, 100, 1000, 10_000, 20_000, 40_000, len(data) // 2, len(data) - 64]:
        files.append(tmp_path / f"{length}.gguf")
        files[-1].write_bytes(data[:length])
    answers = try_to_use(*files)
    assert {outcome for outcome, _ in answers} == {"refused"}
    assert all("trunc" in reason for _, reason in answers[2:])


def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    """Counts, sizes and types that would crash gpt4all, or that no model has, are refused by name."""
    uint, real = "<I", "<f"
    cases: dict[str, tuple[int, bytes, str]] = {
        "magic": (0, b"GGML", "not a GGUF file"),
        "version-1": (4, struct.pack(uint, 1), "version 1"),
        "version-9": (4, struct.pack(uint, 9), "version 9"),
        "big-endian": (4, struct.pack(">I", 3), "big-endian"),
        "tensors": (8, struct.pack("<Q", 2**60), "announces"),
        "keys": (16, struct.pack("<Q", 2**62), "announces"),
        "type-mxfp4": (type_offset(0), struct.pack(uint, 39), "MXFP4"),
        "type-tq1": (type_offset(0), struct.pack(uint, 34), "impossible shape"),
        "type-removed": (type_offset(3), struct.pack(uint, 4), "number 4"),
        "type-200": (type_offset(0), struct.pack(uint, 200), "number 200"),
        "place": (type_offset(2) + 4, struct.pack("<Q", 2**40), "truncated"),
        **{
            f"{key}-{value}": (offset_of(f"llama.{key}"), struct.pack(uint, value), key)
            for key, values in {
                "block_count": (0, 513, 2**31), "embedding_length": (0, 2**31), "context_length": (0,),
                "attention.head_count": (0, 2**32 - 1), "attention.head_count_kv": (0,),
            }.items() for value in values
        },
        "more-kv-heads": (offset_of("llama.attention.head_count_kv"), struct.pack(uint, 99), "more heads"),
        "epsilon": (offset_of("llama.attention.layer_norm_rms_epsilon"), struct.pack(real, -1.0), "epsilon"),
        "epsilon-nan": (
            offset_of("llama.attention.layer_norm_rms_epsilon"), struct.pack(real, float("nan")), "epsilon",
        ),
    }
    files = [patched(tmp_path / f"{name}.gguf", (at, value)) for name, (at, value, _) in cases.items()]
    for (name, (_, _, expected)), (outcome, reason) in zip(cases.items(), try_to_use(*files), strict=True):
        assert (outcome, expected in reason) == ("refused", True), f"{name}: {reason}"
        assert f"{name}.gguf" in reason


def test_files_that_are_no_such_model_are_refused(tmp_path: Path) -> None:
    """Foreign files and architectures, missing parts and broken tokenizers are refused with the reason."""
    (tmp_path / "foreign.gguf").write_bytes(b"PK\x03\x04" + bytes(1000))
    (tmp_path / "folder.gguf").mkdir()
    tokens = reader().fields[TOKENS].contents()
    unbyted = [f"no{token}" if token == "<0x41>" else token for token in tokens]

    def narrower(name: str, data: np.ndarray) -> np.ndarray:
        return data[: len(data) // 2] if name == "blk.0.ffn_up.weight" else data

    def without(name: str, data: np.ndarray) -> np.ndarray | None:
        return None if name == "blk.1.attn_q.weight" else data

    made: list[tuple[Path, str]] = [
        (tmp_path / "foreign.gguf", "not a GGUF file"),
        (tmp_path / "folder.gguf", "directory"),
        (tmp_path / "missing.gguf", "no file"),
    ]

    def case(name: str, expected: str, **how: Any) -> None:
        made.append((write(tmp_path / f"{name}.gguf", **how), expected))

    case("vocabulary", "no tensors", tensors=False)
    for architecture in ("qwen3", "gemma3", "mamba", "gpt-oss", "xyz"):
        case(architecture, f"'{architecture}'", architecture=architecture)
    case("lora", "LoRA", general__type="adapter")
    case("part", "part 2 of 3", split__count=3, split__no=1)
    case("later-part", "part 2 of 3", split__count=3, split__no=1, architecture="", tokenizer__ggml__model=None)
    case("layers", "block_count", llama__block_count=None)
    case("experts", "experts", llama__expert_count=2, llama__expert_used_count=3)
    case("many-experts", "expert_count", llama__expert_count=1000)
    case("heads", "fewer than layers", llama__attention__head_count=[5])
    case("tokenizer", "no tokenizer", tokenizer__ggml__model=None)
    case("odd-tokenizer", "'xyz'", tokenizer__ggml__model="xyz")
    case("tokens", "without tokens", tokenizer__ggml__tokens=None)
    case("numbers", "array of string", tokenizer__ggml__tokens=list(range(len(tokens))))
    case("bytes", "<0x41>", tokenizer__ggml__tokens=unbyted)
    case("nul", "empty token", tokenizer__ggml__tokens=[*tokens[:-1], "\0a"])
    case("twice", "twice", tokenizer__ggml__tokens=[*tokens[:-1], tokens[-2]])
    case("stored", "array of float32", tokenizer__ggml__scores=[1] * len(tokens))
    case("space", "must be bool", tokenizer__ggml__add_space_prefix=1)
    case("alignment", "alignment", general__alignment=64.0)
    case("file-type", "uint32", general__file_type="mostly")
    case("scores", "tokenizer.ggml.scores", tokenizer__ggml__scores=[0.0])
    case("types", "tokenizer.ggml.token_type", tokenizer__ggml__token_type=[1, 1])
    case("shape", "blk.0.ffn_up.weight", change=narrower)
    case("lacking", "blk.1.attn_q.weight", change=without)
    case("merges", "merges", tokenizer__ggml__model="gpt2")
    answers = try_to_use(*(file for file, _ in made))
    for (file, expected), (outcome, reason) in zip(made, answers, strict=True):
        assert (outcome, expected in reason) == ("refused", True), f"{file.name}: {reason}"
        assert file.name in reason


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id"])
def test_token_numbers_beyond_the_vocabulary_are_survived(tmp_path: Path, key: str) -> None:
    """Special tokens that do not exist are refused or tolerated."""
    file = write(tmp_path / "odd.gguf", **{f"tokenizer__ggml__{key}": 77_777})
    [[outcome, _]] = try_to_use(file)
    assert outcome in {"refused", "answered"}


def test_a_cache_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    """A context whose KV cache exceeds the machine's memory is refused before gpt4all tries, with the key to change."""
    file = write(tmp_path / "large.gguf", llama__attention__key_length=2**20, llama__attention__value_length=2**20)
    with pytest.raises(ModelLoadFailed, match=r"options\.context_length is 1048576"):
        Gpt4AllEngine().inspect(ModelSpec("large", Options(context_length=2**20), file))


@pytest.mark.parametrize(("device", "reason"), [("cuda", "backend: cuda"), ("no-such-device", "options.device")])
def test_a_device_that_is_not_there_is_refused(device: str, reason: str) -> None:
    """A device that gpt4all cannot use is refused, with the reason."""
    [[outcome, told]] = try_to_use(TINY, device=device)
    assert outcome == "refused"
    assert reason in told


def test_a_load_is_silent_and_local(tmp_path: Path) -> None:
    """Loading and answering write nothing to the terminal or the home folder, and make no network connections."""
    before = """
import os, socket
def no_network(*_): raise AssertionError("a connection is made")
socket.socket.connect = socket.getaddrinfo = no_network
"""
    code = before + PROBE.replace("@", "")
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, input=json.dumps([str(TINY), {}]), capture_output=True, text=True,
        timeout=60, env={"HOME": str(home), "TMPDIR": str(tmp_path)}, cwd=tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ('["answered", ""]\n', "", 0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["home"]


def test_inspect_and_estimate_tell_without_loading() -> None:
    """Both read only the file's header, without gpt4all."""
    code = (
        "import sys; from pathlib import Path; from lllms_core.types import ModelSpec;"
        "from lllms_gpt4all import Gpt4AllEngine, Options;"
        f"spec = ModelSpec('t', Options(), Path({str(TINY)!r}));"
        "print(Gpt4AllEngine().inspect(spec)['architecture'], Gpt4AllEngine().estimate(spec).kv);"
        "print('gpt4all' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    layers, width, cells = 4, 160, 1056
    assert done.stdout.split() == ["llama", str(2 * 2 * layers * width * cells), "False", "False"]


def test_progress_goes_up_to_one(tmp_path: Path) -> None:
    """A load's progress never falls and ends at 1; an exception from `progress` ends the load."""
    code = f"""
from pathlib import Path
from lllms_core.types import ModelSpec
from lllms_gpt4all import Gpt4AllEngine, Options
told = []
spec = ModelSpec("t", Options(threads=1), Path({str(TINY)!r}))
Gpt4AllEngine().load(spec, told.append).close()
print(told == sorted(told), told[-1])
def enough(fraction): raise KeyboardInterrupt
try:
    Gpt4AllEngine().load(spec, enough)
except KeyboardInterrupt:
    print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "1.0", "ended"]


@pytest.mark.parametrize(
    ("template", "says"), [("none.jinja", "none.jinja' cannot be read"), ("{% for %}", "does not compile: line 1")],
)
def test_templates_are_looked_at_before_a_load(template: str, says: str) -> None:
    """`inspect`, and so `lllms check`, reports a template that is missing or does not compile."""
    with pytest.raises(ModelLoadFailed, match=says):
        Gpt4AllEngine().inspect(ModelSpec("m", Options(chat_template=template), TINY))


def test_the_files_own_templates_must_compile(tmp_path: Path) -> None:
    """All of them must, also the one for conversations with tools, which each load compiles."""
    file = write(tmp_path / "model.gguf", tokenizer__chat_template__tool_use="{% for %}")
    with pytest.raises(ModelLoadFailed, match=r"does not compile: line 1: .*; set options\.chat_template"):
        Gpt4AllEngine().inspect(ModelSpec("m", Options(), file))


def test_what_a_file_recommends(tmp_path: Path) -> None:
    """The engine reads the sampling parameters of a file."""
    file = write(tmp_path / "model.gguf", general__sampling__temp=0.25, general__sampling__top_k=7)
    assert Gpt4AllEngine().recommended(ModelSpec("m", Options(), file)) == {"temperature": 0.25, "top_k": 7}
