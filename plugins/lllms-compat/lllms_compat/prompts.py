"""The prompts of llama-server: a text, tokens, a list of both, or an array of such prompts; pure."""

from collections.abc import Sequence
from typing import cast

from lllms_core.parameters.kinds import INT32, Integer
from lllms_core.parameters.wording import empty, wrong_type, wrong_value

Prompt = str | tuple[int, ...]
Mixed = list[str | int]
"""A prompt of texts and tokens; each text is still to be tokenised."""

MOST = 2048
"""Prompts of one request."""
MOST_TEXTS = 64
"""Texts between the tokens of all its prompts: each is tokenised by a query of its own."""


def read_prompts(value: object) -> Sequence[Prompt | Mixed]:
    """Return the prompts, at least one. Raises `InvalidRequest`."""
    parts = cast("list[object]", value) if isinstance(value, list) else []
    several = any(isinstance(one, list) for one in parts) or (
        len(parts) > 0 and all(isinstance(one, str) for one in parts)
    )
    if several and len(parts) > MOST:
        limit, got = f"an array with maximum length {MOST}", f"an array with length {len(parts)}"
        raise wrong_value("prompt", "array too long", limit, got, "array_above_max_length")
    given = {f"prompt[{index}]": one for index, one in enumerate(parts)} if several else {"prompt": value}
    prompts = [read_prompt(path, one) for path, one in given.items()]
    texts = sum(isinstance(part, str) for one in prompts if isinstance(one, list) for part in one)
    if texts > MOST_TEXTS:
        limit, got = f"at most {MOST_TEXTS} texts between tokens", f"{texts}; send one text, or tokens only"
        raise wrong_value("prompt", "array too long", limit, got, "array_above_max_length")
    return prompts


def read_prompt(path: str, value: object) -> Prompt | Mixed:
    """Return one prompt. Raises `InvalidRequest`."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_type(path, "a string, or an array of tokens and strings", value)
    if not value:
        raise empty(path)
    kind = Integer(0, INT32)
    for index, one in enumerate(value):
        if not isinstance(one, str):
            kind.check(f"{path}[{index}]", one)
    mixed = any(isinstance(one, str) for one in value)
    return cast("Mixed", value) if mixed else tuple(cast("list[int]", value))
