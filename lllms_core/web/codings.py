"""Decodes compressed request bodies as they arrive, a bounded number of bytes at a time."""

import zlib
from collections.abc import Iterable
from typing import Any

from werkzeug.exceptions import UnsupportedMediaType

from lllms_core.parameters.wording import cut

ACCEPTED = ("gzip", "deflate")
_ALIASES = {"x-gzip": "gzip"}
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""The formats, as zlib's `wbits`."""


class UnknownCoding(UnsupportedMediaType):
    """A body has an unsupported coding; the answer names the supported ones."""

    def get_headers(self, *args: Any, **fields: Any) -> list[tuple[str, str]]:
        """Return the answer's headers."""
        return [*super().get_headers(*args, **fields), ("Accept-Encoding", ", ".join(ACCEPTED))]


class Inflater:
    """Decompresses one body. Raises `ValueError` for data that does not match its coding."""

    def __init__(self, coding: str) -> None:
        self.coding = coding
        self._zlib = zlib.decompressobj(_GZIP) if coding == "gzip" else None
        self._tail = b""
        """Bytes not decompressed yet."""
        self._full = False
        """Whether the last piece had the maximum length, so that there may be more."""

    @property
    def pending(self) -> bool:
        """Whether more can perhaps be read before more is fed."""
        return self._full or (self._zlib is not None and bool(self._tail))

    @property
    def size(self) -> int:
        """The number of bytes still to be decompressed."""
        return len(self._tail)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self._tail += data

    def read(self, most: int) -> bytes:
        """Decompress fed bytes into at most `most` bytes, which is at least 1."""
        if self._zlib is None:
            if len(self._tail) < 2:  # the header of zlib's format
                return b""
            # Some clients send raw deflate (RFC 1951), without the header that HTTP requires around it.
            wrapped = self._tail[0] & 0x0F == zlib.DEFLATED and int.from_bytes(self._tail[:2], "big") % 31 == 0
            self._zlib = zlib.decompressobj(_ZLIB if wrapped else _RAW)
        try:
            data = self._zlib.decompress(self._tail, most)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        self._full = len(data) == most
        self._tail = self._zlib.unconsumed_tail
        if self._zlib.eof and self._zlib.unused_data:
            raise ValueError("there are bytes after its end")
        return data

    def end(self) -> None:
        """Raise `ValueError` if the data is incomplete."""
        if self._zlib is None or not self._zlib.eof:
            raise ValueError("it ends too early")


def inflater(headers: Iterable[str]) -> Inflater | None:
    """Return the decoder for the values of a request's `Content-Encoding` headers; None if nothing is encoded.

    Raises `UnknownCoding`.
    """
    named = [name for name in (one.strip().lower() for one in ",".join(headers).split(",")) if name]
    codings = [_ALIASES.get(name, name) for name in named if name != "identity"]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in ACCEPTED:
        return Inflater(codings[0])
    raise UnknownCoding(
        f"the body has the Content-Encoding '{cut(', '.join(named))}'; send it as it is, or compressed with one of "
        f"{', '.join(ACCEPTED)}",
    )
