"""The text that a client expects an answer to be much like: OpenAI's `prediction`."""

from typing import cast

from attrs import frozen

from lllms_core.parameters.kinds import Schema
from lllms_core.parameters.wording import missing, wrong_choice, wrong_type


@frozen
class Prediction:
    """An object `{"type": "content", "content": TEXT}`; the content may also be an array of text parts."""

    def check(self, name: str, value: object) -> str:
        """Return the text."""
        if not isinstance(value, dict):
            raise wrong_type(name, "an object", value)
        fields = cast("dict[str, object]", value)
        _check_kind(f"{name}.type", fields.get("type"), "content")
        content = fields.get("content")
        if content is None:
            raise missing(f"{name}.content")
        if isinstance(content, str):
            return content
        if not isinstance(content, list | tuple):
            raise wrong_type(f"{name}.content", "a string or an array", content)
        return "".join(_text(f"{name}.content[{index}]", part) for index, part in enumerate(content))

    @property
    def schema(self) -> Schema:
        """An object with a text, or with its parts."""
        part = {
            "type": "object", "required": ["type", "text"],
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        }
        return {
            "type": "object", "required": ["type", "content"], "properties": {
                "type": {"const": "content"},
                "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]},
            },
        }


def _text(path: str, part: object) -> str:
    if not isinstance(part, dict):
        raise wrong_type(path, "an object", part)
    _check_kind(f"{path}.type", part.get("type"), "text")
    text = part.get("text")
    if text is None:
        raise missing(f"{path}.text")
    if not isinstance(text, str):
        raise wrong_type(f"{path}.text", "a string", text)
    return text


def _check_kind(path: str, kind: object, wanted: str) -> None:
    if kind is None:
        raise missing(path)
    if kind != wanted:
        raise wrong_choice(path, kind, wanted)
