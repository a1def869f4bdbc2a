"""What a request, or a model's `defaults`, may say about sampling: one table of types, ranges and neutral values."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from attrs import evolve, field, frozen

from lllms_core.errors import InvalidRequest
from lllms_core.types import Sampling

Value = int | float | tuple[str, ...]
"""What `check` returns: a number, or the stop strings."""

MAX_STOPS = 4

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1


@frozen
class Parameter:
    """One parameter of generation: its type, its range, and the value that asks for nothing."""

    name: str
    type: Literal["integer", "number", "strings"]
    minimum: float = -math.inf
    maximum: float = math.inf
    neutral: Value | None = None
    """Given to an engine that does not honour the parameter, this value changes nothing; None: there is none."""
    positive: bool = False
    """Whether `minimum` itself is excluded."""

    def check(self, value: object) -> Value:
        """Return `value` in its proper type. Raises `InvalidRequest` with this parameter's name as `param`."""
        return self._strings(value) if self.type == "strings" else self._number(value)

    def _number(self, value: object) -> int | float:
        allowed = (int,) if self.type == "integer" else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise self._wrong_type(f"{'an' if self.type == 'integer' else 'a'} {self.type}", value)
        kind = "integer" if self.type == "integer" else "decimal"
        # "not above" rather than "below": NaN is neither.
        if not (value > self.minimum if self.positive else value >= self.minimum):
            bound = f"{'>' if self.positive else '>='} {_shown(self.minimum)}"
            raise self._invalid(f"{kind} below minimum value", f"a value {bound}", value, f"{kind}_below_min_value")
        if value > self.maximum:
            bound = f"<= {_shown(self.maximum)}"
            raise self._invalid(f"{kind} above maximum value", f"a value {bound}", value, f"{kind}_above_max_value")
        return value if self.type == "integer" else float(value)

    def _strings(self, value: object) -> tuple[str, ...]:
        strings = [value] if isinstance(value, str) else value
        if not isinstance(strings, list | tuple) or not all(isinstance(one, str) for one in strings):
            raise self._wrong_type("a string or an array of strings", value)
        if len(strings) > MAX_STOPS:
            text = f"array too long. Expected an array with maximum length {MAX_STOPS}"
            got = f"an array with length {len(strings)}"
            raise InvalidRequest(
                f"Invalid '{self.name}': {text}, but got {got} instead.", self.name, "array_above_max_length",
            )
        if "" in strings:
            text = "empty string. Expected strings with minimum length 1"
            raise InvalidRequest(f"Invalid '{self.name}': {text}.", self.name, "string_below_min_length")
        return tuple(strings)

    def _wrong_type(self, expected: str, value: object) -> InvalidRequest:
        text = f"Invalid type for '{self.name}': expected {expected}, but got {kind_of(value)} instead."
        return InvalidRequest(text, self.name, "invalid_type")

    def _invalid(self, fault: str, expected: str, value: object, code: str) -> InvalidRequest:
        text = f"Invalid '{self.name}': {fault}. Expected {expected}, but got {value} instead."
        return InvalidRequest(text, self.name, code)


PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("temperature", "number", 0, 2, neutral=1.0),
        Parameter("top_k", "integer", 0, _INT32, neutral=0),
        Parameter("top_p", "number", 0, 1, neutral=1.0),
        Parameter("min_p", "number", 0, 1, neutral=0.0),
        Parameter("repeat_penalty", "number", 0, 2, neutral=1.0, positive=True),
        Parameter("frequency_penalty", "number", -2, 2, neutral=0.0),
        Parameter("presence_penalty", "number", -2, 2, neutral=0.0),
        Parameter("seed", "integer", -_INT64 - 1, _INT64),
        Parameter("max_tokens", "integer", 1, _INT32),
        Parameter("stop", "strings", neutral=()),
    )
}
"""By name: every field of `Sampling`, and what else bounds an answer."""


def check(name: str, value: object) -> Value:
    """Return `value` in the type of the parameter `name`: ints as floats where a number is meant, `stop` as a tuple.

    Raises `InvalidRequest` with `param=name`, worded as OpenAI words it, for a wrong type or a value out of range; also
    for None: a parameter that is left out is not checked. Raises `KeyError` for a name that is not in `PARAMETERS`.
    """
    return PARAMETERS[name].check(value)


@frozen
class Generation:
    """How an answer is generated, where a request does not say otherwise: a model's `defaults`, checked."""

    sampling: Sampling = field(factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def override(self, values: Mapping[str, object]) -> Self:
        """Return these settings with `values` (by the names of `PARAMETERS`) in their place, each checked.

        Raises `InvalidRequest` for the first that is wrong, `KeyError` for a name that is no parameter.
        """
        checked: dict[str, Any] = {name: check(name, value) for name, value in values.items()}
        own = {name: checked.pop(name) for name in ("max_tokens", "stop") if name in checked}
        return evolve(self, sampling=evolve(self.sampling, **checked), **own)


def _shown(bound: float) -> str:
    return str(int(bound)) if float(bound).is_integer() else str(bound)


def kind_of(value: object) -> str:
    """Name the JSON type of a value, with its article."""
    if value is None:
        return "null"
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "a boolean"), (int, "an integer"), (float, "a decimal number"), (str, "a string"),
        ((list, tuple), "an array"), (Mapping, "an object"),
    ]
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)
