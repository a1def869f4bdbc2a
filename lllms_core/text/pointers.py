"""JSON pointers to the parts of a schema, in the form of a URI's fragment (RFC 6901, section 6); pure."""

from collections.abc import Sequence
from urllib.parse import quote, unquote

Path = tuple[str | int, ...]
"""Keys of objects and indices of arrays, from the root on."""

_PLAIN = "~!$&'()*+.:@=_-"
"""Characters that need no escape; commas and semicolons do, because they separate the members of a header."""


def write_pointer(path: Sequence[str | int]) -> str:
    """Return the pointer: `#` for the root; it has no white space, comma or semicolon."""
    keys = (str(key).replace("~", "~0").replace("/", "~1") for key in path)
    return "".join(["#", *(f"/{quote(key, safe=_PLAIN)}" for key in keys)])


def read_pointer(pointer: str) -> list[str] | None:
    """Return the keys of a pointer, indices as text; None for a fragment that is no pointer."""
    if pointer != "#" and not pointer.startswith("#/"):
        return None
    return [unquote(key).replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
