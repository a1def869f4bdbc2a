"""Grammar rules for an object's items in order, some of them optional; pure."""

from collections.abc import Callable, Sequence

from attrs import define, field

_MOST_OTHERS = 32
"""At most this many items beyond the named ones."""
_NOTHING = '""'


@define(eq=False)
class Chain:
    """The rules for a list of items in order, some of them optional."""

    rule: Callable[[str], str]
    """Adds a rule with this text, and returns its name."""
    items: Sequence[tuple[str, bool]]
    """Each item's expression, and whether it is required."""
    others: str | None
    """The expression for further items."""
    separator: str
    least: int
    most: int | None
    _known: dict[tuple[int, int, bool], str | None] = field(factory=dict)

    def start(self) -> str | None:
        """Return the expression for all lists; None if there is no such list."""
        required = sum(required for _, required in self.items)
        self.least = 0 if self.least <= required else self.least
        if self.most is not None and self.most >= len(self.items) and self.others is None:
            self.most = None
        return self._rest(0, 0, False)  # noqa: FBT003  # nothing has been written

    def _rest(self, at: int, count: int, begun: bool) -> str | None:  # noqa: FBT001
        """Return the expression for the items from `at` on, after `count` of those before it."""
        counted = count if self.least or self.most is not None else 0
        state = at, counted, begun and bool(self.separator)
        if state not in self._known:
            text = self._written(*state)
            self._known[state] = text if text is None or text == _NOTHING else self.rule(text)
        return self._known[state]

    def _written(self, at: int, count: int, begun: bool) -> str | None:  # noqa: FBT001
        if at == len(self.items):
            return self._further(count, begun)
        item, required = self.items[at]
        options: list[str | None] = []
        if self.most is None or count < self.most:
            rest = self._rest(at + 1, count + 1, True)  # noqa: FBT003
            if rest is not None:
                options.append(" ".join([self.separator] * begun + [item] + [rest] * (rest != _NOTHING)))
        if not required:
            options.append(self._rest(at + 1, count, begun))
        found = [one for one in options if one is not None]
        return " | ".join(found) if found else None

    def _further(self, count: int, begun: bool) -> str | None:  # noqa: FBT001
        low = max(0, self.least - count)
        high = _MOST_OTHERS if self.most is None else min(_MOST_OTHERS, self.most - count)
        if self.others is None or high == 0:
            return _NOTHING if not low else None
        if low > min(high, 1):  # further items may repeat a key, which then counts once
            return None
        if begun or not self.separator:
            return f"({self.separator} {self.others}){{{low},{high}}}"
        more = f"({self.others} ({self.separator} {self.others}){{{max(0, low - 1)},{high - 1}}})"
        return more if low else f"{more}?"
