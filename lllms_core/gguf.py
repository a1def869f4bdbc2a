"""Reading the header of a GGUF file: what a model says about itself, without loading it; pure.

Nothing in the file is trusted: counts and lengths are checked against its size before anything is allocated, and
whatever is wrong with it raises `GGUFError`. Values are made when they are asked for, so that a vocabulary of 150,000
strings costs nothing but its skipping.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO, NoReturn

from attrs import field, frozen

from lllms_core.errors import ModelLoadFailed

Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_CHUNK = 1 << 20
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_KINDS = {
    0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", 7: "bool", 8: "string",
    10: "uint64", 11: "int64", 12: "float64",
}
_WIDTHS = {kind: struct.calcsize("<" + code) for kind, code in _SCALARS.items()}
_LENGTH = struct.Struct("<Q")

TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}
"""By number: name, elements of a block, bytes of a block. Newer types may be missing."""


class GGUFError(ModelLoadFailed):
    """The file is no GGUF file that can be used; the message names it and says why."""


@frozen
class TensorInfo:
    """Where a tensor is and what it looks like."""

    name: str
    shape: tuple[int, ...]
    """Innermost dimension first, as the file has it."""
    type: int
    """A key of `TENSOR_TYPES`, or a newer type."""
    offset: int
    """Bytes from the start of the tensor data."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def size(self) -> int | None:
        """Its bytes; None for a type that is not in `TENSOR_TYPES`."""
        if self.type not in TENSOR_TYPES:
            return None
        _, elements, width = TENSOR_TYPES[self.type]
        return self.elements // elements * width


class Metadata(Mapping[str, Value]):
    """The keys of a GGUF file; each value is made when it is asked for."""

    def __init__(self, header: bytes, places: Mapping[str, tuple[int, int, int, int]]) -> None:
        self._header = header
        self._places = places

    def __getitem__(self, key: str) -> Value:
        kind, item, at, count = self._places[key]
        if kind != _ARRAY:
            return self._strings(at, 1)[0] if kind == _STRING else self._numbers(kind, at, 1)[0]
        return self._strings(at, count) if item == _STRING else self._numbers(item, at, count)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def text(self, key: str) -> str:
        """The text of a key, "" if it has none."""
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """The integer of a key, None if it has none."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def length(self, key: str) -> int:
        """How many items the array of a key has, without making them; 0 if there is no such array."""
        kind, _, _, count = self._places.get(key, (0, 0, 0, 0))
        return count if kind == _ARRAY else 0

    def kind(self, key: str) -> str:
        """How the value of a key is stored, as `uint32`, `string` or `array of float32`; "" if there is none."""
        if key not in self._places:
            return ""
        kind, item, _, _ = self._places[key]
        return f"array of {_KINDS[item]}" if kind == _ARRAY else _KINDS[kind]

    def _strings(self, at: int, count: int) -> list[str]:
        strings = []
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(self._header, at)
            at += _LENGTH.size
            strings.append(self._header[at : at + length].decode(errors="replace"))
            at += length
        return strings

    def _numbers(self, kind: int, at: int, count: int) -> list[int] | list[float] | list[bool]:
        return list(struct.unpack_from(f"<{count}{_SCALARS[kind]}", self._header, at))


@frozen
class GGUF:
    """The header of a GGUF file."""

    version: int
    metadata: Metadata = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)

    @property
    def architecture(self) -> str:
        """The kind of network, like `llama`."""
        return self.metadata.text("general.architecture")

    @property
    def parameters(self) -> int:
        """How many weights the tensors hold."""
        return sum(tensor.elements for tensor in self.tensors)

    def hyperparameter(self, name: str) -> int | None:
        """An integer that the architecture defines, like `context_length` or `block_count`."""
        return self.metadata.number(f"{self.architecture}.{name}")


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do, whatever it is called. Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_gguf(path: Path) -> GGUF:
    """Read the header of a GGUF file, and check that the file holds all data that its header announces.

    Raises `GGUFError` for anything that is not a whole GGUF file of version 2 or 3, and for one without tensors
    (a vocabulary only), unless it is a part of several. A vocabulary of 150,000 tokens takes about 0.1 s; the `gguf`
    package, which makes arrays of each token and merge, takes more than ten seconds.
    """
    try:
        with path.open("rb") as file:
            return _Header(file, path).read()
    except FileNotFoundError:
        raise GGUFError(f"there is no file '{path}'") from None
    except IsADirectoryError:
        raise GGUFError(f"'{path}' is a directory; name the GGUF file in it") from None
    except OSError as error:
        raise GGUFError(f"'{path}' cannot be read: {error.strerror}") from None


def describe(gguf: GGUF, path: Path) -> dict[str, str | int | float]:
    """What is worth showing about a model file; parts of a split file count for themselves."""
    facts: dict[str, str | int | float | None] = {
        "name": gguf.metadata.text("general.name") or None,
        "architecture": gguf.architecture,
        "parameters": gguf.parameters,
        "quantisation": _quantisation(gguf),
        "size": path.stat().st_size,
        "context_trained": gguf.hyperparameter("context_length"),
        "embedding_length": gguf.hyperparameter("embedding_length"),
        "layers": gguf.hyperparameter("block_count"),
        "vocabulary": gguf.metadata.length("tokenizer.ggml.tokens") or None,
        "license": gguf.metadata.text("general.license") or None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _quantisation(gguf: GGUF) -> str | None:
    """The type that most of the weights have."""
    weights: Counter[int] = Counter()
    for tensor in gguf.tensors:
        weights[tensor.type] += tensor.elements
    [(most, _), *_] = weights.most_common(1) or [(-1, 0)]
    return TENSOR_TYPES[most][0] if most in TENSOR_TYPES else None


class _Header:
    """A cursor over the beginning of a file, of which it reads no more than the header needs."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = file.seek(0, 2)
        file.seek(0)
        self._data = bytearray()
        self._at = 0

    def read(self) -> GGUF:
        self._check_magic()
        tensor_count, key_count = self._unsigned(8), self._unsigned(8)
        places = self._places(key_count)
        end_of_keys = self._at
        metadata = Metadata(bytes(self._data[:end_of_keys]), places)
        tensors = self._tensors(tensor_count)
        self._check_tensors(tensors, metadata)
        return GGUF(self._version, metadata, tensors)

    def _check_magic(self) -> None:
        if self._size == 0:
            self._fail("is empty")
        if self._size < len(_MAGIC) or self._take(len(_MAGIC)) != _MAGIC:
            self._fail("is not a GGUF file")
        self._version = self._unsigned(4)
        if self._version and self._version & 0xFFFF == 0:
            self._fail("is a big-endian GGUF file; convert it to little-endian")
        if self._version not in _VERSIONS:
            self._fail(f"is a GGUF file of version {self._version}; versions 2 and 3 can be read")

    def _places(self, count: int) -> dict[str, tuple[int, int, int, int]]:
        """Where each key's value is: its kind, the kind of its items, the place, the number of items."""
        self._expect(count, 8 + 4 + 1, "keys")
        places: dict[str, tuple[int, int, int, int]] = {}
        for _ in range(count):
            key = self._text()
            if key in places:
                self._fail(f"has the key '{key}' twice")
            kind, item, items = self._unsigned(4), 0, 1
            if kind == _ARRAY:
                item, items = self._unsigned(4), self._unsigned(8)
            at = self._at
            self._skip(item if kind == _ARRAY else kind, items, key)
            places[key] = kind, item, at, items
        return places

    def _skip(self, kind: int, count: int, key: str) -> None:
        if kind in _WIDTHS:
            self._expect(count, _WIDTHS[kind], f"items of '{key}'")
            self._advance(count * _WIDTHS[kind])
        elif kind == _STRING:
            self._expect(count, _LENGTH.size, f"items of '{key}'")
            self._skip_strings(count)
        else:
            self._fail(f"has a value of the unknown kind {kind} under the key '{key}'")

    def _skip_strings(self, count: int) -> None:
        at, data, unpack = self._at, self._data, _LENGTH.unpack_from
        for _ in range(count):
            if at + 8 > len(data):
                self._need(at + 8)
            at += 8 + unpack(data, at)[0]
        self._need(at)
        self._at = at

    def _tensors(self, count: int) -> tuple[TensorInfo, ...]:
        self._expect(count, 8 + 4 + 4 + 8, "tensors")
        tensors = {}
        for _ in range(count):
            name = self._text()
            dimensions = self._unsigned(4)
            if dimensions > _MOST_DIMENSIONS:
                self._fail(f"has a tensor '{name}' of {dimensions} dimensions; at most {_MOST_DIMENSIONS} are possible")
            shape = tuple(self._unsigned(8) for _ in range(dimensions))
            if name in tensors:
                self._fail(f"has the tensor '{name}' twice")
            tensors[name] = TensorInfo(name, shape, self._unsigned(4), self._unsigned(8))
        return tuple(tensors.values())

    def _check_tensors(self, tensors: tuple[TensorInfo, ...], metadata: Metadata) -> None:
        if not tensors and (metadata.number("split.count") or 1) < 2:
            self._fail("has no tensors: it holds a vocabulary only")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            self._fail(f"has the alignment {alignment!r}; it must be a power of two")
        start = -(-self._at // alignment) * alignment
        for tensor in tensors:
            _, block, _ = TENSOR_TYPES.get(tensor.type, ("", 1, 0))
            if 0 in tensor.shape or (tensor.shape and tensor.shape[0] % block):
                self._fail(f"has a tensor '{tensor.name}' of the impossible shape {list(tensor.shape)}")
            end = start + tensor.offset + (tensor.size or 0)
            if end > self._size:
                self._fail(
                    f"is truncated: the tensor '{tensor.name}' ends at byte {end}, the file has {self._size}; "
                    "download it again",
                )

    def _text(self) -> str:
        length = self._unsigned(8)
        self._expect(length, 1, "characters")
        return self._take(length).decode(errors="replace")

    def _unsigned(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _take(self, count: int) -> bytes:
        start = self._at
        self._advance(count)
        return bytes(self._data[start : self._at])

    def _advance(self, count: int) -> None:
        self._need(self._at + count)
        self._at += count

    def _expect(self, count: int, width: int, what: str) -> None:
        """Refuse a count that the rest of the file cannot hold, before anything is made for it."""
        if count * width > self._size - self._at:
            self._fail(f"is truncated or broken: it announces {count} {what} at byte {self._at} of {self._size}")

    def _need(self, end: int) -> None:
        if end <= len(self._data):
            return
        if end <= self._size:
            wanted = min(self._size, max(end, len(self._data) * 2, _CHUNK))
            self._data += self._file.read(wanted - len(self._data))
        if end > len(self._data):
            self._fail(f"is truncated: its header goes on to byte {end}, the file has {self._size}; download it again")

    def _fail(self, reason: str) -> NoReturn:
        raise GGUFError(f"'{self._path}' {reason}")
