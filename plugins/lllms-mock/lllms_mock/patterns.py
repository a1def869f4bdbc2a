"""Simple regular expressions, of which an instance can be written and a text can be tested in bounded time; pure.

Clients send them, so they are never given to `re`, which may take forever.
"""

from collections.abc import Callable, Iterable, Sequence

from attrs import define, frozen

MOST = 1000
"""The most repetitions."""
MOST_LOOKS = 500_000
"""The most places of texts that are looked at for one answer."""
_CLASSES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "d": ("0", lambda one: one.isascii() and one.isdigit()),
    "w": ("a", lambda one: one == "_" or (one.isascii() and one.isalnum())),
    "s": (" ", str.isspace),
}
"""Each with an example."""
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_PRINTABLE = "aA0_- .@/" + "".join(map(chr, range(33, 127)))


class NotSimple(Exception):
    """A pattern is beyond this module; the text says why."""


@frozen
class Character:
    """One character that a test accepts."""

    accepts: Callable[[str], bool]
    example: str


@frozen
class Edge:
    """The start of a text, or its end."""

    end: bool


@frozen
class Choice:
    """One of several sequences."""

    branches: tuple[tuple["Node", ...], ...]


@frozen
class Repeat:
    """A node, `least` to `most` times."""

    node: "Node"
    least: int
    most: int | None


Node = Character | Edge | Choice | Repeat


def parse(pattern: str) -> Choice:
    """Return the parts of a pattern. Raises `NotSimple`."""
    reader = _Reader(pattern)
    found = reader.choice()
    if reader.at < len(pattern):
        raise reader.refuse("a closing parenthesis without its opening one")
    return found


def sample(choice: Choice, more: int) -> str:
    """Return a text of the first branches, with repetitions longer by `more`; it matches if edges are at its ends."""
    return "".join(_sample(node, more) for node in choice.branches[0])


@define
class Patience:
    """How many places of texts may still be looked at."""

    left: int = MOST_LOOKS

    def look(self, places: int) -> None:
        """Count looks. Raises `NotSimple` if they are too many."""
        self.left -= places
        if self.left < 0:
            raise NotSimple("its patterns take too long to be tested")


def matches(choice: Choice, text: str, patience: Patience) -> bool:
    """Whether the pattern is found anywhere in a text. Raises `NotSimple` if that takes too long to tell."""
    return bool(_Search(text, patience).ends(choice, set(range(len(text) + 1))))


def _sample(node: Node, more: int) -> str:
    match node:
        case Character():
            return node.example
        case Choice():
            return sample(node, more)
        case Repeat():
            times = node.least + more if node.most is None else min(node.least + more, node.most)
            return _sample(node.node, 0) * times
        case Edge():
            return ""


class _Search:
    """Follows all matches of a pattern in a text at once, so that its time is bounded by their lengths."""

    def __init__(self, text: str, patience: Patience) -> None:
        self._text = text
        self._patience = patience

    def ends(self, node: Node, starts: set[int]) -> set[int]:
        """Return where a match may end that begins at one of these places."""
        self._patience.look(1 + len(starts))
        match node:
            case Character():
                return {at + 1 for at in starts if at < len(self._text) and node.accepts(self._text[at])}
            case Edge():
                return starts & {len(self._text) if node.end else 0}
            case Choice():
                return {end for branch in node.branches for end in self._sequence(branch, starts)}
            case Repeat():
                return self._repeated(node, starts)

    def _sequence(self, nodes: tuple[Node, ...], starts: set[int]) -> set[int]:
        for node in nodes:
            starts = self.ends(node, starts)
        return starts

    def _repeated(self, node: Repeat, starts: set[int]) -> set[int]:
        for _ in range(node.least):
            starts = self.ends(node.node, starts)
        found, times = set(starts), node.least
        while starts and (node.most is None or times < node.most):
            starts = self.ends(node.node, starts) - found
            found |= starts
            times += 1
        return found


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def refuse(self, why: str) -> NotSimple:
        return NotSimple(f"its pattern has {why}")

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        self.at += 1
        if self.at > len(self.pattern):
            raise self.refuse("no end")
        return self.pattern[self.at - 1]

    def found(self, text: str) -> bool:
        """Whether this text comes next; takes it."""
        if not self.pattern.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def choice(self) -> Choice:
        branches = [self.sequence()]
        while self.found("|"):
            branches.append(self.sequence())
        return Choice(tuple(branches))

    def sequence(self) -> tuple[Node, ...]:
        nodes: list[Node] = []
        while self.peek() not in {"", "|", ")"}:
            nodes.append(self.repeated(self.atom()))
        return tuple(nodes)

    def atom(self) -> Node:
        one = self.take()
        if one == "(":
            if self.peek() == "?" and not self.found("?:"):
                raise self.refuse("a group of a special kind")
            inner = self.choice()
            if not self.found(")"):
                raise self.refuse("a group without its end")
            return inner
        if one == "[":
            return self.members()
        if one in "^$":
            return Edge(one == "$")
        if one == ".":
            return Character(lambda other: other != "\n", "a")
        if one in "*+?{":
            raise self.refuse(f"'{one}' where nothing can be repeated")
        return self.escaped() if one == "\\" else literal(one)

    def repeated(self, node: Node) -> Node:
        bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        one = self.peek()
        if one not in {*bounds, "{"}:
            return node
        self.at += 1
        least, most = self.counts() if one == "{" else bounds[one]
        if max(least, most or 0) > MOST:
            raise self.refuse(f"more than {MOST} repetitions")
        if isinstance(node, Repeat | Edge) or self.peek() in {*bounds, "{"}:
            raise self.refuse("a repetition of a special kind")
        if isinstance(node, Choice) and _repeats(node) and max(least, most or 0) > 1:
            raise self.refuse("counted repetitions within counted repetitions")
        return Repeat(node, least, most)

    def counts(self) -> tuple[int, int | None]:
        inner, end, _ = self.pattern[self.at :].partition("}")
        least, comma, most = inner.partition(",")
        self.at += len(inner) + 1
        if not end or not all(one.isascii() and one.isdigit() and len(one) < 6 for one in (least, most or "0")):
            raise self.refuse("braces that count nothing")
        return int(least), (int(most) if most else None) if comma else int(least)

    def escaped(self) -> Character:
        one = self.take()
        if one in _CLASSES:
            example, accepts = _CLASSES[one]
            return Character(accepts, example)
        if one.lower() in _CLASSES:
            return other_than(_CLASSES[one.lower()][1])
        if one in _CONTROLS:
            return literal(_CONTROLS[one])
        if one.isalnum():
            raise self.refuse(f"the escape '\\{one}'")
        return literal(one)

    def members(self) -> Character:
        negated = self.found("^")
        parts: list[Character] = []
        while not self.found("]"):
            first = self.member()
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] != "]" and len(first.example) == 1:
                self.take()
                parts.append(between(first.example, self.member().example))
            else:
                parts.append(first)
        if not parts:
            raise self.refuse("an empty class")
        return other_than(anyone(parts)) if negated else Character(anyone(parts), parts[0].example)

    def member(self) -> Character:
        one = self.take()
        return self.escaped() if one == "\\" else literal(one)


def literal(one: str) -> Character:
    """Return a node for a single character."""
    return Character(lambda other: other == one, one)


def between(first: str, last: str) -> Character:
    """Return a node for a range of characters."""
    if first > last:
        raise NotSimple("its pattern has a range whose end is before its start")
    return Character(lambda other: first <= other <= last, first)


def anyone(parts: Sequence[Character]) -> Callable[[str], bool]:
    """Return a test for a character that one of these accepts."""
    return lambda other: any(part.accepts(other) for part in parts)


def other_than(refused: Callable[[str], bool]) -> Character:
    """Return a node for the characters that a test does not accept."""
    example = next((one for one in _PRINTABLE if not refused(one)), None)
    if example is None:
        raise NotSimple("its pattern has a class without a printable character")
    return Character(lambda other: not refused(other), example)


def _repeats(choice: Choice) -> bool:
    """Whether a part is repeated more than once by a count."""
    nodes: Iterable[Node] = (node for branch in choice.branches for node in branch)
    return any(
        max(node.least, node.most or 0) > 1 if isinstance(node, Repeat) else isinstance(node, Choice) and _repeats(node)
        for node in nodes
    )
