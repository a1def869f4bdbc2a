"""Learning which of a template's variables turn thinking on and off, and which say how much to think; pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

from attrs import frozen

from lllms_core.chat.probe import Probe, Render
from lllms_core.types import Message, ReasoningEffort

_ASK = Message("user", "probe-ask")
_EFFORT = re.compile(r"effort|strength|level")
_LEVELS = tuple(level for level in get_args(ReasoningEffort) if level != "none")
_LITTLE = ("minimal", "low")
_PAIRS: tuple[tuple[object, object], ...] = ((True, False), ("enabled", "disabled"), ("on", "off"))
_NOTHING = ("none", "no_think", "off", "disabled")


@frozen
class Switch:
    """What to tell a template, so that its model thinks, or does not."""

    name: str
    on: Mapping[str, object]
    off: Mapping[str, object]


@frozen
class Effort:
    """A variable that says how much to think."""

    name: str
    levels: Sequence[str]
    """Those that the template takes, and that make a difference where they ask for little."""
    off: Mapping[str, object]
    """What to tell the template for no thoughts; empty where it takes no such word."""


def learn_switch(render: Render, names: Sequence[str], literals: Collection[str]) -> Switch | None:
    """The first of the variables that changes the prompt of a question with its value."""
    found = (_switch(render, name, literals) for name in names if not _EFFORT.search(name))
    return next((switch for switch in found if switch is not None), None)


def _switch(render: Render, name: str, literals: Collection[str]) -> Switch | None:
    plain = render(Probe([_ASK])) or ""
    for on, off in _PAIRS:
        if isinstance(on, str) and not {on, off} <= set(literals):
            continue
        lit, dark = _shown(render, {name: on}), _shown(render, {name: off})
        if lit is None or dark is None or lit == dark:
            continue
        if "True" in lit.replace(plain, "") and "True" not in plain:
            # It prints its value: it is a number, of tokens say, of which none is none at all.
            return Switch(name, {}, {name: 0}) if _shown(render, {name: 0}) not in {None, plain} else None
        return Switch(name, {name: on}, {name: off})
    return None


def learn_effort(
    render: Render, names: Sequence[str], literals: Collection[str], on: Mapping[str, object],
) -> Effort | None:
    """The first of the variables whose levels change the prompt of a question, with thinking turned on."""
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
    return render(Probe([_ASK], variables=variables))
