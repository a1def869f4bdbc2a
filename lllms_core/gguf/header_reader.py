"""Reading the header of a GGUF file. Nothing in the file is trusted.

Counts and lengths are checked against its size before anything is allocated; every fault raises `GGUFError`.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NoReturn

from attrs import evolve

from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf.header import ARRAY, GGUF, LENGTH, SCALARS, STRING, TENSOR_TYPES, Metadata, TensorInfo
from lllms_core.gguf.parts import part_paths
from lllms_core.machine import open_regular

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_CHUNK = 1 << 20
_WIDTHS = {kind: struct.calcsize("<" + code) for kind, code in SCALARS.items()}


class GGUFError(ModelLoadFailed):
    """The file is not a usable GGUF file; the message names it and says why."""


def is_gguf(path: Path) -> bool:
    """Whether a file starts like GGUF, whatever its name. Raises `OSError`."""
    with open_regular(path) as file:
        return file.read(len(_MAGIC)) == _MAGIC


_seen: ContextVar[dict[Path, GGUF] | None] = ContextVar("headers that were read", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Read each file's header only once until this ends, in this thread or task."""
    before = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(before)


def read_gguf(path: Path) -> GGUF:
    """Read the header of a GGUF file, and check that the file holds all the data that its header announces.

    Raises `GGUFError` for anything but a complete GGUF file of version 2 or 3, and for one without tensors (only a
    vocabulary), unless it is part of a split model. A vocabulary of 150,000 tokens takes about 0.1 s; the `gguf`
    package, which makes an array of each token and merge, takes more than ten seconds.
    """
    seen = _seen.get()
    if seen is not None and path in seen:
        return seen[path]
    try:
        with open_regular(path) as file:
            header = _Header(file, path).read()
    except FileNotFoundError:
        raise GGUFError(f"there is no file '{path}'") from None
    except IsADirectoryError:
        raise GGUFError(f"'{path}' is a directory; name the GGUF file in it") from None
    except OSError as error:
        raise GGUFError(f"'{path}' cannot be read: {error.strerror}") from None
    if seen is not None:
        seen[path] = header
    return header


def read_parts(path: Path) -> tuple[GGUF, ...]:
    """Read the headers of all parts of a split model, given its first; of any other file, just its own.

    Raises `GGUFError` like `read_gguf`, and for a missing part.
    """
    first = read_gguf(path)
    count = first.metadata.number("split.count") or 1
    if count < 2 or first.metadata.number("split.no"):
        return (first,)
    others = part_paths(path)[1:]
    if len(others) + 1 != count:
        raise GGUFError(
            f"'{path}' is the first of {count} parts, which are found by their names: call it "
            f"NAME-00001-of-{count:05}.gguf, and the others accordingly",
        )
    for other in others:
        if not other.exists():
            raise GGUFError(f"'{path}' is the first of {count} parts, and the part '{other}' is missing")
    return (first, *map(read_gguf, others))


class _Header:
    """A cursor over the start of a file, which reads no more than the header needs."""

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
        start = self._check_tensors(tensors, metadata)
        return GGUF(self._version, metadata, _with_room(tensors, self._size - start))

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
        """Return the place of each key's value: its kind, the kind of its items, the offset, the number of items."""
        self._expect(count, 8 + 4 + 1, "keys")
        places: dict[str, tuple[int, int, int, int]] = {}
        for _ in range(count):
            key = self._text()
            if key in places:
                self._fail(f"has the key '{key}' twice")
            kind, item, items = self._unsigned(4), 0, 1
            if kind == ARRAY:
                item, items = self._unsigned(4), self._unsigned(8)
            at = self._at
            self._skip(item if kind == ARRAY else kind, items, key)
            places[key] = kind, item, at, items
        return places

    def _skip(self, kind: int, count: int, key: str) -> None:
        if kind in _WIDTHS:
            self._expect(count, _WIDTHS[kind], f"items of '{key}'")
            self._advance(count * _WIDTHS[kind])
        elif kind == STRING:
            self._expect(count, LENGTH.size, f"items of '{key}'")
            self._skip_strings(count)
        else:
            self._fail(f"has a value of the unknown kind {kind} under the key '{key}'")

    def _skip_strings(self, count: int) -> None:
        # This loop is most of what reading a header takes: a vocabulary has 100,000 tokens and as many merges.
        at, data, unpack = self._at, self._data, LENGTH.unpack_from
        while count:
            try:
                for count in range(count, 0, -1):  # noqa: B007, B020, PLR1704  # it goes on where it stopped
                    at += 8 + unpack(data, at)[0]
                break
            except (struct.error, OverflowError):
                self._need(at + 8)
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

    def _check_tensors(self, tensors: tuple[TensorInfo, ...], metadata: Metadata) -> int:
        """Return the offset at which the tensors' data begin."""
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
            end = start + tensor.offset + tensor.size
            if end > self._size:
                self._fail(
                    f"is truncated: the tensor '{tensor.name}' ends at byte {end}, the file has {self._size}; "
                    "download it again",
                )
        return start

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
        """Refuse a count that the rest of the file cannot hold, before anything is allocated for it."""
        if count * width > self._size - self._at:
            self._fail(f"is truncated or broken: it announces {count} {what} at byte {self._at} of {self._size}")

    def _need(self, end: int) -> None:
        if end <= len(self._data):
            return
        if end <= self._size:
            wanted = min(self._size, max(end, len(self._data) * 2, _CHUNK))
            self._data += self._file.read(wanted - len(self._data))
        if end > len(self._data):
            self._fail(f"is truncated: its header reaches byte {end}, the file has {self._size}; download it again")

    def _fail(self, reason: str) -> NoReturn:
        raise GGUFError(f"'{self._path}' {reason}")


def _with_room(tensors: tuple[TensorInfo, ...], end: int) -> tuple[TensorInfo, ...]:
    """Fill in the room of tensors of unknown types, known only from the file's layout; `end`: of all data."""
    if all(tensor.type in TENSOR_TYPES for tensor in tensors):
        return tensors
    ends = dict(pairwise(sorted({*(tensor.offset for tensor in tensors), end})))
    return tuple(
        tensor if tensor.type in TENSOR_TYPES else evolve(tensor, room=ends.get(tensor.offset, end) - tensor.offset)
        for tensor in tensors
    )
