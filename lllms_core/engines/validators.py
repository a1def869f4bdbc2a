"""Validators for the `Options` of engines, beside those of attrs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lllms_core.chat.answer_format import ReasoningFormat
from lllms_core.parameters.kinds import INT32

if TYPE_CHECKING:
    from attrs import Attribute

Validator = Callable[[Any, "Attribute[Any]", Any], None]


def whole_number(minimum: int, maximum: int = INT32, *words: str) -> Validator:
    """An integer of this range, or one of the words; anything else is a `ValueError` that names the option."""

    def check(_: object, attribute: "Attribute[Any]", value: object) -> None:
        if isinstance(value, str) and value in words:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            others = "".join(f' or "{word}"' for word in words)
            raise ValueError(f"{attribute.name} is {value!r}; set an integer from {minimum} to {maximum}{others}")

    return check


def thought_marks(_: object, attribute: "Attribute[Any]", value: object) -> None:
    """What `ChatTemplate` takes as `reasoning`; anything else is a `ValueError` that names the option."""
    if value in ("auto", "none"):
        return
    if not isinstance(value, str):
        raise TypeError(f'{attribute.name} is {value!r}; set "auto", "none", or the marks like "<think>...</think>"')
    try:
        ReasoningFormat.read(value)
    except ValueError as error:
        raise ValueError(f'{attribute.name}: {error}, or "auto", or "none"') from None
