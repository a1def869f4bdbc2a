"""Learning from a template how its model marks its thoughts, and how they are switched; pure."""

import re
from collections.abc import Collection

from attrs import frozen

from lllms_core.chat.answer_format import ReasoningFormat
from lllms_core.chat.probe import Probe, Render
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import Message, ReasoningEffort

_ASK, _NEXT = Message("user", "probe-ask"), Message("user", "probe-next")
_TAG = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,}\]")
_CLOSING = re.compile(r"<[|]?/[^<>\s]{1,40}>|\[/[A-Z_]{2,}\]")
_OPEN_AT_END = re.compile(r"(<\w*(?:think|reason)\w*>|\[THINK\])\s*$", re.IGNORECASE)


@frozen
class ReasoningSupport:
    """What a template does about thoughts."""

    form: ReasoningFormat | None = None
    switch: str | None = None
    """The variable that turns thinking on and off."""
    effort: str | None = None
    """The variable that says how much to think."""

    def variables(self, wanted: ReasoningEffort, model: str) -> dict[str, object]:
        """What to tell the template. Raises `UnsupportedParameter` for what it has no variable for."""
        if wanted == "none" and self == ReasoningSupport():
            return {}
        if self.switch is None and (self.effort is None or wanted == "none"):
            problem = "its chat template cannot turn thinking off" if self.effort else "its chat template has no switch"
            raise UnsupportedParameter(
                f"'reasoning_effort' '{wanted}' is not supported by model '{model}': {problem}; leave it out",
                "reasoning_effort", "unsupported_parameter",
            )
        values: dict[str, object] = {} if self.switch is None else {self.switch: wanted != "none"}
        if self.effort is not None and wanted != "none":
            values[self.effort] = wanted
        return values


def learn_reasoning(render: Render, variables: Collection[str], literals: Collection[str]) -> ReasoningSupport:
    """Find out by rendering. `variables` and `literals` are names and strings in the template's source."""
    named = sorted(name for name in variables if "think" in name or "reason" in name)
    effort = next((name for name in named if _is_effort(render, name)), None)
    switch = next((name for name in named if name != effort and _is_switch(render, name)), None)
    form = (
        _from_message(render) or _from_history(render, literals) or _from_prompt(render)
        or (None if switch is None else _from_switch(render, switch))
    )
    return ReasoningSupport(form, switch, effort)


def _is_effort(render: Render, name: str) -> bool:
    shown = [render(Probe([_ASK], variables={name: level})) for level in ("low", "high")]
    return all(text is not None and level in text for text, level in zip(shown, ("low", "high"), strict=True)) and (
        shown[0] != shown[1]
    )


def _is_switch(render: Render, name: str) -> bool:
    on, off = (render(Probe([_ASK], variables={name: value})) for value in (True, False))
    return on is not None and off is not None and on != off


def _from_message(render: Render) -> ReasoningFormat | None:
    """A template that shows the thoughts of a message shows their marks, too."""
    shown = render(Probe([_ASK, Message("assistant", "probe-reply", reasoning="probe-thought")], generate=False))
    before, found, after = (shown or "").rpartition("probe-thought")
    starts, ends = _TAG.findall(before), _TAG.findall(after.partition("probe-reply")[0])
    return ReasoningFormat(starts[-1], ends[0]) if found and starts and ends else None


def _from_history(render: Render, literals: Collection[str]) -> ReasoningFormat | None:
    """A template that takes the thoughts out of earlier answers knows the mark at their end."""
    for mark in sorted({literal.strip() for literal in literals}):
        if _CLOSING.fullmatch(mark):
            said = Message("assistant", f"probe-thought{mark}probe-reply")
            shown = render(Probe([_ASK, said, _NEXT]))
            if shown is not None and "probe-reply" in shown and "probe-thought" not in shown:
                return ReasoningFormat(mark.replace("/", "", 1), mark)
    return None


def _from_prompt(render: Render) -> ReasoningFormat | None:
    """A prompt may open the thoughts."""
    found = _OPEN_AT_END.search(render(Probe([_ASK])) or "")
    return None if found is None else ReasoningFormat(found[1], found[1].replace("<", "</").replace("[", "[/"))


def _from_switch(render: Render, name: str) -> ReasoningFormat | None:
    """Without thinking, the prompt may hold empty thoughts."""
    off = render(Probe([_ASK], variables={name: False})) or ""
    tags = _TAG.findall(off)[-2:]
    if len(tags) == 2 and _CLOSING.fullmatch(tags[1]) and off.rstrip().endswith(tags[1]):
        return ReasoningFormat(tags[0], tags[1])
    return None
