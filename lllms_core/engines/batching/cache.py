"""The KV cache of a batching model: what requests find in it, what stays there, what goes to the stored sessions."""

import logging
from collections.abc import Sequence
from time import perf_counter, thread_time, time
from typing import Protocol

from attrs import frozen

from lllms_core.engines.batching.plan import smooth
from lllms_core.engines.batching.sequences import Placement, SequenceTable, common_prefix
from lllms_core.engines.sessions import Resident, Session, SessionLink, State

LOG = logging.getLogger("lllms.sessions")

FADING = 0.95
"""What loading a state takes is trusted a little less each time that it keeps one from being loaded: else one bad
measurement would do so for ever."""


class Memory(Protocol):
    """What the cache asks of the model's own memory; see `BatchingModel`."""

    def trim(self, sequence: int, length: int) -> bool:
        """Keep only the first `length` tokens of a sequence."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the empty sequence `target` begin as `source` does."""

    def earliest_cut(self, sequence: int) -> int:
        """The least length that `trim` and `copy` can leave, unless it is none or all."""

    def state_size(self, sequence: int) -> int:
        """How many bytes `export_state` would return."""

    def export_state(self, sequence: int) -> State:
        """Copy what was evaluated of a sequence out of the memory."""

    def import_state(self, sequence: int, state: State) -> bool:
        """Fill an empty sequence; False, and it is empty still, if that cannot be done."""


@frozen
class Admission:
    """Where a request runs, and how many tokens of its prompt are there already."""

    sequence: int
    keep: int


class SequenceCache:
    """Sequences in a memory of `capacity` cells: places requests, and looks after what past ones left.

    With a `link`, what is dropped from the memory and would cost much to evaluate again goes to the stored sessions.
    """

    def __init__(
        self, memory: Memory, sequences: int, capacity: int, *, can_trim: bool, can_trim_imported: bool,
    ) -> None:
        self.table = SequenceTable(sequences, capacity, can_trim=can_trim)
        self.link: SessionLink | None = None
        self._memory = memory
        self._can_trim = can_trim
        self.whole = not (can_trim and can_trim_imported)
        """Whether a session can only be gone on with as it is."""
        self._used = [0.0] * sequences
        """When each last had to do with a request, in seconds since 1970."""
        self._stored = [0] * sequences
        """How many leading tokens of each sequence are known to be stored."""
        self._pinned: dict[int, Sequence[int]] = {}
        """What every conversation may begin with, by the sequences that hold it."""
        self._preload: Session | None = None
        """What every conversation may begin with, where it cannot be copied from a pinned sequence."""
        self._seconds_per_byte: float | None = None

    def known(self, prompt: Sequence[int]) -> int:
        """How many leading tokens of a prompt need no evaluation, without asking anybody."""
        self._note_floors()
        preloaded = 0 if self._preload is None else self._usable(self._preload, prompt)
        return max(self.table.longest_prefix(prompt), preloaded)

    def admit(
        self, prompt: Sequence[int], total: int, session: Session | None, token_seconds: float | None,
    ) -> Admission | None:
        """Place a prompt that grows to at most `total` tokens where most of it is; None while there is no room.

        `session` was found for it; it is used if that saves more than it costs, a token taking `token_seconds`.
        """
        self._note_floors()
        place = self.table.place(prompt, total)
        if place is None:
            return None
        offers = [one for one in (session, self._preload) if one is not None]
        best = max(offers, key=lambda one: self._usable(one, prompt), default=None)
        if best is not None and self._pays(best, self._usable(best, prompt) - place.keep, token_seconds):
            restored = self._restore(best, prompt, total)
            if restored is not None:
                return restored
            self._note_floors()
            place = self.table.place(prompt, total)
            if place is None:
                return None
        self._take(place, total)
        return Admission(place.target, place.keep)

    def admit_alone(self, total: int, *, hide: bool) -> Admission | None:
        """Place a request that uses nothing, nor leaves anything if it is to `hide`; None while there is no room."""
        place = self.table.place_afresh(0, total)
        if place is None:
            return None
        self._take(place, total)
        if hide:
            self.table.hide(place.target)
        return Admission(place.target, 0)

    def release(self, sequence: int) -> None:
        """The request in a sequence has ended; what it evaluated stays, unless it was to be alone."""
        if self.table.hidden(sequence):
            self._cut(sequence, 0)
        elif not self._can_trim:
            self._store(sequence)  # the next turn overwrites what an earlier one may be asked to go on from
        self.table.release(sequence)
        self._used[sequence] = time()

    def rewind(self, sequence: int, length: int) -> bool:
        """Take a sequence back to before a decode that was given up; False if only its beginning was possible."""
        # Parts of the decode that were done may have taken the place of what had left a sliding window meanwhile.
        if length >= self._memory.earliest_cut(sequence) and self._memory.trim(sequence, length):
            return True
        self._cut(sequence, 0)
        return False

    def move_out(self, most: int) -> None:
        """Leave at most so many cells to past conversations, the least recently used of them go first."""
        while self.table.idle_cells > most:
            self._drop(self.table.idle_sequences()[-1])

    def store_idle(self, seconds: float) -> None:
        """Have stored what no request is using, the most recently used first, as far as the time suffices."""
        end = perf_counter() + seconds
        for sequence in self.table.idle_sequences():
            if perf_counter() < end:
                self._store(sequence)

    def pin(self, sequence: int) -> None:
        """Keep what a request has just evaluated for all that begin so, however long nobody does."""
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
        """Tell what conversations there are, `sized` with the bytes of their states."""
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
        """Drop a conversation without storing it; one that a request is using, when that is released."""
        if self.table.busy(sequence):
            self.table.hide(sequence)
        else:
            self._cut(sequence, 0)

    # -- how it works -------------------------------------------------------------------------------------------------

    def _note_floors(self) -> None:
        """Look what each sequence can be cut to: any decode may have taken cells that had left a sliding window."""
        for sequence in range(len(self._stored)):
            if self.table.tokens(sequence):
                self.table.raise_floor(sequence, self._memory.earliest_cut(sequence))

    def _take(self, place: Placement, total: int) -> None:
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
        """Fill a sequence with a session; None if there is no room for all of it, or it cannot be."""
        place = self.table.place_afresh(len(session.tokens), total)
        if place is None:
            return None
        for sequence in (*place.evict, place.target):
            self._drop(sequence)
        started = thread_time()  # what other programs take meanwhile says nothing about the next time
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
        self.table.take(Placement(place.target, place.target, keep, ()), total)
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
        """Forget an idle sequence, once what is worth it is stored."""
        self._store(sequence)
        self._cut(sequence, 0)

    def _store(self, sequence: int, keep: int = 0) -> None:
        """Have a sequence stored if that is worth it; `keep` of its tokens stay in the memory anyway."""
        tokens = self.table.tokens(sequence)
        pinned = (common_prefix(tokens, line) for line in self._pinned.values())
        known = max([keep, self._stored[sequence], *pinned])
        if self.link is None or len(tokens) - known < self.link.min_tokens:
            return
        if self._memory.state_size(sequence) <= self.link.max_size:
            self.link.put(Session(list(tokens), self._memory.export_state(sequence)), whole=self.whole)
            self._stored[sequence] = len(tokens)

    def _cut(self, sequence: int, length: int) -> None:
        self._memory.trim(sequence, length)
        self.table.cut(sequence, length)
        self._stored[sequence] = min(self._stored[sequence], length)
