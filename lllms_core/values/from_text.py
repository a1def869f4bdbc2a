"""Values written as text, for keys whose types are known: those of a command line."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import attrs

from lllms_core.machine import at_home
from lllms_core.values.structure import UNIONS, fits

YES = frozenset({"true", "yes", "on"})
NO = frozenset({"false", "no", "off"})


def value_from_text(text: str, kind: Any) -> object:
    """Return what a text means for a key of this type: itself, a TOML value, or a list with commas.

    A text that means nothing for the type comes back as it is, for later checks to report.
    """
    return next((value for value in _meanings(text, kind) if fits(value, kind)), text)


def from_here(value: object, kind: Any) -> object:
    """Return a value for a key of this type in which paths that are relative start in the working directory."""
    if isinstance(value, str):
        return str(at_home(value).absolute()) if _names_file(value, kind) else value
    members = get_args(kind) if get_origin(kind) in UNIONS else (kind,)
    if isinstance(value, list):
        inner = next((get_args(one)[0] for one in members if get_origin(one) in (tuple, list)), object)
        return [from_here(one, inner) for one in value]
    if isinstance(value, Mapping):
        table = next((one for one in members if attrs.has(one)), None)
        kinds = {} if table is None else {one.name: one.type for one in attrs.fields(attrs.resolve_types(table))}
        return {key: from_here(one, kinds.get(key, object)) for key, one in value.items()}
    return value


def _names_file(text: str, kind: Any) -> bool:
    """Whether a text is a path: if it may be something else, only if there is such a file."""
    members = get_args(kind) if get_origin(kind) in UNIONS else (kind,)
    others = [one for one in members if one is not Path and fits(text, one)]
    return Path in members and (not others or _exists(text))


def _exists(text: str) -> bool:
    try:
        return at_home(text).is_file()
    except (OSError, ValueError):  # it is no path at all
        return False


def _meanings(text: str, kind: Any) -> Iterator[object]:
    members = get_args(kind) if get_origin(kind) in UNIONS else (kind,)
    if str in members or Path in members:
        yield text
    if bool in members and text.lower() in YES | NO:
        yield text.lower() in YES
    try:
        yield tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        yield text
    yield [part.strip() for part in text.split(",") if part.strip()]
