from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.engines.batching.sequences import SequencePlacement, SequenceTable, common_prefix

SHORT = st.lists(st.integers(0, 2), max_size=12)


def put(table, prompt, total):
    """Place a prompt and record it as evaluated; returns its placement."""
    place = table.place(prompt, total)
    assert place is not None
    table.take(place, total)
    table.extend(place.target, prompt[place.keep :])
    return place


@given(SHORT, SHORT)
def test_common_prefix_is_what_zip_finds(a, b):
    """Bisection finds the same common prefix as a comparison token by token."""
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_prefix(a, b) == expected


def test_first_request_takes_an_empty_sequence():
    """With nothing to reuse, a request starts at the beginning of an unused sequence."""
    assert SequenceTable(2, 100).place([1, 2, 3], 10) == SequencePlacement(target=0, source=0, keep=0, evict=())


def test_continuation_stays_in_its_sequence():
    """A prompt that continues an idle sequence extends it in place, and copies nothing."""
    table = SequenceTable(3, 100)
    put(table, [1, 2, 3], 10)
    table.release(0)
    assert table.place([1, 2, 3, 4], 10) == SequencePlacement(target=0, source=0, keep=3, evict=())


def test_branch_is_copied_into_an_unused_sequence():
    """A prompt that branches off within an idle sequence gets a copy, so that the old end stays usable."""
    table = SequenceTable(3, 100)
    put(table, [1, 2, 3, 4], 10)
    table.release(0)
    assert table.place([1, 2, 9], 10) == SequencePlacement(target=1, source=0, keep=2, evict=())


def test_one_token_is_left_to_evaluate():
    """A prompt that is known completely still evaluates its last token, for the logits."""
    table = SequenceTable(2, 100)
    put(table, [1, 2, 3], 10)
    table.release(0)
    assert table.place([1, 2, 3], 10).keep == 2


def test_busy_sequences_share_their_prefix():
    """A request may copy from a running sequence."""
    table = SequenceTable(2, 100)
    put(table, [1, 2, 3], 10)
    assert table.place([1, 2, 4], 10) == SequencePlacement(target=1, source=0, keep=2, evict=())


def test_shared_cells_count_once():
    """A copied prefix takes no room until both sequences grow."""
    table = SequenceTable(3, 100)
    put(table, [1, 2, 3, 4], 10)
    put(table, [1, 2, 3, 9, 9], 10)
    assert table.held == 4 + 2
    table.extend(0, [5])
    table.extend(1, [5])
    assert table.held == 4 + 2 + 2


def test_cells_of_a_cut_sequence_stay_while_they_are_shared():
    """Cutting frees only the cells that no other sequence holds; what is written afterwards takes new ones."""
    table = SequenceTable(2, 100)
    put(table, [1, 2, 3, 4], 10)
    put(table, [1, 2, 3, 4, 5], 10)
    table.cut(0, 2)
    assert table.held == 5
    table.extend(0, [3, 4])
    assert table.held == 7


def test_no_room_means_wait():
    """A request gets no place while running ones may still need the room, or every sequence is running."""
    table = SequenceTable(2, 20)
    put(table, [1], 15)
    assert table.place([2], 6) is None
    assert table.place([2], 5) is not None
    put(table, [2], 5)
    assert table.place([3], 1) is None


def test_least_recently_used_is_evicted_first():
    """Idle sequences are evicted, the oldest first, and no more of them than needed."""
    table = SequenceTable(4, 30)
    for token in (1, 2, 3):
        put(table, [token] * 10, 10)
    for sequence in (1, 0, 2):
        table.release(sequence)
    assert table.place([7] * 5, 12).evict == (1, 0)
    assert table.place([7] * 5, 10).evict == (1,)


def test_evicting_the_source_keeps_what_was_copied():
    """A request may copy a prefix of a sequence whose rest must be evicted to make room."""
    table = SequenceTable(2, 12)
    put(table, [1] * 10, 10)
    table.release(0)
    place = table.place([1, 1, 1, 1, 2], 12)
    assert place == SequencePlacement(target=1, source=0, keep=4, evict=(0,))
    table.take(place, 12)
    assert list(table.tokens(1)) == [1, 1, 1, 1]
    assert table.held == 4


def test_recurrent_sequences_are_only_continued():
    """If nothing can be cut, an idle sequence can only be resumed whole."""
    table = SequenceTable(2, 100, can_trim=False)
    put(table, [1, 2, 3], 10)
    assert table.place([1, 2, 3, 4], 10).keep == 0
    table.release(0)
    assert table.place([1, 2, 3, 4], 10) == SequencePlacement(target=0, source=0, keep=3, evict=())
    assert table.place([1, 2, 3], 10).keep == 0


def test_idle_sequences_are_told_apart():
    """Idle sequences are listed, the latest first; running ones are not, and shared cells do not count."""
    table = SequenceTable(4, 100)
    put(table, [1, 2], 10)
    put(table, [3, 4], 10)
    put(table, [5, 6], 10)
    put(table, [3, 4, 5], 10)
    table.release(2)
    table.release(0)
    table.release(1)
    assert table.idle_sequences() == [1, 0, 2]
    assert table.idle_cells == 4
    assert table.held == 7


def test_hidden_sequence_is_used_by_nobody():
    """Nothing is shared with a hidden sequence."""
    table = SequenceTable(2, 100)
    put(table, [1, 2, 3], 10)
    table.hide(0)
    assert table.place([1, 2, 3, 4], 10) == SequencePlacement(target=1, source=1, keep=0, evict=())
    assert table.longest_prefix([1, 2, 3, 4]) == 0


def test_pinned_sequence_stays():
    """A pinned sequence can be copied from, makes no room for others, and takes no more than it holds."""
    table = SequenceTable(3, 10)
    put(table, [1, 2, 3], 10)
    table.pin(0)
    assert table.place([1, 2, 3, 4], 10) == SequencePlacement(target=1, source=0, keep=3, evict=())
    assert table.place([1, 2, 3, 4], 11) is None
    assert table.place([4], 8) is None
    assert table.idle_cells == 0


def test_place_for_a_session_has_room_for_all_of_it():
    """A restored session needs room for all its tokens, even if the request uses few of them."""
    table = SequenceTable(3, 20)
    put(table, [1] * 10, 10)
    assert table.place_afresh(10, 4) == SequencePlacement(target=1, source=1, keep=0, evict=())
    assert table.place_afresh(11, 4) is None
    table.release(0)
    assert table.place_afresh(11, 4) == SequencePlacement(target=1, source=1, keep=0, evict=(0,))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["put", "extend", "release", "cut"]), st.integers(0, 5), SHORT), max_size=40),
    st.integers(13, 40),
)
def test_cells_are_counted_as_if_one_by_one(actions, capacity):
    """The cells held are exactly those of a cache that keeps a set of sequences for each cell.

    Every admitted request has room to its end, whatever the others do.
    """
    table = SequenceTable(4, capacity)
    cells: list[list[object]] = [[] for _ in range(4)]
    totals = dict.fromkeys(range(4), 0)
    for action, number, tokens in actions:
        sequence = number % 4
        if action == "put" and tokens:
            place = table.place(tokens, len(tokens) + number)
            if place is None:
                continue
            cells[place.target] = cells[place.source][: place.keep]
            for evicted in place.evict:
                cells[evicted] = []
            table.take(place, len(tokens) + number)
            totals[place.target] = len(tokens) + number
            cells[place.target] += [object() for _ in tokens[place.keep :]]
            table.extend(place.target, tokens[place.keep :])
        elif action == "extend" and len(table.tokens(sequence)) < totals[sequence]:
            table.extend(sequence, [number])
            cells[sequence].append(object())
        elif action == "release" and totals[sequence]:
            table.release(sequence)
            totals[sequence] = 0
        elif action == "cut" and not totals[sequence]:
            table.cut(sequence, len(tokens))
            del cells[sequence][len(tokens) :]
        assert table.held == len({id(cell) for line in cells for cell in line})
        assert [len(table.tokens(i)) for i in range(4)] == [len(line) for line in cells]
        room = sum(totals[i] - len(cells[i]) for i in range(4) if totals[i])
        idle = {id(cell) for i, line in enumerate(cells) if not totals[i] for cell in line}
        busy = {id(cell) for i, line in enumerate(cells) if totals[i] for cell in line}
        assert len(busy | idle) + room <= capacity
