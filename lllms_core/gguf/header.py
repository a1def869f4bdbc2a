"""The contents of a GGUF header as values, decoded on access."""

import struct
from collections.abc import Iterator, Mapping
from math import prod

from attrs import field, frozen

Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The kinds of numbers, with their `struct` codes."""
LENGTH = struct.Struct("<Q")
"""The format of a string's length, which precedes it."""
_KINDS = {
    0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", 7: "bool", 8: "string",
    10: "uint64", 11: "int64", 12: "float64",
}

TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 31: ("Q4_0_4_4", 32, 18), 32: ("Q4_0_4_8", 32, 18),
    33: ("Q4_0_8_8", 32, 18), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 36: ("IQ4_NL_4_4", 32, 18),
    37: ("IQ4_NL_4_8", 32, 18), 38: ("IQ4_NL_8_8", 32, 18), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}
"""By number: name, elements of a block, bytes of a block. Newer types may be missing."""


@frozen
class TensorInfo:
    """A tensor's name, shape, type and place."""

    name: str
    shape: tuple[int, ...]
    """Innermost dimension first, as in the file."""
    type: int
    """A key of `TENSOR_TYPES`, or a newer type."""
    offset: int
    """Bytes from the start of the tensor data."""
    room: int = 0
    """Bytes from there to the next tensor, or to the end of the file."""

    @property
    def elements(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Its size in bytes; for a type that is not in `TENSOR_TYPES`, the room that the file has for it."""
        if self.type not in TENSOR_TYPES:
            return self.room
        _, elements, width = TENSOR_TYPES[self.type]
        return self.elements // elements * width


class Metadata(Mapping[str, Value]):
    """The keys of a GGUF file; each value is decoded on access."""

    def __init__(self, header: bytes, places: Mapping[str, tuple[int, int, int, int]]) -> None:
        self._header = header
        self._places = places

    def __getitem__(self, key: str) -> Value:
        kind, item, at, count = self._places[key]
        if kind != ARRAY:
            return self._strings(at, 1)[0] if kind == STRING else self._numbers(kind, at, 1)[0]
        return self._strings(at, count) if item == STRING else self._numbers(item, at, count)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def text(self, key: str) -> str:
        """Return the text of a key; "" if it has none."""
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """Return the integer of a key; None if it has none."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def length(self, key: str) -> int:
        """Return the length of a key's array, without decoding it; 0 if there is no such array."""
        kind, _, _, count = self._places.get(key, (0, 0, 0, 0))
        return count if kind == ARRAY else 0

    def item(self, key: str, index: int) -> str | None:
        """Return one text of a key's array, decoding no other; None if there is none."""
        kind, item, at, count = self._places.get(key, (0, 0, 0, 0))
        if kind != ARRAY or item != STRING or not 0 <= index < count:
            return None
        for _ in range(index):
            (length,) = LENGTH.unpack_from(self._header, at)
            at += LENGTH.size + length
        return self._strings(at, 1)[0]

    def kind(self, key: str) -> str:
        """Return the stored type of a key, like `uint32`, `string` or `array of float32`; "" if there is none."""
        if key not in self._places:
            return ""
        kind, item, _, _ = self._places[key]
        return f"array of {_KINDS[item]}" if kind == ARRAY else _KINDS[kind]

    def _strings(self, at: int, count: int) -> list[str]:
        strings = []
        for _ in range(count):
            (length,) = LENGTH.unpack_from(self._header, at)
            at += LENGTH.size
            strings.append(self._header[at : at + length].decode(errors="replace"))
            at += length
        return strings

    def _numbers(self, kind: int, at: int, count: int) -> list[int] | list[float] | list[bool]:
        return list(struct.unpack_from(f"<{count}{SCALARS[kind]}", self._header, at))


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
        """The number of weights in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    def hyperparameter(self, name: str) -> int | None:
        """Return an integer that the architecture defines, like `context_length` or `block_count`."""
        return self.metadata.number(f"{self.architecture}.{name}")
