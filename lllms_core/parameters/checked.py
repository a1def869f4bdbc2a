"""From a client's parameters to those that ask for something, by the verdicts of the table; pure."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

from attrs import field, frozen

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.table import ROUTES, Parameter, Route
from lllms_core.parameters.wording import unknown, unsupported

UnknownNames = Literal["refuse", "name"]
"""What becomes of a parameter that the table lacks."""


@frozen
class Checked:
    """A client's parameters, checked."""

    values: Mapping[str, Any] = field(factory=dict)
    """Those that ask for something: other names are replaced by what they mean."""
    unused: tuple[str, ...] = ()
    """The names of those that nobody acts on, and the paths of members that nobody reads, for the answer to name."""


def check_all(
    route: Route, values: Mapping[str, object], honoured: Collection[str], engine: str,
    unknown_names: UnknownNames = "refuse",
) -> Checked:
    """Check a client's parameters for an engine that declares `honoured`; `engine` describes it, for refusals.

    Nulls and neutral values are left out. Raises `InvalidRequest` for an unknown name, a wrong value, or two names for
    one thing with different values, `UnsupportedParameter` for what this engine does not do.
    """
    table = ROUTES[route]
    asked: dict[str, Any] = {}
    sent: dict[str, str] = {}
    unused: list[str] = []
    for name, value in values.items():
        if name not in table and unknown_names == "refuse":
            raise unknown(name)
        if value is None:
            continue
        if name not in table:
            unused.append(name)
            continue
        line = table[name]
        proper = line.check(value)
        if line.unread:
            unused += line.unread_members(value)
        if proper is None:
            continue
        acting = table[line.means] if line.means else line
        match acting.verdict(honoured):
            case "honoured" | "emulated":
                asked[acting.name] = _joined(asked, sent, acting.name, name, proper)
                sent.setdefault(acting.name, name)
            case "named" if not acting.asks_for_nothing(proper):
                unused.append(name)
            case "refused" if not acting.asks_for_nothing(proper):
                raise unsupported(name, *_accepted(line, acting), by=engine)
    return Checked(asked, tuple(unused))


def _joined(asked: Mapping[str, Any], sent: Mapping[str, str], means: str, name: str, value: object) -> object:
    """Return the value of what was asked for by another name before, and now again."""
    if means not in asked or asked[means] == value:
        return value
    before = asked[means]
    if means == "reasoning_effort" and "on" in {before, value} and "none" not in {before, value}:
        return before if value == "on" else value  # who says how much to think wants thoughts
    raise InvalidRequest(
        f"'{sent[means]}' and '{name}' ask for the same, with different values; give one of them", name,
        "invalid_value",
    )


def _accepted(line: Parameter, acting: Parameter) -> list[str]:
    """Return the values that ask for nothing, as JSON; those of another name may be spelt otherwise."""
    return [] if line.means and type(line.kind) is not type(acting.kind) else [json.dumps(v) for v in acting.neutral]
