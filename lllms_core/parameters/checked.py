"""Reduces a client's parameters to those that ask for something, by the verdicts of the table; pure."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

from attrs import field, frozen

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.table import ROUTES, Parameter, Route
from lllms_core.parameters.wording import unknown, unsupported

UnknownNames = Literal["refuse", "name"]
"""The treatment of a parameter that is not in the table."""


@frozen
class Checked:
    """A client's parameters, checked."""

    values: Mapping[str, Any] = field(factory=dict)
    """Those that ask for something, with synonyms replaced by the parameters that they mean."""
    unused: tuple[str, ...] = ()
    """The names of those that nothing acts on, and the paths of members that nothing reads; the answer names them."""


def check_all(
    route: Route, values: Mapping[str, object], honoured: Collection[str], engine: str,
    unknown_names: UnknownNames = "refuse",
) -> Checked:
    """Check a client's parameters for an engine that declares `honoured`; `engine` describes it, for refusals.

    Nulls and neutral values are left out. Raises `InvalidRequest` for an unknown name, a wrong value, or synonyms with
    different values, `UnsupportedParameter` for what this engine does not support.
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
    """Return the value of a parameter that was already given under another name."""
    if means not in asked or asked[means] == value:
        return value
    before = asked[means]
    if means == "reasoning_effort" and "on" in {before, value} and "none" not in {before, value}:
        return before if value == "on" else value  # an amount of thinking implies thinking
    raise InvalidRequest(
        f"'{sent[means]}' and '{name}' ask for the same, with different values; give one of them", name,
        "invalid_value",
    )


def _accepted(line: Parameter, acting: Parameter) -> list[str]:
    """Return the values that ask for nothing, as JSON; a synonym's may be spelt differently."""
    return [] if line.means and type(line.kind) is not type(acting.kind) else [json.dumps(v) for v in acting.neutral]
