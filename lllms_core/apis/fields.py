"""The members of objects inside a request; faults name their place."""

from collections.abc import Mapping, Sequence
from typing import cast

from lllms_core.parameters.wording import missing, wrong_choice, wrong_type
from lllms_core.types import Media


def read_fields(value: object, path: str) -> dict[str, object]:
    """Return the members of an object, without those that are null. Raises `InvalidRequest`."""
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    return {name: field for name, field in cast("dict[str, object]", value).items() if field is not None}


def read_list(value: object, path: str) -> list[object]:
    """Return the items of an array. Raises `InvalidRequest`."""
    if not isinstance(value, list):
        raise wrong_type(path, "an array of objects", value)
    return value


def read_string(fields: Mapping[str, object], name: str, path: str) -> str:
    """Return a required text among the fields of the object at `path`. Raises `InvalidRequest`."""
    value = fields.get(name)
    if value is None:
        raise missing(f"{path}.{name}")
    if not isinstance(value, str):
        raise wrong_type(f"{path}.{name}", "a string", value)
    return value


def read_kind(fields: Mapping[str, object], path: str, known: Sequence[str]) -> str:
    """Return the `type` of the object at `path`, one of those known. Raises `InvalidRequest`."""
    kind = read_string(fields, "type", path)
    if kind not in known:
        raise wrong_choice(f"{path}.type", kind, *known)
    return kind


def join_parts(parts: Sequence[str | Media]) -> tuple[str, tuple[str | Media, ...]]:
    """Return the text of a message's parts, and the parts themselves if some are media.

    Every API joins texts alike, so that equal conversations have equal prompts.
    """
    text = "\n".join([part for part in parts if isinstance(part, str)])
    return text, tuple(parts) if any(isinstance(part, Media) for part in parts) else ()
