"""Faults in data: what is wrong and where, in words that lead to the key."""

import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from attrs import frozen

Key = str | int
Keys = tuple[Key, ...]

LONGEST_NAME = 200


@frozen
class Violation:
    """One violation and its place: the keys and indices that lead to it."""

    path: Keys
    text: str

    def __str__(self) -> str:
        where = dotted(self.path)
        return f"{where}: {self.text}" if where else self.text


class StructureError(Exception):
    """The data does not fit its class; `violations` lists everything wrong with it."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(*violations)
        self.violations = tuple(violations)

    def __str__(self) -> str:
        return "\n".join(map(str, self.violations))


def dotted(path: Iterable[Key]) -> str:
    """Write a path as TOML does: `models."llama3.2".aliases[0]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", key)
            text += ("." if text else "") + (key if bare else json.dumps(key, ensure_ascii=False))
    return text


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` probably stands for."""
    if len(name) > LONGEST_NAME:
        return None  # comparing takes time, and nothing of this length is meant
    return next(iter(get_close_matches(name, sorted(known), n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)`, or the known names, to append to a message about an unknown name."""
    names = sorted(known)
    close = closest(name, names)
    if close is not None:
        return f" (did you mean '{close}'?)"
    return f" (known: {', '.join(names)})" if names else " (nothing can be set here)"


def kind_of(value: object) -> str:
    """Name a value's type, without showing the value, since it may quote a request."""
    return "None" if value is None else f"a value of type {type(value).__name__}"
