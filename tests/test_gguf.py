import struct

import gguf as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.errors import LllmsError
from lllms_core.gguf import GGUFError, read_gguf


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
    """Values of every kind come out as they were written."""
    metadata = read_gguf(whole).metadata
    expected = {
        "general.architecture": "llama", "general.name": "Tiny", "llama.context_length": 1024,
        "llama.attention.layer_norm_rms_epsilon": 0.5, "tokenizer.ggml.add_bos_token": True, "test.int8": -5,
        "test.uint64": 2**63, "test.float64": 0.1, "test.numbers": [1, -2, 3], "test.floats": [0.5, 0.25],
        "tokenizer.ggml.tokens": ["<s>", "hello", "wörld 😀", ""],
    }
    assert dict(metadata) == expected


def test_metadata_is_read_by_type(whole):
    """Asked for by type, a key of another type is as good as missing."""
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
    """Cut anywhere, at every byte of the header and in the data, the file is refused."""
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
    """With any bytes changed or cut, the reader returns or raises `GGUFError`, at once; and so for every value."""
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
    """Noise behind the right beginning is refused like any other broken file."""
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
    """Each fault is refused with words that say which it is, and with the file's name."""
    assert reason in refused(tmp_path, data)


def test_vocabulary_in_several_files_may_lack_tensors(tmp_path):
    """The first of several parts may hold no tensor; a single file without any is a vocabulary only."""
    path = tmp_path / "part.gguf"
    path.write_bytes(header(keys=1, rest=text("split.count") + struct.pack("<IH", 2, 3)))
    assert read_gguf(path).tensors == ()


def test_newer_tensor_types_have_no_size(tmp_path):
    """A tensor of an unknown type is listed; only its end cannot be checked."""
    path = tmp_path / "new.gguf"
    path.write_bytes(header(tensors=1, rest=tensor(kind=99) + bytes(100)))
    assert [(t.type, t.size, t.elements) for t in read_gguf(path).tensors] == [(99, None, 32)]


@pytest.mark.parametrize(("make", "reason"), [("nothing", "there is no file"), ("directory", "is a directory")])
def test_what_is_no_file_is_named(tmp_path, make, reason):
    """A missing file and a directory are refused as what they are, with an error of the one tree."""
    path = tmp_path / "model.gguf"
    if make == "directory":
        path.mkdir()
    with pytest.raises(LllmsError, match=reason):
        read_gguf(path)


def test_large_vocabulary_is_skipped(tmp_path):
    """Of a vocabulary of 150,000 tokens only the length is read, until somebody asks for the strings."""
    strings = b"".join(text(f"token{number}") for number in range(150_000))
    array = struct.pack("<IIQ", 9, 8, 150_000) + strings
    path = tmp_path / "large.gguf"
    keys = text("tokens") + array + text("merges") + array
    path.write_bytes(header(tensors=1, keys=2, rest=keys + tensor() + bytes(300)))
    found = read_gguf(path)
    assert found.metadata.length("tokens") == 150_000
