"""The members of objects inside a request; faults name their place."""

from collections.abc import Mapping
from typing import cast

from lllms_core.parameters.wording import missing, wrong_type


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
