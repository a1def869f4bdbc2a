"""The sequences of the KV cache: which one a request gets, and the prefix that it can reuse; pure.

A sequence is a line of evaluated tokens in the KV cache. Those that run a request are busy; the others keep the tokens
of past requests, for the next turn of a conversation. Sequences may share cells of the cache: a copied prefix is stored
once.
"""

from collections.abc import Iterable, Sequence
from itertools import count

from attrs import Factory, define, field, frozen


@frozen
class SequencePlacement:
    """Where a request goes: copy the first `keep` tokens of `source` to `target`, unless they are the same."""

    target: int
    source: int
    keep: int
    evict: tuple[int, ...]
    """Sequences to empty after the copy, so that the request has room to its end."""
    nearest: int = field(default=0, eq=False)
    """The sequence that shares most with the prompt, even if it cannot be reused; for reports only."""
    common: int = field(default=0, eq=False)
    """The number of leading tokens that they share."""


@frozen
class _Stretch:
    """Tokens from `start` on, in cells that one sequence wrote; it ends where the next stretch of the line starts.

    Stretches of one `writer` share their cells, as far as both reach.
    """

    writer: int
    start: int


@frozen
class _Line:
    """Where the tokens of a sequence are stored."""

    stretches: tuple[_Stretch, ...] = ()
    length: int = 0

    def head(self, length: int) -> "_Line":
        """The line of the first `length` tokens."""
        return _Line(tuple(s for s in self.stretches if s.start < length), length)


@define
class _Sequence:
    tokens: list[int] = Factory(list)
    stretches: tuple[_Stretch, ...] = ()
    writes: bool = False
    """Whether the next tokens belong to the last stretch: no other sequence can have written after it."""
    reserved: int = 0
    """The number of tokens that the request in it may hold at its end; 0 without a request."""
    used: int = 0
    hidden: bool = False
    """Whether no other request may reuse its tokens."""
    floor: int = 0
    """The shortest prefix it can be resumed from (other than all or none of it)."""

    @property
    def line(self) -> _Line:
        return _Line(self.stretches, len(self.tokens))


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens are equal; halves the range each time, so that the comparing is done in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class SequenceTable:
    """The evaluated tokens of every sequence, and the room that is reserved for the busy ones.

    There are `sequences` of them, in a KV cache of `capacity` tokens. Without `can_trim` (recurrent models) a sequence
    can be continued, but not shortened.
    """

    def __init__(self, sequences: int, capacity: int, *, can_trim: bool = True) -> None:
        self.capacity = capacity
        self._sequences = [_Sequence() for _ in range(sequences)]
        self._can_trim = can_trim
        self._writers = count()
        self._uses = count(1)

    def tokens(self, sequence: int) -> Sequence[int]:
        """The evaluated tokens of a sequence."""
        return self._sequences[sequence].tokens

    @property
    def held(self) -> int:
        """The number of used cells of the KV cache; a shared cell counts once."""
        return _cells(s.line for s in self._sequences)

    @property
    def idle_cells(self) -> int:
        """The number of cells that only idle sequences use."""
        return self.held - _cells(s.line for s in self._sequences if s.reserved)

    def idle_sequences(self) -> list[int]:
        """The sequences that hold tokens and run nothing, the most recently used first."""
        idle = [i for i, s in enumerate(self._sequences) if s.tokens and not s.reserved]
        return sorted(idle, key=lambda i: -self._sequences[i].used)

    def longest_prefix(self, prompt: Sequence[int]) -> int:
        """The number of leading tokens of a prompt that are evaluated already."""
        idle = [i for i, s in enumerate(self._sequences) if not s.reserved]
        return self._longest_prefix(prompt, idle)[1] if idle else 0

    def place(self, prompt: Sequence[int], total: int) -> SequencePlacement | None:
        """Find the best place for a prompt that grows to at most `total` tokens; None while there is no room.

        At least one token of the prompt is left to evaluate: its logits are needed.
        """
        idle = [i for i, s in enumerate(self._sequences) if not s.reserved]
        if not idle:
            return None
        source, keep, nearest, common = self._longest_prefix(prompt, idle)
        continues = source in idle and keep == len(self._sequences[source].tokens)
        target = source if continues else self._oldest(idle)
        evict = self._evictions(target, self._sequences[source].line.head(keep), total - keep, idle)
        return None if evict is None else SequencePlacement(
            target, source if keep else target, keep, evict, nearest, common,
        )

    def place_afresh(self, length: int, total: int) -> SequencePlacement | None:
        """Find a place that is emptied, with room for `length` tokens from elsewhere that are cut and grow to `total`.

        None while there is no room.
        """
        idle = [i for i, s in enumerate(self._sequences) if not s.reserved]
        if not idle:
            return None
        target = self._oldest(idle)
        evict = self._evictions(target, _Line(), max(length, total), idle)
        return None if evict is None else SequencePlacement(target, target, 0, evict)

    def take(self, placement: SequencePlacement, total: int) -> None:
        """Make the target busy, holding the first `keep` tokens of the source, with room for `total`."""
        source, target = self._sequences[placement.source], self._sequences[placement.target]
        if source is not target:
            target.tokens = source.tokens[: placement.keep]
            target.stretches = source.line.head(placement.keep).stretches
            target.writes = False
            target.floor = source.floor
        else:
            self.cut(placement.target, placement.keep)
        target.reserved = total
        source.used = target.used = next(self._uses)
        for sequence in placement.evict:
            self.cut(sequence, 0)

    def extend(self, sequence: int, tokens: Sequence[int]) -> None:
        """Note that these tokens were evaluated."""
        entry = self._sequences[sequence]
        if not entry.writes:
            entry.stretches += (_Stretch(next(self._writers), len(entry.tokens)),)
            entry.writes = True
        entry.tokens.extend(tokens)

    def raise_floor(self, sequence: int, length: int) -> None:
        """Mark prefixes shorter than `length` as unusable, until the sequence is emptied."""
        entry = self._sequences[sequence]
        entry.floor = max(entry.floor, length)

    def cut(self, sequence: int, length: int) -> None:
        """Note that only the first `length` tokens are left."""
        entry = self._sequences[sequence]
        if length < len(entry.tokens):
            del entry.tokens[length:]
            entry.floor = entry.floor if length else 0
            entry.stretches = entry.line.head(length).stretches
            entry.writes = False

    def release(self, sequence: int) -> None:
        """Note that the request has ended; its tokens stay for the next turn."""
        entry = self._sequences[sequence]
        entry.reserved = 0
        entry.hidden = False
        entry.used = next(self._uses)

    def hide(self, sequence: int) -> None:
        """Let no request reuse the tokens of a busy sequence, until it is released."""
        self._sequences[sequence].hidden = True

    def busy(self, sequence: int) -> bool:
        """Whether a request runs in the sequence, or it is pinned."""
        return self._sequences[sequence].reserved > 0

    def hidden(self, sequence: int) -> bool:
        """Whether no request may reuse the tokens of the sequence."""
        return self._sequences[sequence].hidden

    def pin(self, sequence: int) -> None:
        """Keep the tokens of a busy sequence: no request runs in it, all may copy from it, and it is never evicted."""
        entry = self._sequences[sequence]
        entry.reserved = len(entry.tokens)

    def _longest_prefix(self, prompt: Sequence[int], idle: Sequence[int]) -> tuple[int, int, int, int]:
        """The sequence with the longest usable prefix, preferring one that the prompt continues; and that length.

        Then the sequence that shares most with the prompt, usable or not; and how much.
        """
        best, best_rank, best_keep = idle[0], (0, False, 0), 0
        nearest, most = idle[0], (-1, 0, 0)
        for i, entry in enumerate(self._sequences):
            common = 0 if entry.hidden else common_prefix(entry.tokens, prompt)
            if not entry.hidden and (common, len(entry.tokens) > 0, entry.used) > most:
                nearest, most = i, (common, len(entry.tokens) > 0, entry.used)
            keep = min(common, len(prompt) - 1)
            if not self._can_trim and (keep < len(entry.tokens) or entry.reserved):
                keep = 0
            if keep < min(entry.floor, len(entry.tokens)):
                keep = 0
            rank = (keep, keep == len(entry.tokens) and not entry.reserved, entry.used)
            if keep and rank > best_rank:
                best, best_rank, best_keep = i, rank, keep
        return best, best_keep, nearest, max(0, most[0])

    def _oldest(self, idle: Sequence[int]) -> int:
        return min(idle, key=lambda i: (bool(self._sequences[i].tokens), self._sequences[i].used))

    def _evictions(self, target: int, line: _Line, more: int, idle: Sequence[int]) -> tuple[int, ...] | None:
        """The idle sequences to evict so that `target` can hold `line` and `more` tokens, least recently used first.

        None if that would not be enough.
        """
        promised = sum(s.reserved - len(s.tokens) for s in self._sequences if s.reserved) + more
        held = {i: s.line for i, s in enumerate(self._sequences) if i != target}
        held[target] = line
        evict = []
        candidates = sorted((i for i in idle if i != target and held[i].length), key=lambda i: self._sequences[i].used)
        while _cells(held.values()) + promised > self.capacity:
            if not candidates:
                return None
            evict.append(candidates.pop(0))
            held[evict[-1]] = _Line()
        return tuple(evict)


def _cells(lines: Iterable[_Line]) -> int:
    """The number of cells that these lines fill."""
    reach: dict[_Stretch, int] = {}
    for line in lines:
        ends = (*(stretch.start for stretch in line.stretches[1:]), line.length)
        for stretch, end in zip(line.stretches, ends, strict=False):
            reach[stretch] = max(end, reach.get(stretch, 0))
    return sum(end - stretch.start for stretch, end in reach.items())
