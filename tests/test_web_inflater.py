"""The decoder of compressed bodies, piece by piece."""

import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st

from lllms_core.web.codings import Inflater, UnknownCoding, inflater


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@given(
    data=st.binary(max_size=3_000), times=st.integers(1, 50), cuts=st.lists(st.integers(0, 3_000), max_size=6),
    most=st.integers(1, 4_000), coding=st.sampled_from(["gzip", "deflate", "raw"]),
)
def test_decoding_gives_back_what_was_encoded(
    data: bytes, times: int, cuts: list[int], most: int, coding: str,
) -> None:
    """Whatever the data, the cuts and the slices: the pieces are those bytes, none longer than requested."""
    data *= times
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "raw": raw_deflate}[coding](data)
    decoder = Inflater("gzip" if coding == "gzip" else "deflate")
    pieces = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(packed)], strict=True):
        decoder.feed(packed[start : max(start, end)])
        pieces.append(decoder.read(most))
    while decoder.pending:
        pieces.append(decoder.read(most))
    decoder.end()
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= most


@given(st.text(max_size=40))
def test_any_header_is_taken_or_refused(text: str) -> None:
    """Every value of the header is either accepted or properly refused."""
    try:
        found = inflater([text])
    except UnknownCoding as error:
        assert "gzip, deflate" in str(error.description)  # noqa: PT017  # either outcome is right
    else:
        assert found is None or found.coding in {"gzip", "deflate"}
