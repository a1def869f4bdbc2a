"""The KV cache of a batching model: prefix matches, what stays for later turns, what moves to the stored sessions."""

import logging
from collections.abc import Sequence
from time import perf_counter, thread_time, time
from typing import Protocol

from attrs import evolve, frozen

from lllms_core.engines.batching.plan import smooth
from lllms_core.engines.batching.sequences import SequencePlacement, SequenceTable, common_prefix
from lllms_core.engines.batching.stored import StoredPrefixes
from lllms_core.engines.session_link import Resident, Session, SessionLink, State
from lllms_core.types import Reuse

LOG = logging.getLogger("lllms.sessions")

FADING = 0.95
"""The measured cost of loading a state decays each time that it prevents a load: otherwise one bad measurement would
prevent them for ever."""
AROUND = 16
"""The tokens before and after the place where a prompt parts from what is cached, that are reported."""


class SequenceMemory(Protocol):
    """The memory of the model itself; see `TokenModel` and `Exports`."""

    def trim(self, sequence: int, length: int) -> bool:
        """Keep only the first `length` tokens of a sequence."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the empty sequence `target` begin as `source` does."""

    def earliest_cut(self, sequence: int) -> int:
        """The shortest prefix that `trim` and `copy` can leave, other than all or none."""

    def state_size(self, sequence: int) -> int:
        """The number of bytes that `export_state` would return."""

    def export_state(self, sequence: int) -> State:
        """Copy what was evaluated of a sequence out of the memory."""

    def import_state(self, sequence: int, state: State) -> bool:
        """Fill an empty sequence; False if that is impossible, and the sequence is still empty."""


@frozen
class Admission:
    """The sequence that a request runs in, and how many tokens of its prompt are there already."""

    sequence: int
    keep: int
    reuse: Reuse | None = None
    """How the prompt met what was here; None for a request that reuses nothing on purpose."""


class SequenceCache:
    """Sequences in a memory of `capacity` cells: places requests, and keeps past conversations for their next turn.

    With a `link`, conversations that are evicted, and would be costly to evaluate again, are stored.
    """

    def __init__(
        self, memory: SequenceMemory, sequences: int, capacity: int, *, can_trim: bool, can_trim_imported: bool,
    ) -> None:
        self.table = SequenceTable(sequences, capacity, can_trim=can_trim)
        self.link: SessionLink | None = None
        self._memory = memory
        self._can_trim = can_trim
        self.whole = not (can_trim and can_trim_imported)
        """Whether a session can only be resumed whole."""
        self._used = [0.0] * sequences
        """The last time that a request used each sequence, in seconds since 1970."""
        self._stored = [0] * sequences
        """The number of leading tokens of each sequence that are known to be stored."""
        self._others = StoredPrefixes()
        self._pinned: dict[int, Sequence[int]] = {}
        """Preloaded prefixes, by the sequences that hold them."""
        self._preload: Session | None = None
        """The preloaded prefix of a model that cannot copy it from a pinned sequence."""
        self._seconds_per_byte: float | None = None

    def known(self, prompt: Sequence[int]) -> int:
        """How many leading tokens of a prompt need no evaluation, without any lookup."""
        self._note_floors()
        preloaded = 0 if self._preload is None else self._usable(self._preload, prompt)
        return max(self.table.longest_prefix(prompt), preloaded)

    def admit(
        self, prompt: Sequence[int], total: int, session: Session | None, token_seconds: float | None,
    ) -> Admission | None:
        """Place a prompt that grows to at most `total` tokens where its longest prefix is; None while there is no room.

        `session` was found for it, and is loaded if that saves more time than it takes; evaluating a token takes
        `token_seconds`.
        """
        self._note_floors()
        place = self.table.place(prompt, total)
        if place is None:
            return None
        offers = [one for one in (session, self._preload) if one is not None]
        reuse = self._compare(prompt, place, offers)  # before anything here changes
        best = max(offers, key=lambda one: self._usable(one, prompt), default=None)
        if best is not None and self._pays(best, self._usable(best, prompt) - place.keep, token_seconds):
            restored = self._restore(best, prompt, total)
            if restored is not None:
                return evolve(restored, reuse=reuse)
            self._note_floors()
            place = self.table.place(prompt, total)
            if place is None:
                return None
        self._take(place, total)
        return Admission(place.target, place.keep, reuse)

    def admit_alone(self, total: int, *, hide: bool) -> Admission | None:
        """Place a request that reuses nothing and, with `hide`, leaves nothing; None while there is no room."""
        place = self.table.place_afresh(0, total)
        if place is None:
            return None
        self._take(place, total)
        if hide:
            self.table.hide(place.target)
        return Admission(place.target, 0)

    def release(self, sequence: int) -> None:
        """Note that the request in a sequence has ended; its tokens stay, unless the sequence is hidden."""
        if self.table.hidden(sequence):
            self._cut(sequence, 0)
        elif not self._can_trim:
            self._store(sequence)  # the next turn overwrites the state that an edited turn would resume from
        self.table.release(sequence)
        self._used[sequence] = time()

    def rewind(self, sequence: int, length: int) -> bool:
        """Undo an interrupted decode; False if the sequence had to be emptied."""
        # The finished part of the decode may have reused cells that had left a sliding window.
        if length >= self._memory.earliest_cut(sequence) and self._memory.trim(sequence, length):
            return True
        self._cut(sequence, 0)
        return False

    def move_out(self, most: int) -> None:
        """Evict past conversations, the least recently used first, until they fill at most this many cells."""
        while self.table.idle_cells > most:
            self._drop(self.table.idle_sequences()[-1])

    def move_stored_out(self, most: int) -> None:
        """Evict past conversations that come back whole, and of the others as `move_out` does.

        The others are those too short to be stored, and those that have grown little since they were.
        """
        for sequence in reversed(self.table.idle_sequences()):
            self._store(sequence)
            if self._stored[sequence] == len(self.table.tokens(sequence)):
                self._cut(sequence, 0)
        self.move_out(most)

    def store_idle(self, seconds: float) -> None:
        """Store idle conversations, the most recently used first, for about this many seconds."""
        end = perf_counter() + seconds
        for sequence in self.table.idle_sequences():
            if perf_counter() < end:
                self._store(sequence)

    def pin(self, sequence: int) -> None:
        """Keep the prefix that a request has just evaluated, for all conversations that begin with it."""
        tokens = list(self.table.tokens(sequence))
        if not self.whole:
            self._store(sequence)  # the next instance restores it
        if self._can_trim:
            self.table.pin(sequence)
            self._pinned[sequence] = tokens
        else:
            self._preload = Session(list(tokens), self._memory.export_state(sequence))
            self.table.release(sequence)

    def residents(self, *, sized: bool) -> list[Resident]:
        """List the conversations; if `sized`, with the bytes of their states."""
        return [
            Resident(
                sequence, list(tokens), time() if self.table.busy(sequence) else self._used[sequence],
                self._memory.state_size(sequence) if sized else None,
            )
            for sequence in range(len(self._stored))
            if (tokens := self.table.tokens(sequence)) and sequence not in self._pinned
            and not self.table.hidden(sequence)
        ]

    def forget(self, sequence: int) -> None:
        """Drop a conversation without storing it; if a request is using it, once that has ended."""
        self._others.clear()  # it may be among them
        if self.table.busy(sequence):
            self.table.hide(sequence)
        else:
            self._cut(sequence, 0)

    # -- how it works -------------------------------------------------------------------------------------------------

    def _note_floors(self) -> None:
        """Update the shortest reusable prefixes: any decode may have reused cells that had left a sliding window."""
        for sequence in range(len(self._stored)):
            if self.table.tokens(sequence):
                self.table.raise_floor(sequence, self._memory.earliest_cut(sequence))

    def _compare(self, prompt: Sequence[int], place: SequencePlacement, offers: Sequence[Session]) -> Reuse:
        """Find out where a prompt parts from the sequence, or the session, that shares most with it."""
        past, common = self.table.tokens(place.nearest), place.common
        for one in offers:
            shared = common_prefix(one.tokens, prompt)
            if shared > common:
                past, common = one.tokens, shared
        if common >= min(len(past), len(prompt) - 1):
            return Reuse(common, len(past))  # the prompt continues it, or is all of its beginning
        start = max(0, common - AROUND)
        end = common + AROUND
        return Reuse(common, len(past), start, tuple(prompt[start:end]), tuple(past[start:end]))

    def _take(self, place: SequencePlacement, total: int) -> None:
        for sequence in place.evict:
            self._store(sequence)
        if place.source != place.target:
            self._drop(place.target)
            self._memory.copy(place.source, place.target, place.keep)
            self._stored[place.target] = min(self._stored[place.source], place.keep)
        elif place.keep < len(self.table.tokens(place.target)):
            self._store(place.target, keep=place.keep)
            self._cut(place.target, place.keep)
        for sequence in place.evict:  # only now: one of them may be the source
            self._memory.trim(sequence, 0)
            self._stored[sequence] = 0
        self.table.take(place, total)

    def _restore(self, session: Session, prompt: Sequence[int], total: int) -> Admission | None:
        """Load a session into a sequence; None if it has no room, or does not load."""
        place = self.table.place_afresh(len(session.tokens), total)
        if place is None:
            return None
        for sequence in (*place.evict, place.target):
            self._drop(sequence)
        started = thread_time()  # the load of other programs says nothing about the next time
        if not self._memory.import_state(place.target, session.state):
            LOG.warning("a session of %d tokens could not be restored; its tokens are evaluated", len(session.tokens))
            return None
        self._seconds_per_byte = smooth(self._seconds_per_byte, (thread_time() - started) / len(session.state))
        self.table.extend(place.target, session.tokens)
        if self.whole:
            self.table.raise_floor(place.target, len(session.tokens))
        self._stored[place.target] = len(session.tokens)
        keep = self._usable(session, prompt)
        if keep < len(session.tokens):
            self._cut(place.target, keep)
        self.table.take(SequencePlacement(place.target, place.target, keep, ()), total)
        return Admission(place.target, keep)

    def _usable(self, session: Session, prompt: Sequence[int]) -> int:
        keep = min(common_prefix(session.tokens, prompt), len(prompt) - 1)
        return keep if not self.whole or keep == len(session.tokens) else 0

    def _pays(self, session: Session, saved: int, token_seconds: float | None) -> bool:
        if self.link is not None and session is not self._preload and saved < self.link.min_tokens:
            return False
        if token_seconds is None or self._seconds_per_byte is None:
            return saved > 0
        pays = saved * token_seconds > len(session.state) * self._seconds_per_byte
        if not pays:
            self._seconds_per_byte *= FADING
        return pays

    def _drop(self, sequence: int) -> None:
        """Empty an idle sequence, after storing it if that is worthwhile."""
        self._store(sequence)
        self._cut(sequence, 0)

    def _store(self, sequence: int, keep: int = 0) -> None:
        """Store a sequence if that is worthwhile; its first `keep` tokens stay in the memory anyway."""
        tokens = self.table.tokens(sequence)
        pinned = (common_prefix(tokens, line) for line in self._pinned.values())
        known = max([keep, self._stored[sequence], *pinned])
        if self.link is None or len(tokens) - known < self.link.min_tokens:
            return
        if not self.whole and len(tokens) - self._others.shared(tokens) < self.link.min_tokens:
            return  # as of conversations that have little but a long system prompt yet
        if self._memory.state_size(sequence) <= self.link.max_size:
            session = Session(list(tokens), self._memory.export_state(sequence))
            self.link.put(session, whole=self.whole)
            self._stored[sequence] = len(tokens)
            self._others.add(session.tokens)

    def _cut(self, sequence: int, length: int) -> None:
        self._memory.trim(sequence, length)
        self.table.cut(sequence, length)
        self._stored[sequence] = min(self._stored[sequence], length)
