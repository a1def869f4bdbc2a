"""The chatbot: its rules, and its replies to a conversation; pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from math import ceil
from random import Random

from attrs import field, frozen

from lllms_core.types import Sampling

PLACE = re.compile(r"\{(~?)(\w+)\}")
"""A placeholder in a reply, like `{1}`, `{name}` or, with words swapped, `{~1}`."""

_CLOSING = " \t\r\n.,;:!?"


@frozen
class Rule:
    """The replies, and the facts to remember, when the user says something that `pattern` is found in."""

    pattern: re.Pattern[str]
    replies: tuple[str, ...] = ()
    """Texts with placeholders; one with an unknown placeholder is not used. Empty: later rules answer."""
    remember: Mapping[str, str] = field(factory=dict)


@frozen
class Rules:
    """A chatbot without state: it derives everything from the conversation itself."""

    rules: tuple[Rule, ...]
    """The first rule with a usable reply answers."""
    swap: Mapping[str, str]
    """Words and their replacements in placeholders like `{~1}`."""

    def reply(self, heard: Sequence[str], said: Collection[str], sampling: Sampling) -> str:
        """Answer the last of the user's messages, if possible with a reply that was not used before."""
        memory: dict[str, str] = {}
        replies: list[str] = []
        for text in heard:
            replies = self._hear(text, memory)
        return choose([reply for reply in replies if reply not in said] or replies, sampling)

    def _hear(self, text: str, memory: dict[str, str]) -> list[str]:
        """Return all possible replies to `text`; updates `memory`."""
        for rule in self.rules:
            found = rule.pattern.search(text.replace("’", "'"))  # noqa: RUF001  # noqa: RUF001  # the apostrophe of phones
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
    """Whether every placeholder in the template is among the names in `values`."""
    return all(name in values for _, name in PLACE.findall(template))
