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
        held = self._held + text
        met = [(end, -needle.length) for needle in self._needles if (end := needle.advance(text))]
        if met:
            self.matched = True
            end, minus_length = min(met)
            safe, self._held = len(self._held) + end + minus_length, ""
            return held[:safe]
        safe = len(held) - max((needle.state for needle in self._needles), default=0)
        self._held = held[safe:]
        return held[:safe]

    def flush(self) -> str:
        """Return what was held back; call it when no more text comes."""
        held, self._held = self._held, ""
        return held


class _Needle:
    """One stop string and how much of it stands at the end of the text so far (Knuth, Morris and Pratt)."""

    __slots__ = ("_fallback", "_text", "length", "state")

    def __init__(self, text: str) -> None:
        self._text = text
        self.length = len(text)
        self.state = 0
        # For each of its beginnings, how much of its own beginning that one ends with.
        self._fallback = [0] * self.length
        state = 0
        for at in range(1, self.length):
            while state and text[at] != text[state]:
                state = self._fallback[state - 1]
            state += text[at] == text[state]
            self._fallback[at] = state

    def advance(self, text: str) -> int:
        """Take more text; return how many characters of it complete the stop string, 0 if it goes on."""
        own, fallback, state = self._text, self._fallback, self.state
        at = 0
        while at < len(text):
            if not state and (at := text.find(own[0], at)) < 0:
                break
            while state and own[state] != text[at]:
                state = fallback[state - 1]
            state += own[state] == text[at]
            at += 1
            if state == self.length:
                return at
        self.state = state
        return 0
