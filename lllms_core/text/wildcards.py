"""Names with wildcards: `claude-*`, whose stars stand for any text; pure."""

from attrs import field, frozen


@frozen
class NamePattern:
    """A pattern for names. A comparison costs time in proportion to the name, however many stars there are."""

    text: str
    """With at least one star."""
    _parts: tuple[str, ...] = field(init=False, repr=False, eq=False)

    @_parts.default
    def _split(self) -> tuple[str, ...]:
        return tuple(self.text.split("*"))

    @property
    def length(self) -> int:
        """The number of its own characters, without the stars."""
        return sum(map(len, self._parts))

    def fits(self, name: str) -> bool:
        """Whether the pattern stands for this name."""
        first, *middle, last = self._parts
        if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
            return False
        at, end = len(first), len(name) - len(last)
        for part in middle:
            # The earliest place leaves the most room for the rest.
            at = name.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True
