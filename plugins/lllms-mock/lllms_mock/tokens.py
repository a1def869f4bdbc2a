"""Cutting a text into tokens that give exactly the text again when they are joined."""

import re

_WORD = re.compile(r"\s?\w+|\s?[^\w\s]|\s")


def split_words(text: str) -> list[str]:
    """Words and single punctuation marks, each with the white space before it; further white space by itself."""
    return _WORD.findall(text)


def split_bytes(text: str) -> list[bytes]:
    """The bytes of the text in UTF-8; lone surrogates, which have none, as question marks."""
    return [bytes([byte]) for byte in text.encode(errors="replace")]


def as_bytes(token: str | bytes) -> bytes:
    """The bytes of either kind of token."""
    return token.encode(errors="replace") if isinstance(token, str) else token
