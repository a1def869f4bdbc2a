"""Numbers in JSON schemas: which ones are written exactly, and bounds for the others; pure."""

import re
from collections.abc import Iterator, Mapping
from decimal import ROUND_FLOOR, Context, Decimal
from json import dumps
from math import inf, isfinite, nextafter

_DIGITS = 15
"""This many digits of a decimal number survive llguidance's floats."""
_LARGEST_INTEGER = 2**63 - 1024
"""The largest float below llguidance's limit."""
_LARGEST = 9_223_372_036_854_770_000
"""The same for bounds of numbers with a fraction, with 15 digits."""
_LARGEST_FAR = 10**18
"""The limit of a bound on the other side of zero: a minimum above it has no expression."""
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that JSON can only write as \\uXXXX, which is not generated: it could spell a property's name again."""
_UPPER = frozenset({"maximum", "exclusiveMaximum"})


class Inexact(Exception):
    """A bound has no expression; the text says why."""


def tighten(keyword: str, value: float, types: frozenset[str]) -> float:
    """Return the bound itself, or a tighter one that can be kept exactly.

    Values within it are within the given one; numbers between the two, beyond the significant digits, are not written.
    Raises `Inexact`.
    """
    upper = keyword in _UPPER
    # Treated as an upper bound: a lower one is the upper one of the negated numbers.
    bound = value if upper else -value
    if bound < -_LARGEST_FAR:
        raise Inexact("a number is too large to be exact")
    tightened = _tighten_integer(bound) if "number" not in types else _tighten(bound)
    return tightened if upper else -tightened


def _tighten_integer(bound: float) -> float:
    if bound >= _LARGEST_INTEGER:
        return _LARGEST_INTEGER
    near = float(bound)
    if near > bound:
        near = nextafter(near, -inf)
    return int(near // 1)


def _tighten(bound: float) -> float:
    if bound >= _LARGEST:
        return _LARGEST
    if not inexact_number(bound):
        return bound
    context = Context(prec=_DIGITS, rounding=ROUND_FLOOR)
    near = context.plus(Decimal(bound))
    return int(near) if near == near.to_integral_value() else float(near)


def is_empty(schema: Mapping[str, object]) -> bool:
    """Whether no number lies within the bounds of a schema."""
    def bound(keyword: str, otherwise: float) -> float:
        value = schema.get(keyword)
        return otherwise if isinstance(value, bool) or not isinstance(value, int | float) else value

    least, above = bound("minimum", -inf), bound("exclusiveMinimum", -inf)
    most, below = bound("maximum", inf), bound("exclusiveMaximum", inf)
    return max(least, above) > min(most, below) or (max(least, above) == min(most, below) and (
        (above >= least and above > -inf) or (below <= most and below < inf)
    ))


def inexact_number(value: float) -> str:
    """Return why a number would not be written exactly, or ""."""
    if isinstance(value, int):
        exact = abs(value) <= _LARGEST_INTEGER and int(float(value)) == value
        return "" if exact else f"the number {str(value)[:40]} is too large to be exact"
    if not isfinite(value):
        return "a number is too large"
    if float(f"{value:.{_DIGITS}g}") != value:
        return f"the number {value!r} has more than {_DIGITS} digits, too many to be exact"
    return ""


def inexact(value: object) -> Iterator[str]:
    """Yield the parts of a value that would not be written exactly."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        if text := inexact_number(value):
            yield text
    elif isinstance(value, str) and _UNWRITABLE.search(value):
        yield f"the text {dumps(value)[:40]} has control characters that are not generated"
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from inexact(name)
            yield from inexact(one)
    elif isinstance(value, list):
        for one in value:
            yield from inexact(one)
