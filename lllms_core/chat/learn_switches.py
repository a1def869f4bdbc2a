"""Learn which of a template's variables turn thinking on and off, and which set how much to think; pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

from attrs import frozen

from lllms_core.chat.probe import Render, TemplateProbe
from lllms_core.types import Message, ReasoningEffort

_ASK = Message("user", "probe-ask")
_EFFORT = re.compile(r"effort|strength|level")
_LEVELS = tuple(level for level in get_args(ReasoningEffort) if level not in {"none", "on"})
_LITTLE = ("minimal", "low")
_PAIRS: tuple[tuple[object, object], ...] = ((True, False), ("enabled", "disabled"), ("on", "off"))
_NOTHING = ("none", "no_think", "off", "disabled")


@frozen
class Switch:
    """The variables that make a template's model think, or not."""

    name: str
    on: Mapping[str, object]
    off: Mapping[str, object]


@frozen
class Effort:
    """A variable that sets how much to think."""

    name: str
    levels: Sequence[str]
    """The levels that the template accepts; low ones only if they make a difference."""
    off: Mapping[str, object]
    """The variables for no thoughts; empty if the template has no such word."""


def learn_switch(render: Render, names: Sequence[str], literals: Collection[str]) -> Switch | None:
    """Return the first variable whose value changes the prompt of a question."""
    found = (_switch(render, name, literals) for name in names if not _EFFORT.search(name))
    return next((switch for switch in found if switch is not None), None)


def _switch(render: Render, name: str, literals: Collection[str]) -> Switch | None:
    plain = render(TemplateProbe([_ASK])) or ""
    for on, off in _PAIRS:
        if isinstance(on, str) and not {on, off} <= set(literals):
            continue
        lit, dark = _shown(render, {name: on}), _shown(render, {name: off})
        if lit is None or dark is None or lit == dark:
            continue
        if "True" in lit.replace(plain, "") and "True" not in plain:
            # It prints its value, so it is a number, for example of tokens, where 0 means none at all.
            return Switch(name, {}, {name: 0}) if _shown(render, {name: 0}) not in {None, plain} else None
        return Switch(name, {name: on}, {name: off})
    return None


def learn_effort(
    render: Render, names: Sequence[str], literals: Collection[str], on: Mapping[str, object],
) -> Effort | None:
    """Return the first variable whose levels change the prompt of a question, with thinking turned on."""
    for name in filter(_EFFORT.search, names):
        other = _shown(render, {**on, name: "probe-level"})
        shown = {level: _shown(render, {**on, name: level}) for level in _LEVELS}
        if len(set(shown.values()) - {None}) > 1:
            levels = [
                level for level, text in shown.items()
                if text is not None and not (level in _LITTLE and text == other)
            ]
            words = (word for word in _NOTHING if word in literals)
            none = next((word for word in words if _shown(render, {name: word}) not in {None, other}), None)
            return Effort(name, tuple(levels), {} if none is None else {name: none})
    return None


def _shown(render: Render, variables: Mapping[str, object]) -> str | None:
    return render(TemplateProbe([_ASK], variables=variables))
