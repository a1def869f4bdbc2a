"""The kinds of parameter values: each checks a value, and describes itself as a JSON schema."""

import json
import math
from collections.abc import Mapping
from typing import Protocol

from attrs import field, frozen

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import wrong_choice, wrong_type, wrong_value

INT32 = 2**31 - 1
INT64 = 2**63 - 1

Schema = Mapping[str, object]


class Kind(Protocol):
    """A kind of value."""

    def check(self, name: str, value: object) -> object:
        """Return `value` in its proper type. Raises `RequestError` with `param=name`, or a path that starts with it."""

    @property
    def schema(self) -> Schema:
        """The JSON schema of the accepted values."""


@frozen
class Integer:
    """A whole number in a range, bounds included."""

    minimum: int = -INT64 - 1
    maximum: int = INT64
    same: Mapping[int, int] = field(factory=dict)
    """Other servers' spellings of values in the range, like -1 for "no limit"."""

    def check(self, name: str, value: object) -> int:
        """Return the integer."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, "an integer", value)
        value = self.same.get(value, value)
        if value < self.minimum:
            raise _outside(name, "integer", "below min", f">= {self.minimum}", value)
        if value > self.maximum:
            raise _outside(name, "integer", "above max", f"<= {self.maximum}", value)
        return value

    @property
    def schema(self) -> Schema:
        """An integer with its limits."""
        return {"type": "integer", "minimum": min([self.minimum, *self.same]), "maximum": self.maximum}


@frozen
class Number:
    """A number in a range, bounds included, except the lower one of a `positive` kind."""

    minimum: float = -math.inf
    maximum: float = math.inf
    positive: bool = False

    def check(self, name: str, value: object) -> float:
        """Return the number as a float."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(name, "a number", value)
        # "not above" instead of "below": NaN is neither.
        if not (value > self.minimum if self.positive else value >= self.minimum):
            bound = f"{'>' if self.positive else '>='} {self.minimum:g}"
            raise _outside(name, "decimal", "below min", bound, value)
        if value > self.maximum:
            raise _outside(name, "decimal", "above max", f"<= {self.maximum:g}", value)
        try:
            return float(value)
        except OverflowError:
            raise _outside(name, "decimal", "above max", "that a float can hold", "more") from None

    @property
    def schema(self) -> Schema:
        """A number with its limits."""
        limits: dict[str, object] = {}
        if math.isfinite(self.minimum):
            limits["exclusiveMinimum" if self.positive else "minimum"] = self.minimum
        if math.isfinite(self.maximum):
            limits["maximum"] = self.maximum
        return {"type": "number", **limits}


@frozen
class Flag:
    """True or false."""

    def check(self, name: str, value: object) -> bool:
        """Return the flag."""
        if not isinstance(value, bool):
            raise wrong_type(name, "a boolean", value)
        return value

    @property
    def schema(self) -> Schema:
        """A boolean."""
        return {"type": "boolean"}


@frozen
class Text:
    """A string."""

    longest: int | None = None
    """In characters."""

    def check(self, name: str, value: object) -> str:
        """Return the string."""
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if self.longest is not None and len(value) > self.longest:
            limit = f"a string with maximum length {self.longest}"
            raise wrong_value(name, "string too long", limit, f"one of {len(value)}", "string_above_max_length")
        return value

    @property
    def schema(self) -> Schema:
        """A string."""
        return {"type": "string"} if self.longest is None else {"type": "string", "maxLength": self.longest}


@frozen
class OneOf:
    """One of a few strings."""

    values: tuple[str, ...]

    def check(self, name: str, value: object) -> str:
        """Return the string."""
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if value not in self.values:
            raise wrong_choice(name, value, *self.values)
        return value

    @property
    def schema(self) -> Schema:
        """An enumeration."""
        return {"type": "string", "enum": list(self.values)}


@frozen
class Strings:
    """A string, or an array of up to `most` strings; none of them empty."""

    most: int

    def check(self, name: str, value: object) -> tuple[str, ...]:
        """Return the strings."""
        strings = [value] if isinstance(value, str) else value
        if not isinstance(strings, list | tuple) or not all(isinstance(one, str) for one in strings):
            raise wrong_type(name, "a string or an array of strings", value)
        if len(strings) > self.most:
            limit, got = f"an array with maximum length {self.most}", f"an array with length {len(strings)}"
            raise wrong_value(name, "array too long", limit, got, "array_above_max_length")
        if "" in strings:
            text = "empty string. Expected strings with minimum length 1"
            raise InvalidRequest(f"Invalid '{name}': {text}.", name, "string_below_min_length")
        return tuple(strings)

    @property
    def schema(self) -> Schema:
        """Either form."""
        string = {"type": "string", "minLength": 1}
        return {"anyOf": [string, {"type": "array", "items": string, "maxItems": self.most}]}


@frozen
class Biases:
    """An object from token ids, as strings, to the numbers added to these tokens' logits."""

    most: float = 100.0

    def check(self, name: str, value: object) -> Mapping[int, float]:
        """Return the bias of each token."""
        if value == []:
            return {}  # as some clients write an empty object
        if not isinstance(value, Mapping):
            raise wrong_type(name, "an object", value)
        biases = {}
        number = Number(-self.most, self.most)
        for token, bias in value.items():
            key = str(token)
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                text = f"Invalid key in '{name}': {json.dumps(key[:40])}. Expected the id of a token, like \"50256\"."
                raise InvalidRequest(text, name, "invalid_key")
            biases[int(key)] = number.check(f"{name}.{key}", bias)
        return biases

    @property
    def schema(self) -> Schema:
        """An object of numbers."""
        number = Number(-self.most, self.most).schema
        return {"type": "object", "propertyNames": {"pattern": "^[0-9]{1,9}$"}, "additionalProperties": number}


@frozen
class Json:
    """A value of these JSON types; its user checks the contents."""

    types: tuple[str, ...]
    """Type names of JSON Schema: object, array, string, integer, number, boolean."""

    def check(self, name: str, value: object) -> object:
        """Return the value."""
        if not any(_FITS[one](value) for one in self.types):
            expected = " or ".join(f"{'an' if one[0] in 'aoi' else 'a'} {one}" for one in self.types)
            raise wrong_type(name, expected, value)
        return value

    @property
    def schema(self) -> Schema:
        """The types."""
        return {"type": list(self.types) if len(self.types) > 1 else self.types[0]}


ANYTHING = Json(("object", "array", "string", "number", "boolean"))
"""For parameters that nothing reads."""


@frozen
class Described:
    """A value that its reader checks in full; the schema is given."""

    schema: Schema

    def check(self, name: str, value: object) -> object:  # noqa: ARG002  # as every kind
        """Return the value."""
        return value


_FITS = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list | tuple),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def _outside(name: str, number: str, side: str, bound: str, value: object) -> InvalidRequest:
    fault, code = f"{number} {side}imum value", f"{number}_{side.replace(' ', '_')}_value"
    return wrong_value(name, fault, f"a value {bound}", value, code)
