"""The content of items: texts, media, thoughts; pure."""

from collections.abc import Mapping, Sequence

from lllms_core.apis.fields import join_parts, read_fields, read_kind, read_list, read_string
from lllms_core.parameters.wording import missing, unsupported, wrong_type
from lllms_core.types import Media

TEXTS: Mapping[str, str] = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Parts that are text, with the member that holds it; to a model, a refusal is an answer."""
MEDIA = ("input_image", "input_file", "input_audio")
_THOUGHTS = ("reasoning_text", "summary_text", "text")

Content = tuple[str, tuple[str | Media, ...]]
"""The text of all parts, and the parts themselves if some are media."""


def read_content(item: Mapping[str, object], name: str, path: str, role: str) -> Content:
    """Return the content of a message. Raises `InvalidRequest`."""
    if name not in item:
        raise missing(f"{path}.{name}")
    value = item[name]
    if isinstance(value, str):
        return value, ()
    if not isinstance(value, list):
        raise wrong_type(f"{path}.{name}", "a string or an array of objects", value)
    media = MEDIA if role in {"user", "tool"} else ()
    return join_parts([_read_part(one, f"{path}.{name}[{index}]", media) for index, one in enumerate(value)])


def read_output(item: Mapping[str, object], path: str) -> Content:
    """Return the result of a call. Raises `InvalidRequest`."""
    return read_content(item, "output", path, "tool")


def read_thoughts(item: Mapping[str, object], path: str) -> str:
    """Return the text of an item of thoughts, its summary if there is no other; encrypted ones say nothing to us."""
    for name in ("content", "summary"):
        texts = []
        for index, one in enumerate(read_list(item.get(name, []), f"{path}.{name}")):
            part = read_fields(one, f"{path}.{name}[{index}]")
            if part.get("type") in _THOUGHTS:
                texts.append(read_string(part, "text", f"{path}.{name}[{index}]"))
        if any(texts):
            return "\n".join(texts)
    return ""


def _read_part(value: object, path: str, media: Sequence[str]) -> str | Media:
    part = read_fields(value, path)
    kind = read_kind(part, path, (*TEXTS, *media))
    if kind in TEXTS:
        return read_string(part, TEXTS[kind], path)
    if kind == "input_audio":
        sound = read_fields(part.get("input_audio"), f"{path}.input_audio")
        place = f"{path}.input_audio"
        return Media("audio", read_string(sound, "data", place), read_string(sound, "format", place), f"{path}.type")
    if "file_id" in part and not part.keys() & {"image_url", "file_data", "file_url"}:
        raise unsupported(f"{path}.file_id", "the data themselves")
    if kind == "input_image":
        return Media("image", read_string(part, "image_url", path), param=f"{path}.type")
    name = "file_url" if "file_url" in part else "file_data"
    return Media("file", read_string(part, name, path), param=f"{path}.type")
