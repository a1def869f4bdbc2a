"""Other servers' spellings of our parameters: durations with units, and switches for thoughts.

Each kind checks a value, and returns our parameter's value; None if it asks for nothing.
"""

import math
import re
from collections.abc import Mapping
from typing import get_args

from attrs import frozen

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.kinds import Flag, Integer, Number, OneOf, Schema
from lllms_core.parameters.wording import unsupported, wrong_choice, wrong_type
from lllms_core.types import ReasoningEffort

NEVER = -1.0
"""The idle time of an instance that is never unloaded for being idle."""

_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|h|m|s)")
_LONGEST = 100
"""Characters of a duration."""
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_EFFORTS: tuple[str, ...] = get_args(ReasoningEffort)


@frozen
class Duration:
    """Seconds, or a string with units as in Ollama, like "5m" or "1h30m"; a negative one means forever."""

    def check(self, name: str, value: object) -> float:
        """Return the seconds."""
        seconds = self._read(name, value) if isinstance(value, str) else Number().check(name, value)
        if math.isnan(seconds):
            return Number(0).check(name, seconds)  # refuses it
        return NEVER if seconds < 0 else seconds

    @property
    def schema(self) -> Schema:
        """A number or a string."""
        return {"anyOf": [Number().schema, {"type": "string", "pattern": r"^-?([0-9]+(\.[0-9]*)?(ms|h|m|s))+$"}]}

    def _read(self, name: str, text: str) -> float:
        own = text.strip().removeprefix("-")
        parts = _PART.findall(own) if len(own) <= _LONGEST else []  # it would try each start of very many digits
        if own and "".join(number + unit for number, unit in parts) == own:
            total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        elif own.isascii() and own.isdigit() and len(own) < 10:
            total = float(own)
        else:
            raise wrong_choice(name, text, "a number of seconds", "a duration like '5m' or '1h30m'")
        return -1.0 if text.strip().startswith("-") else total


@frozen
class Thoughts:
    """Whether a model thinks, or how much: a flag, a word, or an object with `type`, `enabled` or `effort`."""

    others: tuple[str, ...] = ()
    """Other allowed members of the object."""

    def check(self, name: str, value: object) -> str | None:
        """Return the effort; None if the value leaves the choice to the model."""
        if isinstance(value, bool):
            return "on" if value else "none"
        if isinstance(value, str):
            return OneOf(_EFFORTS).check(name, "none" if value == "off" else value)
        if not isinstance(value, Mapping):
            raise wrong_type(name, "a boolean, a string or an object", value)
        return self._read(name, {key: member for key, member in value.items() if member is not None})

    @property
    def schema(self) -> Schema:
        """Any of the forms."""
        efforts = OneOf(_EFFORTS).schema
        members = {
            "type": {"enum": ["enabled", "disabled", "adaptive", "auto"]}, "enabled": Flag().schema, "effort": efforts,
            **{name: {} for name in self.others},
        }
        given = {"type": "object", "properties": members, "additionalProperties": False}
        return {"anyOf": [Flag().schema, {"type": "string", "enum": [*_EFFORTS, "off"]}, given]}

    def _read(self, name: str, given: Mapping[str, object]) -> str | None:
        for key in given.keys() - {"type", "enabled", "effort", *self.others}:
            raise InvalidRequest(f"Unknown parameter: '{name}.{key[:40]}'.", f"{name}.{key[:40]}", "unknown_parameter")
        switch: bool | None = None
        if "type" in given:
            kind = OneOf(("enabled", "disabled", "adaptive", "auto")).check(f"{name}.type", given["type"])
            switch = {"enabled": True, "disabled": False}.get(kind)
        if "enabled" in given:
            switch = Flag().check(f"{name}.enabled", given["enabled"])
        if "effort" not in given:
            return None if switch is None else "on" if switch else "none"
        effort = OneOf(_EFFORTS).check(f"{name}.effort", given["effort"])
        if switch is not None and switch is (effort == "none"):
            raise InvalidRequest(
                f"'{name}' turns thinking {'on' if switch else 'off'}, and its 'effort' is '{effort}'; give one of "
                "them", f"{name}.effort", "invalid_value",
            )
        return effort


@frozen
class ThoughtBudget:
    """The most tokens of thoughts: 0 turns thinking off, a negative number is no limit; other limits are not kept."""

    def check(self, name: str, value: object) -> str | None:
        """Return the effort; None if there is no limit."""
        tokens = Integer().check(name, value)
        if tokens > 0:
            raise unsupported(name, "0", "-1")
        return None if tokens else "none"

    @property
    def schema(self) -> Schema:
        """An integer."""
        return {"type": "integer", "maximum": 0}
