import ctypes
import struct
from importlib.util import find_spec
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.errors import LllmsError
from lllms_core.gguf import (
    TENSOR_TYPES,
    GGUFError,
    describe,
    read_gguf,
    read_parts,
    reading_once,
    recommended_sampling,
)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A GGUF file with a value of every kind and three tensors, as the reference package writes it."""
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    writer = reference.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(1024)
    writer.add_layer_norm_rms_eps(0.5)
    writer.add_add_bos_token(value=True)
    writer.add_int8("test.int8", -5)
    writer.add_uint64("test.uint64", 2**63)
    writer.add_float64("test.float64", 0.1)
    writer.add_array("test.numbers", [1, -2, 3])
    writer.add_array("test.floats", [0.5, 0.25])
    writer.add_token_list(["<s>", "hello", "wörld 😀", ""])
    writer.add_tensor("a.weight", np.zeros((4, 32), dtype=np.float32))
    writer.add_tensor("b.weight", np.zeros((3, 5), dtype=np.float16))
    q8 = reference.GGMLQuantizationType.Q8_0
    writer.add_tensor("c.weight", reference.quants.quantize(np.ones((2, 64), dtype=np.float32), q8), raw_dtype=q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def header(*, magic=b"GGUF", version=3, tensors=0, keys=0, rest=b""):
    return magic + struct.pack("<IQQ", version, tensors, keys) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name="t", shape=(32,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def refused(tmp_path, data):
    path = tmp_path / "file.gguf"
    path.write_bytes(data)
    with pytest.raises(GGUFError, match=r"file\.gguf") as caught:
        read_gguf(path)
    return str(caught.value)


def test_metadata_is_read(whole):
    """Values of every kind are read as they were written."""
    metadata = read_gguf(whole).metadata
    expected = {
        "general.architecture": "llama", "general.name": "Tiny", "llama.context_length": 1024,
        "llama.attention.layer_norm_rms_epsilon": 0.5, "tokenizer.ggml.add_bos_token": True, "test.int8": -5,
        "test.uint64": 2**63, "test.float64": 0.1, "test.numbers": [1, -2, 3], "test.floats": [0.5, 0.25],
        "tokenizer.ggml.tokens": ["<s>", "hello", "wörld 😀", ""],
    }
    assert dict(metadata) == expected


def test_one_text_of_an_array_is_read(whole):
    """An item of an array of texts is found without the others; there is none beyond it, or in anything else."""
    metadata = read_gguf(whole).metadata
    for key in metadata:
        value = metadata[key]
        if metadata.kind(key) == "array of string":
            assert [metadata.item(key, index) for index in range(len(value))] == value
            assert metadata.item(key, len(value)) is metadata.item(key, -1) is None
        else:
            assert metadata.item(key, 0) is None
    assert metadata.item("nowhere", 0) is None


def test_metadata_is_read_by_type(whole):
    """When a value is requested by type, a key of another type counts as missing."""
    found = read_gguf(whole)
    assert found.architecture == "llama"
    assert found.hyperparameter("context_length") == 1024
    assert found.hyperparameter("block_count") is None
    assert found.metadata.text("test.int8") == ""
    assert found.metadata.number("general.name") is None
    assert found.metadata.number("tokenizer.ggml.add_bos_token") is None
    assert found.metadata.length("tokenizer.ggml.tokens") == 4
    assert found.metadata.length("general.name") == found.metadata.length("nothing") == 0


def test_tensors_are_listed_as_by_the_reference(whole):
    """Names, shapes, types, sizes and offsets agree with the reference package."""
    found = read_gguf(whole)
    expected = reference.GGUFReader(whole)
    start = expected.data_offset
    assert [(t.name, t.shape, t.type, t.size, start + t.offset) for t in found.tensors] == [
        (t.name, tuple(t.shape), t.tensor_type.value, t.n_bytes, t.data_offset) for t in expected.tensors
    ]
    assert found.parameters == 4 * 32 + 3 * 5 + 2 * 64


def test_every_truncation_is_refused(whole, tmp_path):
    """A file cut anywhere, at any byte of the header or within the data, is refused."""
    data = whole.read_bytes()
    path = tmp_path / "cut.gguf"
    last = max(t.data_offset + t.n_bytes for t in reference.GGUFReader(whole).tensors)
    for length in range(last):
        path.write_bytes(data[:length])
        with pytest.raises(GGUFError):
            read_gguf(path)


@settings(max_examples=500, deadline=1000)
@given(data=st.data())
def test_broken_bytes_raise_its_own_error_only(whole, tmp_path_factory, data):
    """With any bytes changed or cut, the reader returns or raises `GGUFError`, at once; so does reading each value."""
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 8, 9, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "broken.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        found = read_gguf(path)
    except GGUFError:
        return
    assert dict(found.metadata) is not None
    assert found.parameters >= 0


@settings(max_examples=200, deadline=1000)
@given(st.binary(max_size=200))
def test_noise_raises_its_own_error_only(tmp_path_factory, noise):
    """Noise after a valid beginning is refused like any other broken file."""
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    path.write_bytes(b"GGUF" + noise)
    with pytest.raises(GGUFError):
        read_gguf(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"GG", "is not a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "is not a GGUF file"),
        (b"GGUF", "truncated"),
        (header(version=1), "version 1"),
        (header(version=4), "version 4"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (header(), "no tensors"),
        (header(keys=2**63), "keys"),
        (header(tensors=2**63), "tensors"),
        (header(keys=1, rest=text("k") + struct.pack("<IIQ", 9, 8, 2**60)), "items of 'k'"),
        (header(keys=1, rest=text("k") + struct.pack("<IIQ", 9, 4, 2**60)), "items of 'k'"),
        (header(keys=1, rest=text("k") + struct.pack("<IIQ", 9, 9, 1)), "unknown kind 9"),
        (header(keys=1, rest=text("k") + struct.pack("<I", 77) + bytes(8)), "unknown kind 77"),
        (header(keys=1, rest=struct.pack("<Q", 2**62) + bytes(20)), "characters"),
        (header(keys=1, rest=text("k") + struct.pack("<IQ", 8, 2**62)), "truncated"),
        (header(keys=2, rest=2 * (text("k") + struct.pack("<IB", 7, 1))), "'k' twice"),
        (header(tensors=2, rest=2 * tensor() + bytes(500)), "'t' twice"),
        (header(tensors=1, rest=tensor(shape=(1,) * 5) + bytes(500)), "5 dimensions"),
        (header(tensors=1, rest=tensor(shape=(32, 0)) + bytes(500)), "impossible shape"),
        (header(tensors=1, rest=tensor(shape=(33,), kind=8) + bytes(500)), "impossible shape"),
        (header(tensors=1, rest=tensor(shape=(2**62, 2**62)) + bytes(500)), "ends at byte"),
        (header(tensors=1, rest=tensor(offset=2**63) + bytes(500)), "ends at byte"),
        (header(tensors=1, rest=tensor(kind=99, offset=2**63) + bytes(500)), "ends at byte"),
        (header(tensors=1, keys=1,
                rest=text("general.alignment") + struct.pack("<II", 4, 3) + tensor() + bytes(500)), "alignment 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fault_is_named(tmp_path, data, reason):
    """Each fault is refused with a message that identifies it, and with the file's name."""
    assert reason in refused(tmp_path, data)


def test_vocabulary_in_several_files_may_lack_tensors(tmp_path):
    """The first of several parts may hold no tensors; a single file without any is only a vocabulary."""
    path = tmp_path / "part.gguf"
    path.write_bytes(header(keys=1, rest=text("split.count") + struct.pack("<IH", 2, 3)))
    assert read_gguf(path).tensors == ()


def test_unknown_tensor_types_are_counted_and_named(tmp_path):
    """A tensor of an unknown type has the size of its slot in the file, and the description gives the type's number."""
    path = tmp_path / "new.gguf"
    rest = tensor("a", (64,), kind=99) + tensor("b", (32,), kind=0, offset=96) + tensor("c", kind=98, offset=224)
    at = len(header(rest=rest))
    path.write_bytes(header(tensors=3, rest=rest) + bytes(-at % 32) + bytes(300))
    found = read_gguf(path)
    assert [(t.type, t.size, t.elements) for t in found.tensors] == [(99, 96, 64), (0, 128, 32), (98, 76, 32)]
    about = describe(found, path)
    assert about["quantisation"] == "type 99, unknown here"
    assert about["unknown_tensor_types"] == "98, 99"


def test_sizes_are_those_of_the_native_library():
    """Every type of llama.cpp is known, with the same blocks; those that it dropped are reported as removed."""
    library = ctypes.CDLL(str(Path(find_spec("llama_cpp").origin).parent / "lib" / "libggml-base.so"))
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_name.restype = ctypes.c_char_p
    for kind in range(43):
        name = library.ggml_type_name(kind).decode()
        sizes = library.ggml_blck_size(kind), library.ggml_type_size(kind)
        if sizes[0]:
            assert (name.lower(), *sizes) == (TENSOR_TYPES[kind][0].lower(), *TENSOR_TYPES[kind][1:])
        elif "REMOVED" in name:
            removed, use = name.removeprefix("TYPE_").split(" REMOVED, use ")
            [same] = [one[1:] for one in TENSOR_TYPES.values() if one[0] == use.split()[0]]
            assert TENSOR_TYPES[kind] == (removed, *same)


def split(folder, count=3):
    """Write a model in parts, each with one tensor of 32 numbers."""
    paths = [folder / f"big-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        keys = text("split.no") + struct.pack("<IH", 2, number) + text("split.count") + struct.pack("<IH", 2, count)
        path.write_bytes(header(tensors=1, keys=2, rest=keys + tensor(f"t{number}") + bytes(200)))
    return paths


def test_a_split_model_is_described_as_a_whole(tmp_path):
    """Parameters, bytes and types are those of all parts; a missing part or a name that hides others is reported."""
    paths = split(tmp_path)
    assert [one.metadata["split.no"] for one in read_parts(paths[0])] == [0, 1, 2]
    about = describe(read_gguf(paths[0]), paths[0])
    assert (about["parameters"], about["parts"]) == (96, 3)
    assert about["size"] == sum(path.stat().st_size for path in paths)
    assert describe(read_gguf(paths[1]), paths[1])["parameters"] == 32
    renamed = paths[0].rename(tmp_path / "other.gguf")
    with pytest.raises(GGUFError, match=r"first of 3 parts, .* call it NAME-00001-of-00003\.gguf"):
        describe(read_gguf(renamed), renamed)
    renamed.rename(paths[0])
    paths[2].unlink()
    with pytest.raises(GGUFError, match=r"the part '.*big-00003-of-00003\.gguf' is missing"):
        describe(read_gguf(paths[0]), paths[0])


def test_recommended_sampling(tmp_path):
    """A file's `general.sampling.*` keys, as llama.cpp's converter writes them, get our names and their own numbers."""
    path = tmp_path / "model.gguf"
    writer = reference.GGUFWriter(path, "llama")
    writer.add_sampling_temp(0.6)
    writer.add_sampling_top_k(20)
    writer.add_sampling_top_p(0.95)
    writer.add_sampling_min_p(0.0)
    writer.add_sampling_xtc_probability(0.1)
    writer.add_sampling_xtc_threshold(0.2)
    writer.add_sampling_penalty_last_n(64)
    writer.add_sampling_penalty_repeat(1.05)
    writer.add_sampling_mirostat(2)
    writer.add_sampling_mirostat_tau(4.5)
    writer.add_sampling_mirostat_eta(0.2)
    writer.add_sampling_sequence("top_k;temperature")
    writer.add_tensor("t", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert recommended_sampling(read_gguf(path).metadata) == {
        "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0, "xtc_probability": 0.1, "xtc_threshold": 0.2,
        "repeat_penalty": 1.05, "mirostat": 2, "mirostat_tau": 4.5, "mirostat_eta": 0.2,
    }


@pytest.mark.parametrize(("make", "reason"), [("nothing", "there is no file"), ("directory", "is a directory")])
def test_what_is_no_file_is_named(tmp_path, make, reason):
    """A missing file and a directory are refused as such, with an error of our own hierarchy."""
    path = tmp_path / "model.gguf"
    if make == "directory":
        path.mkdir()
    with pytest.raises(LllmsError, match=reason):
        read_gguf(path)


def test_large_vocabulary_is_skipped(tmp_path):
    """Of a vocabulary of 150,000 tokens only the length is read until the strings are needed."""
    strings = b"".join(text(f"token{number}") for number in range(150_000))
    array = struct.pack("<IIQ", 9, 8, 150_000) + strings
    path = tmp_path / "large.gguf"
    keys = text("tokens") + array + text("merges") + array
    path.write_bytes(header(tensors=1, keys=2, rest=keys + tensor() + bytes(300)))
    found = read_gguf(path)
    assert found.metadata.length("tokens") == 150_000


def test_a_header_is_read_once_while_that_is_wanted(whole, tmp_path):
    """Within `reading_once` a header is the same object; faults, and files read after it, are looked at anew."""
    missing = tmp_path / "later.gguf"
    with reading_once():
        assert read_gguf(whole) is read_gguf(whole)
        with reading_once():
            inner = read_gguf(whole)
        assert read_gguf(whole) is not inner
        with pytest.raises(GGUFError, match="later"):
            read_gguf(missing)
        missing.write_bytes(whole.read_bytes())
        assert read_gguf(missing).architecture == "llama"
    assert read_gguf(whole) is not read_gguf(whole)
