"""The excerpts of other files that help to fill a gap: `input_extra`, as llama-server calls it."""

from collections.abc import Iterator, Sequence
from typing import cast

from attrs import frozen

from lllms_core.parameters.kinds import Schema
from lllms_core.parameters.wording import missing, wrong_type, wrong_value
from lllms_core.types import Excerpt

MOST = 1024
"""Excerpts of one request."""
LONGEST_NAME = 1000
"""Characters of a name that are kept: its end, which says most."""


@frozen
class Excerpts:
    """An array of `{"text", "filename"}`; other members, like the time of an excerpt, are not read."""

    def check(self, name: str, value: object) -> tuple[Excerpt, ...]:
        """Return the excerpts."""
        if not isinstance(value, list | tuple):
            raise wrong_type(name, "an array of objects", value)
        if len(value) > MOST:
            limit, got = f"an array with maximum length {MOST}", f"an array with length {len(value)}"
            raise wrong_value(name, "array too long", limit, got, "array_above_max_length")
        return tuple(_read(name, value))

    @property
    def schema(self) -> Schema:
        """An array of texts."""
        return {
            "type": "array", "maxItems": MOST, "items": {
                "type": "object", "required": ["text"],
                "properties": {"text": {"type": "string"}, "filename": {"type": ["string", "null"]}},
            },
        }


def _read(name: str, value: Sequence[object]) -> Iterator[Excerpt]:
    for index, one in enumerate(value):
        path = f"{name}[{index}]"
        if not isinstance(one, dict):
            raise wrong_type(path, "an object", one)
        fields = cast("dict[str, object]", one)
        text, file = fields.get("text"), fields.get("filename")
        if text is None:
            raise missing(f"{path}.text")
        if not isinstance(text, str):
            raise wrong_type(f"{path}.text", "a string", text)
        if file is not None and not isinstance(file, str):
            raise wrong_type(f"{path}.filename", "a string", file)
        yield Excerpt(text, (file or "")[-LONGEST_NAME:])
