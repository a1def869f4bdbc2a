"""The prompts of `/completions`, from JSON: a string, several, the tokens of one, or those of several."""

from collections.abc import Sequence
from typing import cast

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.kinds import INT32, Integer
from lllms_core.parameters.wording import empty, wrong_type, wrong_value

Prompt = str | tuple[int, ...]

MOST = 2048
"""Prompts of one request, and answers to them."""


def read_prompts(name: str, value: object) -> tuple[Prompt, ...]:
    """Return the prompts, at least one. Raises `InvalidRequest` that names the place."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise wrong_type(name, "a string or an array", value)
    if not value:
        raise empty(name)
    if isinstance(value[0], int):
        return (_tokens(name, value),)
    if len(value) > MOST:
        limit, got = f"an array with maximum length {MOST}", f"an array with length {len(value)}"
        raise wrong_value(name, "array too long", limit, got, "array_above_max_length")
    return tuple(_prompt(f"{name}[{index}]", one, value[0]) for index, one in enumerate(value))


def _prompt(name: str, value: object, first: object) -> Prompt:
    if isinstance(first, str):
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        return value
    if not isinstance(value, list):
        raise wrong_type(name, "a string or an array of integers" if value is first else "an array of integers", value)
    return _tokens(name, value)


def _tokens(name: str, values: Sequence[object]) -> tuple[int, ...]:
    if not values:
        raise empty(name)
    if all(type(one) is int and 0 <= one <= INT32 for one in values):
        return tuple(cast("list[int]", values))
    kind = Integer(0, INT32)
    for index, one in enumerate(values):
        kind.check(f"{name}[{index}]", one)
    raise InvalidRequest(f"'{name}' is no array of tokens", name)
