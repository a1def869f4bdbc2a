"""The chatbot: rules, and what they make of a conversation; pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from math import ceil
from random import Random

from attrs import field, frozen

from lllms_core.types import Sampling

PLACE = re.compile(r"\{(~?)(\w+)\}")
"""Where a reply has a place to fill, like `{1}`, `{name}` or, with words swapped, `{~1}`."""

_CLOSING = " \t\r\n.,;:!?"


@frozen
class Rule:
    """What is said, and what is kept in mind, when the user says something that `pattern` is found in."""

    pattern: re.Pattern[str]
    replies: tuple[str, ...] = ()
    """Texts with places; one whose places are not all known is not said. None at all: the later rules answer."""
    remember: Mapping[str, str] = field(factory=dict)


@frozen
class Rules:
    """A chatbot without state: what it knows of a conversation it works out from the conversation itself."""

    rules: tuple[Rule, ...]
    """The first one that has something to say answers."""
    swap: Mapping[str, str]
    """Words and what becomes of them in places like `{~1}`."""

    def reply(self, heard: Sequence[str], said: Collection[str], sampling: Sampling) -> str:
        """Answer the last of the user's messages, if possible with something that was not said before."""
        memory: dict[str, str] = {}
        replies: list[str] = []
        for text in heard:
            replies = self._hear(text, memory)
        return choose([reply for reply in replies if reply not in said] or replies, sampling)

    def _hear(self, text: str, memory: dict[str, str]) -> list[str]:
        """Everything that could be answered to `text`; `memory` is kept up to date."""
        for rule in self.rules:
            found = rule.pattern.search(text.replace("’", "'"))  # noqa: RUF001  # what phones type for an apostrophe
            if found is None:
                continue
            captures = {str(number): part for number, part in enumerate(found.groups(), 1)} | found.groupdict()
            known = memory | {"text": text} | {k: v.strip(_CLOSING) for k, v in captures.items() if v is not None}
            remembered = {name: self._fill(value, known) for name, value in rule.remember.items() if fits(value, known)}
            known |= remembered
            replies = [self._fill(reply, known) for reply in rule.replies if fits(reply, known)]
            if replies or not rule.replies:
                memory |= remembered
            if replies:
                return replies
        raise AssertionError("the last rule always has something to say")

    def _fill(self, template: str, values: Mapping[str, str]) -> str:
        def value(place: re.Match[str]) -> str:
            swapped, name = place.groups()
            if not swapped:
                return values[name]
            return re.sub(r"[\w']+", lambda word: self.swap.get(word[0].lower(), word[0]), values[name])

        return PLACE.sub(value, template)


def choose(replies: Sequence[str], sampling: Sampling) -> str:
    """Sample one of several equally likely replies: `min_p` keeps all of them, `top_k` and `top_p` the first ones."""
    if sampling.temperature == 0:
        return replies[0]
    kept = replies[: sampling.top_k] if sampling.top_k > 0 else replies
    kept = kept[: max(1, ceil(sampling.top_p * len(kept)))]
    return Random(sampling.seed).choice(kept)  # noqa: S311  # small talk, no secrets


def fits(template: str, values: Collection[str]) -> bool:
    """Whether every place in the template is among the names in `values`."""
    return all(name in values for _, name in PLACE.findall(template))
