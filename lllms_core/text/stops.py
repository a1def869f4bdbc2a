"""Finding stop strings in a text that arrives in pieces."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text through up to the first stop string, and never a part of one; how the text is cut does not matter.

    The first stop string is the one that is complete first; of several that end at the same character, the longest.
    Text that could turn out to be the start of a stop string is held back until that is decided. Each character costs
    constant time on average, however long the stop strings are.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._needles = [_Needle(stop) for stop in dict.fromkeys(stops) if stop]
        self._held = ""
        self.matched = False

    def feed(self, text: str) -> str:
        """Take more text and return what is safe to show. After a match nothing more comes out."""
        if self.matched:
            return ""
        if not self._held and not any(needle.first in text for needle in self._needles):
            return text
        held = self._held + text
        for end, character in enumerate(text, len(self._held) + 1):
            length = max([needle.advance(character) for needle in self._needles])
            if length:
                self.matched = True
                self._held = ""
                return held[: end - length]
        safe = len(held) - max(needle.state for needle in self._needles)
        self._held = held[safe:]
        return held[:safe]

    def flush(self) -> str:
        """Return what was held back; call it when no more text comes."""
        held, self._held = self._held, ""
        return held


class _Needle:
    """One stop string and how much of it stands at the end of the text so far (Knuth, Morris and Pratt)."""

    __slots__ = ("_fallback", "_text", "first", "state")

    def __init__(self, text: str) -> None:
        self._text = text
        self.first = text[0]
        self.state = 0
        self._fallback = [0] * len(text)
        length = 0
        for at in range(1, len(text)):
            while length and text[at] != text[length]:
                length = self._fallback[length - 1]
            length += text[at] == text[length]
            self._fallback[at] = length

    def advance(self, character: str) -> int:
        """Take one character; return the length of the stop string if it is complete now, else 0."""
        state = self.state
        while state and self._text[state] != character:
            state = self._fallback[state - 1]
        if self._text[state] == character:
            state += 1
        self.state = state
        return state if state == len(self._text) else 0
