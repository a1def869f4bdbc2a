"""Learn from a template how its model marks its thoughts, and how they are switched; pure."""

import re
from collections.abc import Collection, Mapping

from attrs import field, frozen

from lllms_core.chat.answer_format import ReasoningFormat
from lllms_core.chat.history import CallStyle
from lllms_core.chat.learn_switches import Effort, Switch, learn_effort, learn_switch
from lllms_core.chat.probe import Render, TemplateProbe
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import Message, ReasoningEffort

_ASK, _NEXT = Message("user", "probe-ask"), Message("user", "probe-next")
_THOUGHT, _REPLY = "probe-thought", "probe-reply"
_KEYS = ("reasoning_content", "reasoning", "thinking")
_TAG = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,}\]")
_CLOSING = re.compile(r"<[|]?/[^<>\s]{1,40}>|\[/[A-Z_]{2,}\]")
_OPEN_AT_END = re.compile(r"(<\w*(?:think|reason)\w*>|\[THINK\])\s*$", re.IGNORECASE)
_PAIR = re.compile(r"(<\w*(?:think|thought|reason)\w*>)\s*(</\w*(?:think|thought|reason)\w*>)")
_THINKING = re.compile(r"think|thought|reason", re.IGNORECASE)


@frozen
class ReasoningSupport:
    """A template's support for thoughts."""

    form: ReasoningFormat | None = None
    switch: Switch | None = None
    """The variable that turns thinking on and off."""
    effort: Effort | None = None
    """The variable that sets how much to think."""
    key: str = _KEYS[0]
    """The key of a message's thoughts."""
    text_start: str = ""
    """The text that a model writes before its text, see `AnswerFormat`."""

    def variables(self, wanted: ReasoningEffort, model: str) -> dict[str, object]:
        """Return the variables for the template. Raises `UnsupportedParameter` if it has none for this effort."""
        if self.switch is None and self.effort is None:
            if wanted == ("none" if self.form is None else "on"):
                return {}
            raise _unsupported(wanted, model, "its chat template has no switch")
        if wanted == "on":
            return self._turned_on()
        if wanted == "none":
            off = self.switch.off if self.switch is not None else self.effort.off if self.effort is not None else {}
            if not off:
                raise _unsupported(wanted, model, "its chat template cannot turn thinking off")
            return dict(off)
        values = {} if self.switch is None else dict(self.switch.on)
        if self.effort is not None:
            if wanted not in self.effort.levels:
                known = ", ".join(f"'{level}'" for level in self.effort.levels)
                raise _unsupported(wanted, model, f"its chat template knows {known}")
            values[self.effort.name] = wanted
        return values

    def _turned_on(self) -> dict[str, object]:
        """Return the variables that enable thoughts of any length; none if the model thinks anyway."""
        if self.switch is not None:
            return dict(self.switch.on)
        if self.effort is None or not self.effort.off or not self.effort.levels:
            return {}
        levels = self.effort.levels
        return {self.effort.name: "medium" if "medium" in levels else levels[-1]}


def _unsupported(wanted: str, model: str, problem: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"'reasoning_effort' '{wanted}' is not supported by model '{model}': {problem}; leave it out",
        "reasoning_effort", "unsupported_parameter",
    )


def learn_reasoning(render: Render, variables: Collection[str], literals: Collection[str]) -> ReasoningSupport:
    """Find out by rendering. `variables` and `literals` are names and strings in the template's source."""
    named = sorted(name for name in variables if "think" in name or "reason" in name)
    switch = learn_switch(render, named, literals)
    on = {} if switch is None else switch.on
    effort = learn_effort(render, named, literals, on)
    look = _Look(render, on)
    key, form = look.message()
    form = form or look.history(literals) or look.prompt() or look.empty()
    form = form or (None if switch is None else look.switch(switch)) or _words(literals)
    return ReasoningSupport(form, switch, effort, key, _without_thoughts(look.heading, form))


def has_heading(text_start: str) -> bool:
    """Whether a model announces its next part in words: text, a call, or thoughts, in variable order."""
    return bool(re.search(r"\w", _TAG.sub("", text_start)))


def _without_thoughts(heading: str, form: ReasoningFormat | None) -> str:
    if form is None:
        return heading
    if form.start in heading and form.end not in heading:
        return ""
    return heading.rpartition(form.end)[2].strip()


@frozen
class _Look:
    """Renders conversations with thoughts, with thinking turned on."""

    render: Render
    on: Mapping[str, object]
    opening: str = field(init=False)
    """The prompt of a question, without white space at its end."""
    heading: str = field(init=False)
    """The text between it and the answer's text, if the answer continues it."""

    @opening.default
    def _opening(self) -> str:
        return (self.render(TemplateProbe([_ASK], variables=self.on)) or "").rstrip()

    @heading.default
    def _heading(self) -> str:
        if (self.render(TemplateProbe([_ASK], variables=self.on, generate=False)) or "").rstrip() == self.opening:
            return ""  # the template leaves the opening of the answer to the model
        said = [_ASK, Message("assistant", _REPLY)]
        shown = self.render(TemplateProbe(said, variables=self.on, generate=False)) or ""
        before = shown.rpartition(_REPLY)[0]
        return before[len(self.opening) :].strip() if self.opening and before.startswith(self.opening) else ""

    def message(self) -> tuple[str, ReasoningFormat | None]:
        """Learn the marks from a template that shows the thoughts of a message, under one of the keys."""
        for key in _KEYS:
            said = Message("assistant", _REPLY, reasoning=_THOUGHT)
            style = CallStyle(thoughts=key)
            shown = self.render(TemplateProbe([_ASK, said], style=style, variables=self.on, generate=False)) or ""
            before, found, after = shown.rpartition(_THOUGHT)
            between, replied, _ = after.partition(_REPLY)
            if found and replied and between.strip():
                return key, self._marks(before, between.strip())
        return _KEYS[0], None

    def _marks(self, before: str, between: str) -> ReasoningFormat | None:
        tags = _TAG.findall(between)
        end = tags[0] if tags else between
        if self.heading and between.endswith(self.heading):
            end = between.removesuffix(self.heading).strip() or between
        start = ""
        if before.startswith(self.opening):
            start = before[len(self.opening) :].strip()
        elif (opened := _rest(self.opening, before)) and end not in opened:
            start = opened
        if not start:
            start = (_TAG.findall(before) or [""])[-1]
        return ReasoningFormat(start, end) if start else None

    def history(self, literals: Collection[str]) -> ReasoningFormat | None:
        """Learn the end mark from a template that strips thoughts from earlier answers."""
        for mark in sorted({literal.strip() for literal in literals}):
            if _CLOSING.fullmatch(mark):
                said = Message("assistant", f"{_THOUGHT}{mark}{_REPLY}")
                shown = self.render(TemplateProbe([_ASK, said, _NEXT]))
                if shown is not None and _REPLY in shown and _THOUGHT not in shown:
                    return ReasoningFormat(mark.replace("/", "", 1), mark)
        return None

    def prompt(self) -> ReasoningFormat | None:
        """Learn the marks from a prompt that opens the thoughts."""
        found = _OPEN_AT_END.search(self.opening)
        return None if found is None else ReasoningFormat(found[1], found[1].replace("<", "</").replace("[", "[/"))

    def empty(self) -> ReasoningFormat | None:
        """Learn the marks from an answer without thoughts that holds empty ones."""
        found = _PAIR.fullmatch(self.heading)
        return None if found is None else ReasoningFormat(found[1], found[2])

    def switch(self, switch: Switch) -> ReasoningFormat | None:
        """Learn the marks from a prompt with empty thoughts, without thinking, or with words about them, with it."""
        off = (self.render(TemplateProbe([_ASK], variables=switch.off)) or "").rstrip()
        tail, common = off.rpartition(_ASK.content)[2], self.opening.rpartition(_ASK.content)[2]
        empty = tail.removeprefix(common).strip() if tail.startswith(common) else ""
        tags = _TAG.findall(empty)
        if len(tags) == 2 and empty.startswith(tags[0]) and empty.endswith(tags[1]):
            return ReasoningFormat(empty.removesuffix(tags[1]).strip(), tags[1])
        if len(tags) == 1 and empty == tags[0] and (opened := _TAG.findall(common)[-1:]) and common.endswith(opened[0]):
            return ReasoningFormat(opened[0], tags[0])
        told = _PAIR.search(self.opening)
        return None if told is None or told[0] in off else ReasoningFormat(told[1], told[2])


def _rest(prompt: str, past: str) -> str:
    """Return the end of a prompt where a past answer with the same start has only its text."""
    return prompt[len(past.rstrip()) :].strip() if prompt.startswith(past.rstrip()) else ""


def _words(literals: Collection[str]) -> ReasoningFormat | None:
    """Learn the marks from the template's source, if it uses thoughts only in its own way."""
    for end in sorted({literal.strip() for literal in literals}):
        start = end.replace("/", "", 1)
        if _CLOSING.fullmatch(end) and _THINKING.search(end) and start in literals:
            return ReasoningFormat(start, end)
    return None
