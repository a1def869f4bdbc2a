"""An assistant's thoughts, in the fields and parts where programs keep them; pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

TEXTS = ("reasoning", "thinking")
"""Fields that may hold the thoughts as one text, if there is no `reasoning_content`."""
LISTS = ("reasoning_details", "thinking_blocks")
"""Fields that may hold them as a list of blocks."""
PARTS = frozenset({"thinking", "reasoning", "redacted_thinking"})
"""The kinds of content parts that hold thoughts."""
_KEYS = ("thinking", "text", "summary", "reasoning")


def find_thoughts(fields: Mapping[str, object]) -> str | None:
    """Return the thoughts of an assistant's message, from the first field that has some; None without any.

    Encrypted ones, which only their author can read, do not count.
    """
    for name in TEXTS:
        value = fields.get(name)
        if isinstance(value, str) and value:
            return value
    lists = (join_blocks(value) for name in LISTS if isinstance(value := fields.get(name), list))
    return next(filter(None, lists), None)


def split_parts(content: object) -> tuple[object, str | None]:
    """Return an assistant's content without the parts that hold thoughts, and those thoughts; None without any."""
    if not isinstance(content, list):
        return content, None
    thoughts = [part for part in content if _is_thought(part)]
    if not thoughts:
        return content, None
    return [part for part in content if not _is_thought(part)], join_blocks(thoughts)


def join_blocks(blocks: Sequence[object]) -> str | None:
    """Return the texts of blocks, each on a line of its own."""
    return "\n".join(text for block in blocks for text in _texts(block)) or None


def _is_thought(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] in PARTS


def _texts(block: object) -> Iterator[str]:
    """Yield the texts of a block, which may hold text parts in turn."""
    if isinstance(block, dict):
        value = next((block[key] for key in _KEYS if block.get(key)), "")
        inner = cast("list[object]", value) if isinstance(value, list) else [value]
        texts = (part.get("text") if isinstance(part, dict) else part for part in inner)
        yield from (text for text in texts if isinstance(text, str) and text)
