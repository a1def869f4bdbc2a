"""Finding stop strings in a text that arrives in pieces."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text through up to the first stop string, and never a part of one, however the text is cut into pieces.

    The first stop string is the one completed first; of several that end at the same character, the longest. Text
    that may be the start of a stop string is held back until that is decided. Each character costs constant time on
    average, however long the stop strings are.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._needles = [_Needle(stop) for stop in dict.fromkeys(stops) if stop]
        self._firsts = frozenset(stop[0] for stop in stops if stop)
        self._held = ""
        self.found: str | None = None
        """The stop string that was matched."""

    @property
    def matched(self) -> bool:
        """Whether a stop string was found."""
        return self.found is not None

    def feed(self, text: str) -> str:
        """Take more text and return the text that is safe to show: none after a match."""
        if self.found is not None:
            return ""
        if not self._held and self._firsts.isdisjoint(text):
            return text  # true of most pieces: no stop string has begun, and none begins here
        held = self._held + text
        met = [(end, -needle.length) for needle in self._needles if (end := needle.advance(text))]
        if met:
            end, minus_length = min(met)
            safe, self._held = len(self._held) + end + minus_length, ""
            self.found = held[safe : safe - minus_length]
            return held[:safe]
        safe = len(held) - max((needle.state for needle in self._needles), default=0)
        self._held = held[safe:]
        return held[:safe]

    def flush(self) -> str:
        """Return the text held back; call it when there is no more text."""
        held, self._held = self._held, ""
        return held


class _Needle:
    """One stop string, and the length of its prefix that ends the text so far (Knuth, Morris and Pratt)."""

    __slots__ = ("_fallback", "_text", "length", "state")

    def __init__(self, text: str) -> None:
        self._text = text
        self.length = len(text)
        self.state = 0
        # For each prefix, the length of its longest proper prefix that is also its suffix.
        self._fallback = [0] * self.length
        state = 0
        for at in range(1, self.length):
            while state and text[at] != text[state]:
                state = self._fallback[state - 1]
            state += text[at] == text[state]
            self._fallback[at] = state

    def advance(self, text: str) -> int:
        """Take more text; return the number of its characters that complete the stop string, 0 if it is incomplete."""
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
