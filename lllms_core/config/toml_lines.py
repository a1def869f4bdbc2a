"""The lines on which the keys of a TOML file stand; pure. The parser of Python's library does not tell them."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence

from lllms_core.values.violations import Keys


def find_lines(text: str) -> dict[Keys, int]:
    """Return the line, from 1, on which each key of a valid file begins, by its path; tables have their header's.

    What stands in an inline table or an array has the line of its whole statement.
    """
    lines = text.split("\n")
    found: dict[Keys, int] = {}
    counts: dict[Keys, int] = {}
    header: Keys = ()
    start = 0
    while start < len(lines):
        line = lines[start].strip()
        if not line or line.startswith("#"):
            start += 1
            continue
        data, end = _statement(lines, start)
        if line.startswith("["):
            header = _header(data, counts)
            found.setdefault(header, start + 1)
        else:
            for path in _paths(data):
                found.setdefault((*header, *path), start + 1)
        start = end
    return found


def _statement(lines: Sequence[str], start: int) -> tuple[Mapping[str, object], int]:
    """Parse the statement that begins on a line: as few lines as make one. Return what follows it, too."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return tomllib.loads("\n".join(lines[start:end])), end
        except tomllib.TOMLDecodeError:
            continue  # a value of several lines
    return {}, len(lines)


def _header(data: object, counts: dict[Keys, int]) -> Keys:
    """Return the path of the table that a header opens; `counts` are the tables of each array up to now."""
    path: Keys = ()
    while isinstance(data, Mapping) and data:
        [(key, data)] = data.items()
        path = (*path, key)
        if isinstance(data, list):  # [[key]]
            counts[path] = counts.get(path, 0) + 1
            data = data[0]
        if path in counts:
            path = (*path, counts[path] - 1)
    return path


def _paths(value: object) -> Iterator[Keys]:
    """Yield the paths of all keys and items."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (key,)
        yield from ((key, *path) for path in _paths(inner))
