"""Split a text into tokens that can be joined into exactly the same text."""

import re

_WORD = re.compile(r"\s?\w+|\s?[^\w\s]|\s")


def split_words(text: str) -> list[str]:
    """Return words and single punctuation marks, each with the white space before it; other white space separately."""
    return _WORD.findall(text)


def split_bytes(text: str) -> list[bytes]:
    """Return the bytes of the text in UTF-8; lone surrogates, which have none, as question marks."""
    return [bytes([byte]) for byte in text.encode(errors="replace")]


def as_bytes(token: str | bytes) -> bytes:
    """Return the bytes of either kind of token."""
    return token.encode(errors="replace") if isinstance(token, str) else token
